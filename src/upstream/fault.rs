//! Whose fault an error answer of an upstream is. What is about our credential must not reach the client: SDKs
//! would tell it that *its* key is wrong, and such messages repeat part of ours (docs/wire.md, section 3).

use http::StatusCode;

use crate::config::{ErrorRule, Fault};

/// Statuses whose answer has to be read before it is known what the client gets.
pub fn may_be_ours(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 401..=403) || rules.iter().any(|rule| rule.status == status.as_u16())
}

/// Whether the status alone tells whose fault it is, among those that [`may_be_ours`].
pub fn needs_no_code(status: StatusCode, rules: &[ErrorRule]) -> bool {
    matches!(status.as_u16(), 401 | 402) && rules.iter().all(|rule| rule.status != status.as_u16())
}

/// Whose fault it is, by status and `error.code`. The upstream's own rules come first.
///
/// The built-in table: 401 and 402 are about our credential or its balance. So is 403, unless its code speaks of a
/// model, a region or a policy, which are about the request. Ace Data Cloud fits it as it is: 401 `invalid_token`
/// and 403 (balance) are ours; 400 `token_mismatched` is, by its page, about parameters; 429 and 500 pass.
pub fn whose(status: StatusCode, code: Option<&str>, rules: &[ErrorRule]) -> Fault {
    let rule = rules
        .iter()
        .find(|rule| rule.status == status.as_u16() && rule.code.as_deref().is_none_or(|wanted| Some(wanted) == code));
    if let Some(rule) = rule {
        return rule.fault;
    }
    match status.as_u16() {
        401 | 402 => Fault::Credential,
        403 if code.is_some_and(about_the_request) => Fault::Request,
        403 => Fault::Credential,
        _ => Fault::Request,
    }
}

fn about_the_request(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    // `unsupported_country_region_territory` is OpenAI's own word for a region.
    ["model", "region", "country", "policy"].iter().any(|word| code.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: Option<&str>) -> Fault {
        whose(StatusCode::from_u16(status).unwrap(), code, &[])
    }

    #[test]
    fn the_built_in_table() {
        for (status, code, fault) in [
            (401, None, Fault::Credential),
            (401, Some("invalid_api_key"), Fault::Credential),
            (401, Some("model_not_found"), Fault::Credential),
            (402, Some("insufficient_balance"), Fault::Credential),
            (403, None, Fault::Credential),
            (403, Some("insufficient_user_quota"), Fault::Credential),
            (403, Some("model_not_found"), Fault::Request),
            (403, Some("Model_Access_Denied"), Fault::Request),
            (403, Some("unsupported_country_region_territory"), Fault::Request),
            (403, Some("content_policy_violation"), Fault::Request),
            (400, Some("invalid_api_key"), Fault::Request),
            (404, Some("model_not_found"), Fault::Request),
            (429, Some("insufficient_quota"), Fault::Request),
            (500, None, Fault::Request),
        ] {
            assert_eq!(of(status, code), fault, "{status} {code:?}");
        }
    }

    #[test]
    fn ace_data_cloud_by_its_page() {
        for (status, code, fault) in [
            (400, "token_mismatched", Fault::Request),
            (401, "invalid_token", Fault::Credential),
            (403, "used_up", Fault::Credential),
            (429, "too_many_requests", Fault::Request),
            (500, "api_error", Fault::Request),
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
        let of = |status, code| whose(StatusCode::from_u16(status).unwrap(), code, &rules);
        assert_eq!(of(400, Some("token_mismatched")), Fault::Credential);
        assert_eq!(of(400, Some("other")), Fault::Request);
        assert_eq!(of(403, Some("used_up")), Fault::Request);
        assert!(may_be_ours(StatusCode::BAD_REQUEST, &rules));
        assert!(!may_be_ours(StatusCode::BAD_REQUEST, &[]));
    }
}
