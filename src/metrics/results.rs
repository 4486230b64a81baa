//! What can come of an attempt, by name.

use crate::domain::{outcome::AttemptResult, problem::Problem};

/// What can come of an attempt: label `result`.
pub(super) const RESULTS: [&str; 11] = [
    "2xx",
    "3xx",
    "4xx",
    "429",
    "5xx",
    Problem::UpstreamUnreachable.name(),
    Problem::UpstreamDisconnected.name(),
    Problem::UpstreamTimeout.name(),
    Problem::UpstreamBadAnswer.name(),
    Problem::UpstreamAuth.name(),
    "abandoned",
];

pub(super) fn result_name(result: AttemptResult) -> &'static str {
    match result {
        AttemptResult::Status(status) if status.as_u16() == 429 => "429",
        AttemptResult::Status(status) => match status.as_u16() / 100 {
            2 => "2xx",
            4 => "4xx",
            5 => "5xx",
            _ => "3xx",
        },
        AttemptResult::Fault(problem) => problem.name(),
        AttemptResult::Abandoned => "abandoned",
    }
}
