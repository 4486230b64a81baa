use super::*;

fn body(message: &str, kind: &str, code: &str) -> ErrorBody {
    let some = |text: &str| (!text.is_empty()).then(|| Box::from(text));
    ErrorBody { code: some(code), kind: some(kind), message: message.to_owned() }
}

/// By the table and these rules, at an upstream that has no other settings.
fn judged(status: u16, body: &ErrorBody, rules: &[ErrorRule]) -> ErrorCause {
    let env = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-test-0123456789".into());
    let loaded = config::load(&config::Source::BuiltIn, &env).unwrap();
    let mut upstream = loaded.config.upstreams.into_iter().next().unwrap();
    upstream.error_rules = rules.to_vec();
    judge(StatusCode::from_u16(status).unwrap(), body, &upstream).error_cause
}

#[test]
fn built_in_codes_name_the_cause() {
    use ErrorCause::{Balance, Credential, Model, Payment, RateLimit, Request, Upstream};
    for (status, code, wanted) in [
        (401, "", Credential),
        (401, "anything", Credential),
        (401, "model_not_found", Model),
        (401, "insufficient_quota", Balance),
        (402, "", Payment),
        (402, "no_money", Payment),
        (402, "insufficient_balance", Balance),
        (403, "", Request),
        (403, "no_access", Request),
        (403, "permission-denied", Request),
        (403, "content_policy_violation", Request),
        (403, "unsupported_country_region_territory", Request),
        (403, "access_denied", Request),
        (403, "invalid_api_key", Credential),
        (403, "account_deactivated", Credential),
        (403, "key disabled", Credential),
        (403, "token_expired", Credential),
        (403, "insufficient_user_quota", Balance),
        (403, "pre_consume_token_quota_failed", Balance),
        (403, "used_up", Balance),
        (403, "model_not_found", Model),
        (403, "Model.AccessDenied", Model),
        (403, "Model_Access_Denied", Model),
        (400, "", Request),
        (400, "InvalidApiKey", Credential),
        (400, "API_KEY_INVALID", Credential),
        (400, "Invalid API key", Credential),
        (400, "Arrearage", Balance),
        // Of a text's token.
        (400, "invalid_token", Request),
        (400, "token_mismatched", Request),
        (400, "model_not_found", Model),
        (404, "", Request),
        (404, "invalid_api_key", Request),
        (404, "model_not_found", Model),
        (408, "", Upstream),
        (408, "model_not_found", Model),
        (405, "model_not_found", Model),
        (422, "model_not_found", Model),
        (451, "model_not_found", Model),
        (501, "model_not_found", Model),
        (504, "model_not_found", Model),
        (529, "get_channel_failed", Model),
        (500, "model_price_error", Model),
        (404, "DeploymentNotFound", Model),
        (400, "model_decommissioned", Model),
        (400, "model_error", Model),
        (400, "authentication_error", Credential),
        (403, "authentication_error", Credential),
        (401, "auth_error", Credential),
        (400, "disabled", Request),
        (403, "disabled", Credential),
        (422, "insufficient_quota", Request),
        (429, "", RateLimit),
        (429, "rate_limit_exceeded", RateLimit),
        (429, "invalid_api_key", RateLimit),
        (429, "insufficient_quota", Balance),
        (429, "credit_balance_exhausted", Balance),
        (500, "", Upstream),
        (500, "invalid_api_key", Upstream),
        (500, "ModelNotFound", Model),
        (503, "server_is_overloaded", Upstream),
        (503, "model_not_found", Model),
    ] {
        assert_eq!(judged(status, &body("m", "t", code), &[]), wanted, "{status} {code}");
        // The type counts as the code does.
        assert_eq!(judged(status, &body("m", code, "unknown"), &[]), wanted, "{status} {code} as its type");
    }
}

