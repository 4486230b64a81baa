//! State that several threads change at once: counters and faults that one part writes and metrics and `/readyz` show, the
//! memory budget of request bodies, sources of ids and of random numbers. Each is atomics or a queue, without I/O, and imports
//! only `domain`.

pub mod affinity_status;
pub mod alert_queue;
pub mod byte_budget;
pub mod key_status;
pub mod ledger_status;
pub mod random_source;
pub mod request_ids;
pub mod sharing_status;
