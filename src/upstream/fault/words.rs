//! The built-in table of codes and words.
//!
//! A code or type is compared as a whole, without letter case, spaces, `_`, `-` and `.`: providers spell the same code in
//! all of these ways. A sentence about a key or money counts only at the beginning of the message: messages repeat parts of
//! requests, and a client must not be able to write such a sentence into one. A sentence about the model may stand
//! anywhere, as it never counts against anybody.

use crate::protocol::error_body::ErrorBody;

/// The credential is wrong, expired, disabled, or its account is closed.
const KEY_CODES: [&str; 15] = [
    "invalidapikey",
    "apikeyinvalid",
    "incorrectapikey",
    "invalidauthentication",
    "invalidauthenticationerror",
    "authenticationerror",
    "apikeydisabled",
    "apikeyexpired",
    "keydisabled",
    "keyexpired",
    "expiredapikey",
    "accountdeactivated",
    "accountdisabled",
    "accountsuspended",
    "organizationdisabled",
];

/// The same of a token, which of a 400 may mean a token of the text: only other statuses are meant.
const TOKEN_CODES: [&str; 4] = ["invalidtoken", "tokendisabled", "tokenexpired", "invalidkey"];

/// The account's money or quota is spent. Not every `quota`: some providers call so what is used up for a minute.
const MONEY_CODES: [&str; 20] = [
    "insufficientquota",
    "insufficientuserquota",
    "insufficientbalance",
    "insufficientcredits",
    "insufficientfunds",
    "preconsumetokenquotafailed",
    "tokenquotaexhausted",
    "creditbalanceexhausted",
    "creditbalancetoolow",
    "billinghardlimitreached",
    "billingnotactive",
    "balancenotenough",
    "quotanotenough",
    "exceededcurrentquotaerror",
    "accountoverdue",
    "accountoverdueerror",
    "arrearage",
    // Ace Data Cloud.
    "usedup",
    "balance",
    "accountarrears",
];

/// The upstream does not have the model, or not for us.
const MODEL_CODES: [&str; 23] = [
    "modelnotfound",
    "modelnotfounderror",
    "modelnotexist",
    "modeldoesnotexist",
    "modelnotavailable",
    "modelunavailable",
    "modelnotsupported",
    "modelnotallowed",
    "modelaccessdenied",
    "modelnotopen",
    "keymodelaccessdenied",
    "invalidmodel",
    "invalidmodelname",
    "unsupportedmodel",
    "unknownmodel",
    "nosuchmodel",
    "noavailablechannel",
    "deploymentnotfound",
    "modeldecommissioned",
    "modeldeprecated",
    "invalidendpointormodelnotfound",
    // new-api.
    "getchannelfailed",
    "modelpriceerror",
];

/// Sentences that are complete: a mark has to follow, or one of [`GIVEN`].
const KEY_WORDS: [&str; 11] = [
    "incorrect api key",
    "invalid api key",
    "invalid apikey",
    "wrong api key",
    // Gemini.
    "api key not valid",
    "api key not found",
    "api key expired",
    "api key is invalid",
    "the provided api key is invalid",
    "the api key provided is invalid",
    "this organization has been disabled",
];

/// What may follow a key in such a sentence, before the mark.
const GIVEN: [&str; 3] = [" provided", " given", " supplied"];

/// Beginnings that are certain, whatever follows.
const KEY_BEGINNINGS: [&str; 6] = [
    "your api key is invalid",
    "your api key has been disabled",
    "your api key has expired",
    // Gemini.
    "your api key was reported as leaked",
    "this api key has been disabled",
    "this api key has expired",
];

const TOKEN_WORDS: [&str; 7] = [
    "invalid token",
    "invalid access token",
    // new-api and one-api.
    "无效的令牌",
    "令牌无效",
    "该令牌已过期",
    "该令牌状态不可用",
    "用户已被封禁",
];

/// Sentences that are complete: a mark has to follow.
const MONEY_WORDS: [&str; 10] = [
    "insufficient balance",
    "insufficient quota",
    "insufficient credits",
    "insufficient account balance",
    "insufficient user quota",
    "user quota is not enough",
    "token quota is not enough",
    "token quota exhausted",
    "余额不足",
    "额度不足",
];

