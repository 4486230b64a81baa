//! How long a condition lasts before an alert is raised.

use std::time::Duration;

/// How long a condition (such as an ejected upstream) lasts before an alert is raised. Not a setting: a test uses shorter times.
#[derive(Clone, Copy, Debug)]
pub struct AlertTimes {
    /// How often the conditions are checked.
    pub check_every: Duration,
    /// An upstream that is ejected for this long is reported: it does not come back by itself soon.
    pub ejected_for: Duration,
    /// A ledger that is behind for this long is reported. A database that is restarted needs less time.
    pub behind_for: Duration,
    /// Truncated answers are counted over this time.
    pub window: Duration,
    /// The window moves in steps of this.
    pub step: Duration,
    /// A condition that ends and returns causes another alert only after this time.
    pub repeat_after: Duration,
}

impl Default for AlertTimes {
    fn default() -> Self {
        Self {
            check_every: Duration::from_secs(1),
            ejected_for: Duration::from_secs(300),
            behind_for: Duration::from_secs(60),
            window: Duration::from_secs(300),
            step: Duration::from_secs(10),
            repeat_after: Duration::from_secs(3600),
        }
    }
}

/// Writes a duration as words for people: `5 minutes`, `90 seconds`.
pub(super) fn in_words(duration: Duration) -> String {
    let (number, unit) = match duration.as_secs() {
        seconds if seconds >= 60 && seconds.is_multiple_of(60) => (seconds / 60, "minute"),
        seconds => (seconds, "second"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_in_its_largest_whole_unit() {
        for (seconds, words) in
            [(1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (90, "90 seconds"), (300, "5 minutes")]
        {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }
}
