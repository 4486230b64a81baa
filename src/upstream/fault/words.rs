//! The built-in table of error codes and sentences.
//!
//! Codes and types are compared as a whole, without letter case, spaces, `_`, `-` and `.`, because providers vary these. A
//! sentence about a key or money counts only at the beginning of the message. Messages repeat parts of requests, and a client
//! must not be able to write such a sentence into a message. A short sentence of the table (with a full stop at its end) must
//! also end there. "Invalid token" is about our key, "Invalid token count" is about the request. A sentence about the model may
//! be anywhere in the message, because it never counts against an account.

use crate::protocol::error_body::ErrorBody;

/// The credential is wrong, expired, disabled, or its account is closed.
const KEY_CODES: [&str; 16] = [
    "invalidapikey",
    "apikeyinvalid",
    "incorrectapikey",
    "invalidauthentication",
    "invalidauthenticationerror",
    "apikeydisabled",
    "apikeyexpired",
    "keydisabled",
    "keyexpired",
    "expiredapikey",
    "accountdeactivated",
    "accountdisabled",
    "accountsuspended",
    "organizationdisabled",
    // Anthropic sends this code with 401; other statuses, such as 400 or 403, may carry the code as well.
    "authenticationerror",
    // ModelVerse.
    "autherror",
];

/// The same for credentials that the provider calls tokens. In a 400 such a code may mean a token of the text, so a 400 does not
/// count.
const TOKEN_CODES: [&str; 5] = [
    "invalidtoken",
    "tokendisabled",
    "tokenexpired",
    "invalidkey",
    // Ace Data Cloud: the credential or its application is disabled.
    "disabled",
];

/// The account's money or quota is spent. Not every code with `quota` is here: some providers use that word for a limit per
/// minute.
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

/// The upstream does not have the model, or does not offer the model to our credential.
const MODEL_CODES: [&str; 24] = [
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
    // new-api.
    "getchannelfailed",
    "modelpriceerror",
    // Azure.
    "deploymentnotfound",
    "modeldecommissioned",
    "modeldeprecated",
    // ModelVerse: the credential has no permission for the model.
    "modelerror",
    "invalidendpointormodelnotfound",
];

const KEY_WORDS: [&str; 19] = [
    "incorrect api key.",
    "invalid api key.",
    "invalid apikey.",
    "wrong api key.",
    // Gemini.
    "api key not valid",
    "api key not found.",
    "api key expired",
    "api key is invalid.",
    "your api key is invalid.",
    "your api key was reported as leaked",
    "the provided api key is invalid.",
    "the api key provided is invalid.",
    "the api key you provided is invalid.",
    "the api key is invalid.",
    "your api key has been disabled",
    "your api key has expired",
    "this api key has been disabled",
    "this api key has expired",
    "this organization has been disabled",
];

const TOKEN_WORDS: [&str; 7] = [
    "invalid token.",
    "invalid access token.",
    // new-api and one-api.
    "无效的令牌.",
    "令牌无效.",
    "该令牌已过期",
    "该令牌状态不可用",
    "用户已被封禁",
];

const MONEY_WORDS: [&str; 21] = [
    "insufficient balance.",
    "insufficient quota.",
    "insufficient credits.",
    "insufficient account balance.",
    "insufficient user quota.",
    "quota exceeded for account",
    "your credit balance is too low",
    "your account is not active, please check your billing",
    "sorry, your account balance is insufficient",
    "user quota is not enough.",
    "token quota is not enough.",
    "token quota exhausted.",
    "余额不足.",
    "账户余额不足.",
    "账号余额不足.",
    "您的账户余额不足",
    "用户额度不足.",
    "额度不足.",
    "该令牌额度已用尽",
    "您的账户已欠费",
    "预扣费额度失败",
];

/// Words that may follow a short sentence on the same line. The end of the message or a punctuation mark may follow as well.
const CONTINUATIONS: [&str; 3] = ["please", "in your account", "请"];

/// The same for a sentence that names an API key. The text after "Invalid token:" or "Insufficient quota:" may be a part of the
/// request.
const CONTINUATIONS_OF_KEYS: [&str; 6] = ["provided", "supplied", "given", "or ", ":", "- "];

/// Each entry lists words that must all occur, in this order.
const MODEL_WORDS: [&[&str]; 22] = [
    &["model", "does not exist"],
    &["model", "not found"],
    &["model not exist"],
    &["no such model"],
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
    // OpenRouter.
    &["no endpoints found for"],
    &["is not a valid model"],
    // LiteLLM.
    &["invalid model name"],
    &["unable to access model"],
    &["model", "has been deprecated"],
    &["model", "has been decommissioned"],
    // Gemini.
    &["models/", "is not found"],
];

