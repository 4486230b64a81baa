//! Parses times of the command line.

use std::time::Duration;

use jiff::{Timestamp, civil::Date, tz::TimeZone};

const MOMENT: &str = "is neither a length of time (30d, 12h, 30m, 90s) nor a day (2026-11-01)";

/// Parses a length of time, such as `30d`, `12h`, `30m` or `90s`. None for any other text.
pub(super) fn length(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return None,
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    Some(Duration::from_secs(number.parse::<u64>().ok().filter(|_| digits)?.saturating_mul(seconds)))
}

/// A time on the command line: a length of time relative to now, or a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeArgument {
    /// A distance from now, to the past or to the future.
    Away(Duration),
    /// The start of a day.
    Day(Date),
}

/// Parses a time of the command line: a length of time relative to now (`30d`) or a day (`2026-11-01`).
pub(super) fn moment(text: &str) -> Result<TimeArgument, String> {
    if let Some(length) = length(text) {
        return Ok(TimeArgument::Away(length));
    }
    let day = text.parse::<Date>().ok().filter(|_| text.len() == "2026-11-01".len());
    let day = day.filter(|day| begins(*day, &TimeZone::UTC).is_some());
    day.map(TimeArgument::Day).ok_or_else(|| format!("{text:?} {MOMENT}"))
}

/// Parses a length of time of the command line, such as `24h`. The error says what to write.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    length(text).ok_or_else(|| format!("{text:?} is not a length of time, such as 24h, 30m or 0s"))
}

impl TimeArgument {
    /// Converts a time of the command line to a moment in the past, in milliseconds since 1970-01-01 UTC. A day begins in `zone`.
    pub(super) fn before(self, now: Duration, zone: &TimeZone) -> u64 {
        match self {
            Self::Away(length) => millis(now.saturating_sub(length)),
            Self::Day(day) => begins(day, zone).unwrap_or_default(),
        }
    }

    /// Converts a time of the command line to a moment in the future, in milliseconds since 1970-01-01 UTC. A day begins in UTC.
    pub(super) fn after(self, now: Duration) -> u64 {
        match self {
            Self::Away(length) => millis(now.saturating_add(length)),
            Self::Day(day) => begins(day, &TimeZone::UTC).unwrap_or_default(),
        }
    }
}

/// Returns the first moment of a day, in milliseconds since 1970-01-01 UTC; none for an earlier day.
fn begins(day: Date, zone: &TimeZone) -> Option<u64> {
    u64::try_from(day.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond()).ok()
}

/// Converts a duration to whole milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a moment (milliseconds since 1970-01-01 UTC) for people and programs: `2026-11-01T00:00:00Z`.
pub(super) fn format_moment(millis: u64) -> String {
    let moment = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    moment.map_or_else(|| "never".to_owned(), |moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_argument_is_a_duration_or_a_date() {
        let away = |seconds| Ok(TimeArgument::Away(Duration::from_secs(seconds)));
        for (text, length) in [("7d", away(604_800)), ("12h", away(43_200)), ("30m", away(1800)), ("0s", away(0))] {
            assert_eq!(moment(text), length, "{text}");
        }
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2026-11-01", 1_793_491_200),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(moment(text).unwrap().after(Duration::ZERO), seconds * 1000, "{text}");
        }
        for text in
            ["", "7", "d", "-1d", "+1d", "7w", "2026-13-01", "2026-02-29", "2100-02-29", "2026-11", "1969-12-31", "é"]
        {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
