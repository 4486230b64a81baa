//! `simulate: …`: faults and odd behaviour on demand.
//!
//! invented: no provider has directives. They are in `metadata.simulate`, or on a separate line of the last user text,
//! because a person with Codex or curl can change nothing else.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use super::fault::{self, SimulatedError};

/// How a stream ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum StreamEnd {
    #[default]
    Completed,
    /// `response.failed` with this code.
    Failed(String),
    /// `response.incomplete` for this reason.
    Incomplete(String),
    /// A flat `error` event with this code.
    ErrorEvent(String),
    /// `response.done` in place of `response.completed`.
    DoneOnly,
    /// A normal end of the body without a terminal event.
    NoTerminal,
}

/// All directives of a request. The default changes nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Directive {
    pub(super) error: Option<SimulatedError>,
    pub(super) html: Option<StatusCode>,
    pub(super) redirect: bool,
    pub(super) cut_head: bool,
    pub(super) head_delay: Option<Duration>,
    pub(super) end: StreamEnd,
    pub(super) cut: bool,
    pub(super) short_length: bool,
    pub(super) stall: Option<Duration>,
    /// The number of events before `cut` and `stall` take effect.
    pub(super) at: Option<u64>,
    pub(super) delay: Option<Duration>,
    pub(super) words: Option<usize>,
    pub(super) line_mib: Option<usize>,
    /// The function to call. An empty name means the first one.
    pub(super) call: Option<String>,
    /// The arguments of the call, instead of generated ones.
    pub(super) arguments: Option<String>,
    /// The number of the poll at which a background response is done.
    pub(super) polls: Option<u64>,
    /// How many identical requests meet the faults. Later ones do not.
    pub(super) times: Option<u64>,
    pub(super) cached: Option<u64>,
    pub(super) crlf: bool,
    pub(super) bom: bool,
    pub(super) comments: bool,
    pub(super) no_last_blank_line: bool,
}

/// Every directive with its values: for the error about an unknown one, and for the test of the documentation.
pub(super) const KNOWN: [(&str, &str); 28] = [
    ("error", "=STATUS or NAME"),
    ("retry-after", "=SECONDS"),
    ("html", "=STATUS"),
    ("redirect", ""),
    ("cut-head", ""),
    ("head-delay", "=MS"),
    ("failed", "[=CODE]"),
    ("incomplete", "[=REASON]"),
    ("error-event", "[=CODE]"),
    ("done-only", ""),
    ("no-terminal", ""),
    ("cut", ""),
    ("short-length", ""),
    ("stall", "=SECONDS"),
    ("at", "=EVENTS"),
    ("delay", "=MS"),
    ("tokens", "=N"),
    ("words", "=N"),
    ("line", "=MIB"),
    ("call", "[=FUNCTION]"),
    ("arguments", "=JSON"),
    ("polls", "=N"),
    ("times", "=N"),
    ("cached", "=N"),
    ("crlf", ""),
    ("bom", ""),
    ("comments", ""),
    ("no-last-blank-line", ""),
];

/// The longest answer in words, and the longest line in MiB. They bound the memory that one request can make the
/// simulator use.
const MAX_WORDS: u64 = 1_000_000;
const MAX_LINE_MIB: u64 = 64;
/// The longest wait is a day. The limit keeps sums of times in range.
const MAX_SECONDS: u64 = 86_400;