/// Whether the answer says that our credential is wrong.
pub(super) fn is_about_the_key(body: &ErrorBody) -> bool {
    has_code(body, &KEY_CODES) || begins(&body.message, &KEY_WORDS)
}

/// Whether the answer calls our credential a token, and says that the token is wrong.
pub(super) fn is_about_the_token(body: &ErrorBody) -> bool {
    has_code(body, &TOKEN_CODES) || begins(&body.message, &TOKEN_WORDS)
}

/// Whether the answer says that the account's money is spent.
pub(super) fn is_about_money(body: &ErrorBody) -> bool {
    has_code(body, &MONEY_CODES) || begins(&body.message, &MONEY_WORDS)
}

/// Whether the answer says that the model is missing.
pub(super) fn is_about_the_model(body: &ErrorBody) -> bool {
    if has_code(body, &MODEL_CODES) {
        return true;
    }
    // An HTML page is not a message about a model.
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
    let is_listed = |name: &Option<Box<str>>| {
        let plain = |name: &str| -> String {
            let letters = name.chars().filter(|c| !matches!(c, ' ' | '_' | '-' | '.'));
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        name.as_deref().filter(|name| name.len() <= 64).is_some_and(|name| table.contains(&&*plain(name)))
    };
    is_listed(&body.code) || is_listed(&body.kind)
}

/// Quotation marks in which a relay may repeat its provider's message.
const QUOTES: [(char, char); 9] = [
    ('\'', '\''),
    ('"', '"'),
    ('`', '`'),
    ('“', '”'),
    ('‘', '’'),
    ('«', '»'),
    ('「', '」'),
    ('『', '』'),
    ('《', '》'),
];

/// Texts that may follow a sentence in quotes. Validators quote a part of the request before their own words, as in "'Invalid API
/// key' is not one of …". That part may contain quotes too.
const AFTER_QUOTES: [&str; 11] = [
    "",
    "please pass a valid api key",
    "please provide a valid api key",
    "please use a valid api key",
    "please check your api key",
    "please check your api key and try again",
    "please try again",
    "please recharge",
    "please top up your account",
    "请检查",
    "请充值",
];

/// Removes the quotes around a sentence at the beginning of the message. Returns `None` where the message quotes the sentence
/// only to comment on it.
fn unquoted(message: &str) -> Option<&str> {
    let mut characters = message.chars();
    let first = characters.next();
    let Some((_, close)) = QUOTES.iter().find(|(open, _)| Some(*open) == first) else { return Some(message) };
    let (sentence, rest) = characters.as_str().split_once(*close)?;
    let is_mark = |c: char| c.is_whitespace() || ".,;:!。，；：！".contains(c);
    let rest = rest.trim_matches(is_mark).to_lowercase();
    // new-api appends the request id.
    let rest = match rest.split_once("(request id:") {
        Some((before, id)) if id.strip_suffix(')').is_some_and(|id| !id.contains(')')) => before.trim_matches(is_mark),
        _ => &*rest,
    };
    AFTER_QUOTES.contains(&&*plain_keys(rest)).then(|| sentence.trim())
}

/// Replaces every spelling of "API key" by one.
fn plain_keys(text: &str) -> String {
    text.replace("api-key", "api key").replace("api_key", "api key")
}

fn begins(message: &str, table: &[&str]) -> bool {
    let message = message.trim_start();
    // Some relays put the status before the sentence, as "[401] Incorrect API key provided".
    let message = message.strip_prefix("Error:").map_or(message, str::trim_start);
    let message = message.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(message, |(status, rest)| {
        if status.bytes().all(|byte| byte.is_ascii_digit()) { rest.trim_start() } else { message }
    });
    let Some(message) = unquoted(message) else { return false };
    // Every sentence of the table is shorter than 80 characters.
    let beginning: String = message.chars().take(80).collect();
    let beginning = plain_keys(&beginning.to_lowercase());
    table.iter().any(|words| match words.strip_suffix('.') {
        Some(short) => beginning.strip_prefix(short).is_some_and(|rest| ends(short, rest)),
        None => beginning.starts_with(words),
    })
}

/// Whether a short sentence of the table ends where `rest` begins.
fn ends(short: &str, rest: &str) -> bool {
    let next = rest.trim_start();
    let of_keys = if short.contains("key") { &CONTINUATIONS_OF_KEYS[..] } else { &[] };
    next.chars().next().is_none_or(|c| ".,;!(\n。，；！（".contains(c))
        || CONTINUATIONS.iter().chain(of_keys).any(|word| next.starts_with(word))
}