#[test]
fn built_in_sentences_name_the_cause() {
    use ErrorCause::{Balance, Credential, Model, Payment, RateLimit, Request, Upstream};
    for (status, message, wanted) in [
        (400, "API key not valid. Please pass a valid API key.", Credential),
        (400, "API Key not found. Please pass a valid API key.", Credential),
        (400, "Incorrect API key provided: xa***. You can obtain an API key from x.", Credential),
        (400, "Invalid API-key provided.", Credential),
        (400, "Your credit balance is too low to access the API.", Balance),
        (400, "Invalid token 50257 in logit_bias", Request),
        (403, "Invalid token count in your prompt", Request),
        (400, "Insufficient balance between the two classes in your data", Request),
        (400, "Insufficient quota of images: 3", Request),
        (400, "Invalid API key format in the code of your prompt", Request),
        (403, "余额不足以说明问题", Request),
        (403, "余额不足", Balance),
        (403, "余额不足请充值", Balance),
        (402, "Insufficient credits. Add more at x", Balance),
        (400, "The provided API key is invalid.", Credential),
        (400, "The API key provided is invalid", Credential),
        (400, "Wrong API Key", Credential),
        (400, "[401] Incorrect API key provided", Credential),
        (403, "Your API key was reported as leaked. Please use another API key.", Credential),
        (404, "No endpoints found for x.", Model),
        (400, "x is not a valid model ID", Model),
        (400, "/chat/completions: Invalid model name passed in model=x", Model),
        (403, "Unable to access model x", Model),
        (403, "Invalid token", Credential),
        (403, "无效的令牌 (request id: 2026)", Credential),
        (403, "该令牌状态不可用", Credential),
        (403, "用户额度不足, 剩余额度: 0", Balance),
        (403, "该令牌额度已用尽", Balance),
        (403, "预扣费额度失败, 用户剩余额度: 1", Balance),
        (403, "该令牌无权访问模型 gpt-5", Model),
        (403, "您的 IP 不在令牌允许访问的列表中", Request),
        (403, "You have no access to model x", Model),
        (402, "Insufficient Balance", Balance),
        (402, "This request requires more credits, or fewer max_tokens", Payment),
        (429, "余额不足，请充值", Balance),
        // Gemini words a limit of a minute so.
        (429, "You exceeded your current quota, please check your plan", RateLimit),
        (503, "分组 default 下模型 x 无可用渠道", Model),
        (503, "The model is overloaded", Upstream),
        (404, "The model `x` does not exist or you do not have access to it.", Model),
        (404, "Previous response with id 'resp_1' not found.", Request),
        // A repeated part of the client's request.
        (400, "'Incorrect API key provided' is not one of ['user']", Request),
        (403, "The prompt \"invalid token, 余额不足\" was flagged", Request),
        (404, "Incorrect API key provided", Request),
        (500, "Incorrect API key provided", Upstream),
        (403, "<html>Invalid API key</html>", Request),
    ] {
        assert_eq!(judged(status, &body(message, "", ""), &[]), wanted, "{status} {message}");
    }
}

#[test]
fn errors_of_ace_data_cloud_are_judged_as_its_page_says() {
    for (status, code, wanted) in [
        (400, "token_mismatched", ErrorCause::Request),
        (401, "invalid_token", ErrorCause::Credential),
        (403, "used_up", ErrorCause::Balance),
        (403, "balance", ErrorCause::Balance),
        (429, "too_many_requests", ErrorCause::RateLimit),
        (500, "api_error", ErrorCause::Upstream),
    ] {
        assert_eq!(judged(status, &body("m", "", code), &[]), wanted, "{status} {code}");
    }
}

fn rule(status: Option<u16>, code: Option<&str>, kind: Option<&str>, words: &[&str], fault: FaultOwner) -> ErrorRule {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    ErrorRule { status, code: code.map(Into::into), kind: kind.map(Into::into), words, fault }
}

#[test]
fn rules_of_an_upstream_come_first_and_match_only_if_every_condition_holds() {
    let rules = [
        rule(Some(400), Some("token_mismatched"), None, &[], FaultOwner::Credential),
        rule(Some(401), None, None, &["try later", "请稍后"], FaultOwner::Upstream),
        rule(None, Some("two words"), None, &[], FaultOwner::Balance),
        rule(None, None, Some("quota_error"), &["Daily"], FaultOwner::Balance),
        rule(Some(403), None, None, &[], FaultOwner::Model),
        rule(None, None, None, &["Incorrect API key"], FaultOwner::Request),
    ];
    for (status, message, kind, code, wanted) in [
        (400, "", "", "token_mismatched", ErrorCause::Credential),
        (400, "", "", "other", ErrorCause::Request),
        (401, "Please TRY LATER.", "", "", ErrorCause::Upstream),
        (401, "请稍后再试", "", "", ErrorCause::Upstream),
        (401, "no", "", "", ErrorCause::Credential),
        (418, "", "", "two words", ErrorCause::Balance),
        // A type stands in for a code that is missing.
        (418, "", "two words", "", ErrorCause::Balance),
        (429, "your daily share is used up", "quota_error", "x", ErrorCause::Balance),
        (429, "slow down", "quota_error", "x", ErrorCause::RateLimit),
        (403, "", "", "invalid_api_key", ErrorCause::Model),
        (400, "Incorrect api key provided", "", "", ErrorCause::Request),
    ] {
        assert_eq!(judged(status, &body(message, kind, code), &rules), wanted, "{status} {message} {kind} {code}");
    }
}

