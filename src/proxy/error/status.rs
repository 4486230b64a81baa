//! How each error of Tidegate appears on the wire: its status, its type, and whether a retry may help.

use http::StatusCode;

use crate::domain::problem::Problem;

/// Returns the status of an error.
pub(in crate::proxy) fn status(problem: Problem) -> StatusCode {
    match problem {
        Problem::InvalidApiKey => StatusCode::UNAUTHORIZED,
        Problem::UnknownUrl | Problem::ModelNotFound | Problem::UnknownId | Problem::UnsupportedEndpoint => {
            StatusCode::NOT_FOUND
        }
        Problem::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Problem::WebsocketUnsupported => StatusCode::UPGRADE_REQUIRED,
        Problem::ModelRequired
        | Problem::InvalidModel
        | Problem::UnpricedModel
        | Problem::RepeatedHeader
        | Problem::PreviousResponseNotFound
        | Problem::ConflictingState
        | Problem::StateLost
        | Problem::TooManyReferences
        | Problem::InvalidJson
        | Problem::RepeatedField
        | Problem::InvalidQuery
        | Problem::InvalidEncoding
        | Problem::RequestAborted
        | Problem::InvalidFraming => StatusCode::BAD_REQUEST,
        Problem::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Problem::RequestTooLarge | Problem::UpstreamLimit => StatusCode::PAYLOAD_TOO_LARGE,
        Problem::UnsupportedMediaType | Problem::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Problem::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Problem::UpstreamUnreachable
        | Problem::UpstreamDisconnected
        | Problem::UpstreamAuth
        | Problem::UpstreamBadAnswer => StatusCode::BAD_GATEWAY,
        Problem::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        Problem::UpstreamBusy | Problem::GatewayOverloaded | Problem::StateUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Problem::LedgerUnavailable
        | Problem::LimitsUnavailable
        | Problem::KeysUnavailable
        | Problem::AffinityUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Problem::RequestLimit
        | Problem::TokenLimit
        | Problem::InFlightLimit
        | Problem::BudgetReserved
        | Problem::BudgetSpent => StatusCode::TOO_MANY_REQUESTS,
        Problem::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Returns `error.type`.
pub(in crate::proxy) fn kind(problem: Problem) -> &'static str {
    match problem {
        Problem::RequestLimit | Problem::InFlightLimit | Problem::BudgetReserved => "requests",
        Problem::TokenLimit => "tokens",
        Problem::BudgetSpent => "insufficient_quota",
        _ if status(problem).is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

/// Returns who caused the error: an upstream that is unreachable, rejects the credential or gives no API answer, else Tidegate.
pub(in crate::proxy) fn source(problem: Problem) -> &'static str {
    match problem {
        Problem::UpstreamUnreachable
        | Problem::UpstreamDisconnected
        | Problem::UpstreamTimeout
        | Problem::UpstreamAuth
        | Problem::UpstreamBadAnswer => UPSTREAM,
        _ => "gateway",
    }
}

/// Marks an upstream's error, also an error in the upstream's own words.
pub(in crate::proxy) const UPSTREAM: &str = "upstream";

/// Whether the same request may succeed a little later. For all other errors the answer forbids a retry, because SDKs would
/// retry in vain.
pub(in crate::proxy) fn is_retryable(problem: Problem) -> bool {
    matches!(
        problem,
        Problem::RequestTimeout
            | Problem::RequestAborted
            | Problem::UpstreamUnreachable
            | Problem::UpstreamDisconnected
            | Problem::UpstreamTimeout
            | Problem::UpstreamBadAnswer
            | Problem::UpstreamBusy
            | Problem::RequestLimit
            | Problem::TokenLimit
            | Problem::InFlightLimit
            | Problem::BudgetReserved
            | Problem::GatewayOverloaded
            | Problem::LedgerUnavailable
            | Problem::LimitsUnavailable
            | Problem::KeysUnavailable
            | Problem::StateUnavailable
            | Problem::AffinityUnavailable
            | Problem::Internal
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the table of docs/errors.md begins with for an error: its code, its status, its type, and whether to try again.
    fn row(problem: Problem) -> String {
        let retry = if is_retryable(problem) { "yes" } else { "no" };
        let status = status(problem).as_u16();
        format!("| `{}` | {status} | `{}` | {retry} |", problem.name(), kind(problem))
    }

    #[test]
    fn the_page_on_errors_has_each_of_ours_and_no_other() {
        let page = include_str!("../../../docs/errors.md");
        let table = page.split("\n## ").find(|section| section.starts_with("Codes\n")).unwrap();
        let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: BTreeSet<_> = Problem::ALL.into_iter().map(row).collect();
        let mut faults = Vec::new();
        for expected in &expected {
            if rows.iter().filter(|row| row.starts_with(expected)).count() != 1 {
                faults.push(format!("docs/errors.md needs one row that begins with {expected}"));
            }
        }
        for row in rows {
            if !expected.iter().any(|expected| row.starts_with(expected)) {
                faults.push(format!("docs/errors.md has a row for no error: {row}"));
            }
            // Code, status, type, retry, meaning, what to do.
            if row.split('|').map(str::trim).filter(|cell| !cell.is_empty()).count() != 6 {
                faults.push(format!("docs/errors.md: a row without its six cells: {row}"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
