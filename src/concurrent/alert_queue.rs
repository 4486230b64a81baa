//! The queue of alerts that wait for delivery, and the counters of the delivery.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use crate::domain::alert::QueuedAlert;

/// Counters of the alerts that Tidegate delivered to the operator's webhook, could not deliver, or dropped.
#[derive(Debug, Default)]
pub struct AlertDeliveryStatus {
    /// Alerts that the receiver accepted.
    pub sent: AtomicU64,
    /// Failed deliveries of an alert, each of which may be repeated.
    pub failed: AtomicU64,
    /// Alerts that were not delivered: the queue was full, or the receiver failed for too long.
    pub dropped: AtomicU64,
}

/// The queue into which code puts an alert for the operator's webhook. Raising an alert never waits.
#[derive(Clone, Debug)]
pub struct Alerts {
    queue: mpsc::Sender<QueuedAlert>,
    status: Arc<AlertDeliveryStatus>,
}

impl Alerts {
    /// Makes a queue for at most `size` alerts. Returns the queue and its other end, from which the alerts are delivered.
    pub fn new(size: usize, status: Arc<AlertDeliveryStatus>) -> (Self, mpsc::Receiver<QueuedAlert>) {
        let (queue, receiver) = mpsc::channel(size);
        (Self { queue, status }, receiver)
    }

    /// Puts an alert into the queue. If the queue is full, counts the alert as dropped. Returns whether the alert is in the queue.
    pub fn raise(&self, queued: QueuedAlert) -> bool {
        let is_queued = self.queue.try_send(queued).is_ok();
        if !is_queued {
            self.status.dropped.fetch_add(1, Ordering::Relaxed);
        }
        is_queued
    }
}