/// The blame of a whole body, as an upstream sends it.
fn blamed(status: u16, body: &str) -> ErrorCause {
    judged(status, &ErrorBody::read(body.as_bytes()), &[])
}

#[test]
fn a_missing_model_is_blamed_on_the_model_with_any_status() {
    let body = r#"{"error":{"code":"model_not_found","message":"No available channel for model nope"}}"#;
    let wording = r#"{"detail":"Model x not found"}"#;
    let (loaded, rest) = (
        config::load(&config::Source::BuiltIn, &|name: &str| {
            (name == "DMXAPI_API_KEY").then(|| "sk-test-0123456789".into())
        }),
        [405, 408, 409, 410, 422, 423, 424, 425, 429, 451, 499],
    );
    let upstream = loaded.unwrap().config.upstreams.into_iter().next().unwrap();
    let servers = [500, 501, 502, 503, 504, 520, 522, 524, 529, 530];
    for status in (400..=404).chain(rest).chain(servers) {
        assert_eq!(blamed(status, body), ErrorCause::Model, "{status}");
        assert_eq!(blamed(status, wording), ErrorCause::Model, "{status} in words");
        let code = StatusCode::from_u16(status).unwrap();
        assert!(depends_on_body(code), "{status}");
        assert!(judge(code, &ErrorBody::read(body.as_bytes()), &upstream).allows_failover, "{status}");
    }
}

