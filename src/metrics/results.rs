//! Fixed names of the results of attempts.

use crate::domain::{outcome::AttemptResult, problem::Problem};

/// All results of attempts: label `result`.
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

/// The name of a result: one of [`RESULTS`].
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