/// Beginnings that are certain, whatever follows.
const MONEY_BEGINNINGS: [&str; 11] = [
    "quota exceeded for account",
    "your credit balance is too low",
    "your account is not active, please check your billing",
    "sorry, your account balance is insufficient",
    "账户余额不足",
    "账号余额不足",
    "您的账户余额不足",
    "用户额度不足",
    "该令牌额度已用尽",
    "您的账户已欠费",
    "预扣费额度失败",
];

/// Each is a list of words that must all be there, in this order.
const MODEL_WORDS: [&[&str]; 22] = [
    &["model", "does not exist"],
    &["model", "not found"],
    &["model not exist"],
    &["no such model"],
    &["models/", "is not found"],
    &["no endpoints found for"],
    &["is not a valid model id"],
    &["invalid model name"],
    &["unable to access model"],
    &["model", "has been decommissioned"],
    &["model", "has been deprecated"],
    &["unknown model"],
    &["no available channel"],
    &["no access to model"],
    &["not have access to", "model"],
    &["not have access to this model"],
    &["not allowed to access model"],
    &["无可用渠道"],
    &["无权访问", "模型"],
    &["无权使用", "模型"],
    &["模型不存在"],
    &["模型", "不存在"],
];

/// Whether the answer says that our key is wrong.
pub(super) fn is_about_the_key(body: &ErrorBody) -> bool {
    has_code(body, &KEY_CODES) || says(&body.message, &KEY_WORDS, &GIVEN) || begins(&body.message, &KEY_BEGINNINGS)
}

/// Whether the answer calls our key a token, and says that the token is wrong.
pub(super) fn is_about_the_token(body: &ErrorBody) -> bool {
    has_code(body, &TOKEN_CODES) || says(&body.message, &TOKEN_WORDS, &[])
}

/// Whether the answer says that the account's money is spent.
pub(super) fn is_about_money(body: &ErrorBody) -> bool {
    has_code(body, &MONEY_CODES) || says(&body.message, &MONEY_WORDS, &[]) || begins(&body.message, &MONEY_BEGINNINGS)
}

/// Whether the answer says that the model is not there.
pub(super) fn is_about_the_model(body: &ErrorBody) -> bool {
    if has_code(body, &MODEL_CODES) {
        return true;
    }
    // A page of a web server is no sentence about a model.
    if body.message.is_empty() || body.message.starts_with('<') {
        return false;
    }
    let message = body.message.to_lowercase();
    let in_order = |words: &[&str]| {
        let mut rest = &*message;
        words.iter().all(|word| rest.split_once(word).map(|(_, behind)| rest = behind).is_some())
    };
    MODEL_WORDS.iter().any(|words| in_order(words))
}

fn has_code(body: &ErrorBody, table: &[&str]) -> bool {
    let is_listed = |name: &str| {
        let letters = name.chars().filter(|c| !matches!(c, ' ' | '_' | '-' | '.'));
        let plain: String = letters.map(|c| c.to_ascii_lowercase()).collect();
        table.contains(&&*plain)
    };
    body.names().filter(|name| name.len() <= 64).any(is_listed)
}

/// Whether the message begins with one of the sentences, complete: the end or a mark follows, after one of `given` where
/// there is one. A colon is such a mark only after a key: what follows one names a part of the request otherwise.
fn says(message: &str, table: &[&str], given: &[&str]) -> bool {
    let beginning = beginning(message);
    table.iter().any(|words| {
        beginning.strip_prefix(words).is_some_and(|rest| {
            let rest = given.iter().find_map(|given| rest.strip_prefix(given)).unwrap_or(rest).trim_start();
            let is_mark = |c| ".,;!(。，；！（".contains(c) || (c == ':' && !given.is_empty());
            rest.chars().next().is_none_or(is_mark)
        })
    })
}

fn begins(message: &str, table: &[&str]) -> bool {
    let beginning = beginning(message);
    table.iter().any(|words| beginning.starts_with(words))
}

/// The beginning of a message in lower case, without a status in brackets and without "error:".
fn beginning(message: &str) -> String {
    // The longest sentence of the tables is shorter than this.
    let text: String = message.trim_start().chars().take(100).collect();
    let text = text.to_lowercase().replace("api-key", "api key").replace("api_key", "api key");
    let is_status = |inside: &str| inside.len() == 3 && inside.bytes().all(|byte| byte.is_ascii_digit());
    let in_brackets = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let rest = in_brackets.filter(|(inside, _)| is_status(inside)).map_or(&*text, |(_, rest)| rest).trim_start();
    rest.strip_prefix("error:").unwrap_or(rest).trim_start().to_owned()
}
