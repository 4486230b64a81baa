//! Whose fault an error answer of an upstream is. What is about our credential must not reach the client: SDKs
//! would tell it that *its* key is wrong, and such messages repeat part of ours (docs/wire.md, section 3).

use http::StatusCode;

use crate::config::{ErrorRule, Fault};

/// Whose fault an error answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's here: the answer is for the client, whatever it says. Others would say the same.
    Request,
    /// Our credential's, or its account's: the client has nothing to do with it.
    Credential,
    /// Our credential asked too often.
    RateLimit,
    /// The upstream's.
    Upstream,
}

/// Whether the answer has to be read before it is known whose fault it is.
pub fn depends_on_code(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 401..=403 | 429) || rules.iter().any(|rule| rule.status == status.as_u16())
}

/// Whether it matters so much that it is worth waiting for, among those for which it [`depends_on_code`].
pub fn code_matters(status: StatusCode, rules: &[ErrorRule]) -> bool {
    status == StatusCode::FORBIDDEN || rules.iter().any(|rule| rule.status == status.as_u16())
}

/// Whether the answer says that there is nothing at the URL, if it is none of an API: who has an endpoint words its errors in
/// JSON, and who has not shows a page, or nothing.
pub fn is_about_the_url(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 404 | 405 | 501) && rules.iter().all(|rule| rule.status != status.as_u16())
}

/// Whose fault it is, by status and `error.code`. The upstream's own rules come first.
///
/// The built-in table: 401 and 402 are about our credential or its balance. So is 403, unless its code speaks of a
/// model, a region or a policy, which are about the request; and 429, if its code speaks of money that is spent. Ace
/// Data Cloud fits it as it is: 401 `invalid_token` and 403 (balance) are ours; 400 `token_mismatched` is, by its page,
/// about parameters.
pub fn blame(status: StatusCode, code: Option<&str>, rules: &[ErrorRule]) -> Blame {
    let rule = rules
        .iter()
        .find(|rule| rule.status == status.as_u16() && rule.code.as_deref().is_none_or(|wanted| Some(wanted) == code));
    if let Some(rule) = rule {
        return match rule.fault {
            Fault::Credential => Blame::Credential,
            Fault::Request => Blame::Request,
        };
    }
    match status.as_u16() {
        401 | 402 => Blame::Credential,
        403 if code.is_some_and(about_the_request) => Blame::Request,
        403 => Blame::Credential,
        429 if code.is_some_and(about_money) => Blame::Credential,
        429 => Blame::RateLimit,
        408 | 500.. => Blame::Upstream,
        _ => Blame::Request,
    }
}

/// Not every `quota`: some providers call so what is used up for a minute.
fn about_money(code: &str) -> bool {
    matches!(
        code,
        "insufficient_quota"
            | "credit_balance_exhausted"
            | "insufficient_user_quota"
            | "insufficient_balance"
            | "billing_hard_limit_reached"
    )
}

fn about_the_request(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    // `unsupported_country_region_territory` is OpenAI's own word for a region.
    ["model", "region", "country", "policy"].iter().any(|word| code.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: Option<&str>) -> Blame {
        blame(StatusCode::from_u16(status).unwrap(), code, &[])
    }

    #[test]
    fn the_built_in_table() {
        for (status, code, fault) in [
            (401, None, Blame::Credential),
            (401, Some("invalid_api_key"), Blame::Credential),
            (401, Some("model_not_found"), Blame::Credential),
            (402, Some("insufficient_balance"), Blame::Credential),
            (403, None, Blame::Credential),
            (403, Some("insufficient_user_quota"), Blame::Credential),
            (403, Some("model_not_found"), Blame::Request),
            (403, Some("Model_Access_Denied"), Blame::Request),
            (403, Some("unsupported_country_region_territory"), Blame::Request),
            (403, Some("content_policy_violation"), Blame::Request),
            (400, Some("invalid_api_key"), Blame::Request),
            (404, Some("model_not_found"), Blame::Request),
            (429, None, Blame::RateLimit),
            (429, Some("rate_limit_exceeded"), Blame::RateLimit),
            (429, Some("insufficient_quota"), Blame::Credential),
            (408, None, Blame::Upstream),
            (500, None, Blame::Upstream),
            (503, Some("server_is_overloaded"), Blame::Upstream),
        ] {
            assert_eq!(of(status, code), fault, "{status} {code:?}");
        }
    }

    #[test]
    fn ace_data_cloud_by_its_page() {
        for (status, code, fault) in [
            (400, "token_mismatched", Blame::Request),
            (401, "invalid_token", Blame::Credential),
            (403, "used_up", Blame::Credential),
            (429, "too_many_requests", Blame::RateLimit),
            (500, "api_error", Blame::Upstream),
        ] {
            assert_eq!(of(status, Some(code)), fault, "{status} {code}");
        }
    }

    #[test]
    fn rules_of_the_upstream_come_first() {
        let rules = [
            ErrorRule { status: 400, code: Some("token_mismatched".into()), fault: Fault::Credential },
            ErrorRule { status: 403, code: None, fault: Fault::Request },
        ];
        let of = |status, code| blame(StatusCode::from_u16(status).unwrap(), code, &rules);
        assert_eq!(of(400, Some("token_mismatched")), Blame::Credential);
        assert_eq!(of(400, Some("other")), Blame::Request);
        assert_eq!(of(403, Some("used_up")), Blame::Request);
        assert!(depends_on_code(StatusCode::BAD_REQUEST, &rules));
        assert!(!depends_on_code(StatusCode::BAD_REQUEST, &[]));
    }
}