#[test]
fn every_known_wording_of_a_missing_model_is_recognised() {
    for (status, body) in [
        (404, r#"{"error":{"message":"No endpoints found for x.","code":404}}"#),
        (400, r#"{"error":{"message":"x is not a valid model ID","code":400}}"#),
        (400, r#"{"error":{"message":"Invalid model name passed in model=x"}}"#),
        (404, r#"{"error":{"code":"DeploymentNotFound","message":"The API deployment does not exist."}}"#),
        (400, r#"{"error":{"code":"model_decommissioned","message":"m"}}"#),
        (404, r#"{"error":{"code":"model_deprecated","message":"m"}}"#),
        (400, r#"{"error":{"message":"The model `x` has been decommissioned"}}"#),
        (404, r#"{"message":"Unable to access model, please visit https://api.example/models"}"#),
        (503, r#"{"error":{"message":"m","code":"get_channel_failed"}}"#),
        (500, r#"{"error":{"message":"m","code":"model_price_error"}}"#),
        (404, r#"{"error":{"code":"InvalidEndpointOrModel.NotFound","message":"m"}}"#),
        (400, r#"{"errors":[{"code":"model_not_found"}]}"#),
        (404, r#"{"error":{"message":"models/x is not found for API version v1beta","status":"NOT_FOUND"}}"#),
    ] {
        assert_eq!(blamed(status, body), ErrorCause::Model, "{status} {body}");
    }
}

#[test]
fn errors_about_our_credential_are_recognised_in_every_shape() {
    for (status, body) in [
        (
            400,
            r#"{"error":{"code":400,"message":"Please renew.","details":[{"@type":"x","reason":"API_KEY_INVALID"}]}}"#,
        ),
        (403, r#"{"error":{"code":403,"message":"Your API key was reported as leaked. Please use another API key."}}"#),
        (400, r#"{"message":"The provided API key is invalid."}"#),
        (400, r#"{"error":{"message":"The API key provided is invalid"}}"#),
        (400, r#"{"error":{"message":"Wrong API Key"}}"#),
        (400, r#"{"error":{"message":"[401] Incorrect API key provided: sk-x"}}"#),
        (400, r#"{"error":{"message":"Error: API key not valid"}}"#),
        (400, r#"{"error_code":"InvalidApiKey","error_msg":"x"}"#),
        (400, r#"{"error":{"error_code":"InvalidApiKey","message":"x"}}"#),
        (400, r#"{"errors":[{"code":"invalid_api_key","message":"x"}]}"#),
        (400, r#"{"Error":{"Code":"InvalidApiKey"}}"#),
        (400, r#"{"status":"INVALID_API_KEY","message":"x"}"#),
        (400, r#"{"error":{"type":"authentication_error","message":"x"}}"#),
        (403, r#"{"error":{"type":"authentication_error","message":"x"}}"#),
    ] {
        assert_eq!(blamed(status, body), ErrorCause::Credential, "{status} {body}");
    }
}

#[test]
fn a_sentence_that_only_begins_like_an_account_error_is_blamed_on_the_request() {
    for (status, message) in [
        (403, "Invalid token count in your prompt"),
        (403, "Invalid tokens"),
        (403, "Invalid token: 50257 is not in the vocabulary"),
        (403, "Invalid access token_ids"),
        (403, "Invalid token 'x' in the template"),
        (403, "Invalid token or bracket in the template"),
        (400, "Insufficient balance between the two classes in your data"),
        (400, "Insufficient quota of images: your request has 4, and 3 may be"),
        (400, "Insufficient creditscore"),
        (400, "Invalid API key format in the schema of your tool"),
        (400, "Wrong API key in the example that you gave"),
        (400, "API keys expired is no valid title"),
        (400, "余额不足一词不得出现"),
        (400, "[x] Incorrect API key provided"),
    ] {
        assert_eq!(judged(status, &body(message, "", ""), &[]), ErrorCause::Request, "{status} {message}");
    }
    for (status, message, wanted) in [
        (403, "Invalid token.", ErrorCause::Credential),
        (403, "Invalid token (request id: 1)", ErrorCause::Credential),
        (400, "Insufficient balance, please recharge", ErrorCause::Balance),
        (400, "Insufficient quota!", ErrorCause::Balance),
        (403, "该令牌额度已用尽 !token.UnlimitedQuota", ErrorCause::Balance),
        (403, "用户额度不足，剩余额度: 0", ErrorCause::Balance),
    ] {
        assert_eq!(judged(status, &body(message, "", ""), &[]), wanted, "{status} {message}");
    }
}

#[test]
fn a_quoted_account_error_counts_only_without_other_words_around_it() {
    for (status, message, wanted) in [
        (400, "'API key not valid'. Please pass a valid API key.", ErrorCause::Credential),
        (400, "\"API key not valid. Please pass a valid API key.\"", ErrorCause::Credential),
        (400, "“Incorrect API key provided: sk-x”", ErrorCause::Credential),
        (400, "`Invalid API key`", ErrorCause::Credential),
        (400, "[401] 'Invalid API_KEY'!", ErrorCause::Credential),
        (400, "Error: \"Incorrect API key\". Please check your API-key and try again.", ErrorCause::Credential),
        (403, "「无效的令牌」", ErrorCause::Credential),
        (403, "'Invalid token' (request id: 2026)", ErrorCause::Credential),
        (400, "'Insufficient balance'. Please recharge.", ErrorCause::Balance),
        (403, "《余额不足》，请充值。", ErrorCause::Balance),
        // A part of the client's request, quoted by a validator.
        (400, "'API key not valid' is not one of ['a', 'b'] - 'messages.0.role'", ErrorCause::Request),
        (400, "'API key not valid'. Please pass a valid API key.' is not one of ['a', 'b']", ErrorCause::Request),
        (400, "'Incorrect API key': unexpected value", ErrorCause::Request),
        (400, "\"Invalid API key\" must be one of: a, b", ErrorCause::Request),
        (400, "'Invalid API key', 'b' are no tools", ErrorCause::Request),
        (400, "'Insufficient balance'. was found in your text", ErrorCause::Request),
        (400, "'Incorrect API key'. Please recharge (request id: 1) is no role (request id: 2)", ErrorCause::Request),
        (400, "'Incorrect API key", ErrorCause::Request),
        (400, "'Invalid API key format'", ErrorCause::Request),
        (403, "'Invalid token count'", ErrorCause::Request),
        (400, "「余额不足」一词不得出现", ErrorCause::Request),
    ] {
        assert_eq!(judged(status, &body(message, "", ""), &[]), wanted, "{status} {message}");
    }
}
