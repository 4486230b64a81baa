//! The days and months of budgets.

use std::sync::{Mutex, PoisonError};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

use super::{money::Window, spending::Span};

/// Which day or month a moment is in, in one time zone.
#[derive(Debug)]
pub struct Windows {
    zone: TimeZone,
    /// The last day and month that were asked for: most requests fall into them.
    last: Mutex<[Span; 2]>,
}

impl Windows {
    /// In this time zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, last: Mutex::default() }
    }

    /// The window that `now` is in.
    pub fn at(&self, window: Window, now: u64) -> Span {
        let place = match window {
            Window::Day => 0,
            Window::Month => 1,
            Window::Total => return Span { from: 0, to: u64::MAX },
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(span) = last.get_mut(place) else { return Span::default() };
        if !(span.from..span.to).contains(&now) {
            // A clock beyond the year 9999 has one window for all.
            *span = self.look_up(window, now).unwrap_or(Span { from: 0, to: u64::MAX });
        }
        *span
    }

    fn look_up(&self, window: Window, now: u64) -> Option<Span> {
        let now = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?;
        let day = now.to_zoned(self.zone.clone()).date();
        let (first, next) = match window {
            Window::Day => (day, day.checked_add(1.day()).ok()?),
            _ => (day.first_of_month(), day.first_of_month().checked_add(1.month()).ok()?),
        };
        Some(Span { from: self.begins(first)?, to: self.begins(next)? })
    }

    /// The first moment of a day: midnight, or the next one that there is. East of Greenwich, time begins within a day.
    fn begins(&self, day: Date) -> Option<u64> {
        let midnight = day.to_zoned(self.zone.clone()).ok()?;
        u64::try_from(midnight.timestamp().as_millisecond().max(0)).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZONES: [&str; 7] = [
        "UTC",
        "Asia/Shanghai",
        "America/New_York",
        "Europe/Berlin",
        "Pacific/Apia",
        "America/Sao_Paulo",
        "Australia/Lord_Howe",
    ];

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[test]
    fn a_day_is_where_the_operator_is() {
        let windows = Windows::new(TimeZone::get("Asia/Shanghai").unwrap());
        let span = windows.at(Window::Day, at("2026-11-23T15:59:59Z"));
        assert_eq!(span, Span { from: at("2026-11-22T16:00:00Z"), to: at("2026-11-23T16:00:00Z") });
        assert_eq!(windows.at(Window::Day, span.to).from, span.to);
        let month = windows.at(Window::Month, at("2026-11-30T16:00:00Z"));
        assert_eq!(month, Span { from: at("2026-11-30T16:00:00Z"), to: at("2026-12-31T16:00:00Z") });
        let berlin = Windows::new(TimeZone::get("Europe/Berlin").unwrap());
        let long = berlin.at(Window::Day, at("2026-10-25T12:00:00Z"));
        assert_eq!(long.to - long.from, 25 * 3_600_000);
        assert_eq!(windows.at(Window::Day, 0), Span { from: 0, to: 16 * 3_600_000 });
    }

    proptest! {
        /// Every moment is in one window of each kind, and the next one begins where it ends.
        #[test]
        fn windows_leave_no_gap(zone in 0..ZONES.len(), now in 0..4_102_444_800_000_u64) {
            let windows = Windows::new(TimeZone::get(ZONES[zone]).unwrap());
            for (window, longest) in [(Window::Day, 26 * 3_600_000), (Window::Month, 32 * 86_400_000)] {
                let span = windows.at(window, now);
                prop_assert!((span.from..span.to).contains(&now), "{:?} of {}", span, now);
                prop_assert!(span.to - span.from <= longest);
                prop_assert_eq!(windows.at(window, span.to).from, span.to);
                prop_assert_eq!(windows.at(window, span.to - 1), span);
                prop_assert_eq!(windows.at(window, span.from), span);
            }
        }
    }
}