impl Directive {
    /// Reads directives separated by spaces.
    pub(super) fn parse(text: &str) -> Result<Self, SimulatedError> {
        let (mut directive, mut retry_after) = (Self::default(), None);
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            if name == "retry-after" {
                retry_after = Some(number(value, MAX_SECONDS).ok_or_else(|| refusal(word))?);
            } else {
                directive.set(name, value).ok_or_else(|| refusal(word))?;
            }
        }
        if let (Some(fault), Some(seconds)) = (&mut directive.error, retry_after) {
            fault.retry_after = Some(seconds);
        }
        Ok(directive)
    }

    /// The directive without its faults: polls and content stay.
    pub(super) fn without_faults(self) -> Self {
        let Self { delay, words, line_mib, call, arguments, polls, cached, .. } = self;
        let Self { crlf, bom, comments, no_last_blank_line, .. } = self;
        let kept = Self { delay, words, line_mib, call, arguments, polls, cached, ..Self::default() };
        Self { crlf, bom, comments, no_last_blank_line, ..kept }
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Option<()> {
        match name {
            "error" => self.error = Some(SimulatedError::named(value?)?),
            "html" => self.html = Some(value?.parse().ok().filter(|status: &StatusCode| status.as_u16() >= 200)?),
            "head-delay" => self.head_delay = Some(Duration::from_millis(number(value, MAX_SECONDS * 1000)?)),
            "failed" => self.end = StreamEnd::Failed(value.unwrap_or("server_error").to_owned()),
            "incomplete" => self.end = StreamEnd::Incomplete(value.unwrap_or("max_output_tokens").to_owned()),
            "error-event" => self.end = StreamEnd::ErrorEvent(value.unwrap_or("server_error").to_owned()),
            "stall" => self.stall = Some(Duration::from_secs(number(value, MAX_SECONDS)?)),
            "at" => self.at = Some(number(value, u64::MAX)?),
            "delay" => self.delay = Some(Duration::from_millis(number(value, MAX_SECONDS * 1000)?)),
            "tokens" | "words" => self.words = usize::try_from(number(value, MAX_WORDS)?).ok(),
            "line" => self.line_mib = usize::try_from(number(value, MAX_LINE_MIB)?).ok(),
            "call" => self.call = Some(value.unwrap_or_default().to_owned()),
            "arguments" => {
                self.arguments = Some(value.filter(|json| serde_json::from_str::<Value>(json).is_ok())?.to_owned())
            }
            "polls" => self.polls = Some(number(value, u64::MAX)?),
            "times" => self.times = Some(number(value, u64::MAX)?),
            "cached" => self.cached = Some(number(value, u64::from(u32::MAX))?),
            _ if value.is_some() => return None,
            "done-only" => self.end = StreamEnd::DoneOnly,
            "no-terminal" => self.end = StreamEnd::NoTerminal,
            "redirect" => self.redirect = true,
            "cut-head" => self.cut_head = true,
            "cut" => self.cut = true,
            "short-length" => self.short_length = true,
            "crlf" => self.crlf = true,
            "bom" => self.bom = true,
            "comments" => self.comments = true,
            "no-last-blank-line" => self.no_last_blank_line = true,
            _ => return None,
        }
        Some(())
    }
}

fn number(value: Option<&str>, max: u64) -> Option<u64> {
    value?.parse().ok().filter(|number| *number <= max)
}

fn refusal(word: &str) -> SimulatedError {
    let known: Vec<String> = KNOWN.iter().map(|(name, values)| format!("{name}{values}")).collect();
    let named: Vec<&str> = fault::names().collect();
    let message = format!(
        "Unknown directive or value `{word}`. Known: {}. Names of errors: {}.",
        known.join(", "),
        named.join(", ")
    );
    SimulatedError::request(Some("unknown_directive"), Some("metadata.simulate"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_directives_on_one_line_are_all_read() {
        let read = Directive::parse("error=429 retry-after=1 stall=2  crlf at=9 failed=rate_limit_exceeded").unwrap();
        let error = read.error.as_ref().unwrap();
        assert_eq!((error.status.as_u16(), error.retry_after), (429, Some(1)));
        assert_eq!((read.at, read.crlf), (Some(9), true));
        assert_eq!(read.stall, Some(Duration::from_secs(2)));
        assert_eq!(read.end, StreamEnd::Failed("rate_limit_exceeded".into()));
        let without_faults = read.without_faults();
        assert!(
            without_faults.error.is_none()
                && without_faults.stall.is_none()
                && without_faults.end == StreamEnd::Completed
                && without_faults.crlf
        );
    }

    #[test]
    fn arguments_are_json_without_spaces() {
        let read = Directive::parse(r#"call=f arguments={"cmd":"echo\u0020=a=b"}"#).unwrap();
        assert_eq!(read.arguments.as_deref(), Some(r#"{"cmd":"echo\u0020=a=b"}"#));
        assert!(Directive::parse(r#"arguments={"cmd":"echo a"}"#).is_err());
    }

    #[test]
    fn an_unknown_directive_is_refused_with_a_list_of_the_known_ones() {
        for word in ["nonsense", "error", "error=200", "error=nope", "crlf=1", "stall=soon", "line=65", "html=100"] {
            let fault = Directive::parse(word).unwrap_err();
            assert_eq!(fault.status, 400, "{word}");
            assert!(fault.message.contains(word) && fault.message.contains("no-last-blank-line"), "{}", fault.message);
        }
    }

    #[test]
    fn every_known_directive_is_read_and_documented() {
        let docs = include_str!("../../docs/simulator.md");
        for (name, values) in KNOWN {
            let word = match name {
                "error" | "html" => format!("{name}=502"),
                _ if values.starts_with('=') => format!("{name}=1"),
                _ => name.to_owned(),
            };
            assert!(Directive::parse(&word).is_ok(), "{word}");
            assert!(docs.contains(&format!("`{name}{values}`")), "docs/simulator.md lacks `{name}{values}`");
        }
        for name in fault::names() {
            assert!(Directive::parse(&format!("error={name}")).is_ok(), "{name}");
            assert!(docs.contains(&format!("`{name}`")), "docs/simulator.md lacks `{name}`");
        }
    }
}
