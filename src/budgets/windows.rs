//! The days, weeks and months of budgets.

use std::sync::{Mutex, PoisonError};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};

use crate::domain::{
    money::{LAST_START, Window},
    spending::Span,
};

/// Computes in which day, week or month of a budget a moment is, in one time zone.
#[derive(Debug)]
pub struct Windows {
    zone: TimeZone,
    /// The windows that were used last: a day, a week, and a month for each day on which a month may begin. Most requests are in them.
    last: Mutex<[Span; 2 + LAST_START as usize]>,
}

impl Windows {
    /// Makes a calculator of budget windows (days, weeks, months) for this time zone.
    pub fn new(zone: TimeZone) -> Self {
        Self { zone, last: Mutex::new([Span::default(); 2 + LAST_START as usize]) }
    }

    /// Returns the day, week or month of a budget that `now` is in. `starts_on` = the day on which a month begins, from 1 to
    /// [`LAST_START`].
    pub fn at(&self, window: Window, starts_on: u8, now: u64) -> Span {
        let place = match window {
            Window::Day => 0,
            Window::Week => 1,
            Window::Month => 1 + usize::from(starts_on),
            Window::Total => return Span { from: 0, to: u64::MAX },
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(span) = last.get_mut(place) else { return Span::default() };
        if !(span.from..span.to).contains(&now) {
            // Beyond the year 9999 there is one window.
            *span = self.look_up(window, starts_on, now).unwrap_or(Span { from: 0, to: u64::MAX });
        }
        *span
    }

    fn look_up(&self, window: Window, starts_on: u8, now: u64) -> Option<Span> {
        let now = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?;
        let day = now.to_zoned(self.zone.clone()).date();
        let (first, next) = match window {
            Window::Day => (day, day.checked_add(1.day()).ok()?),
            Window::Week => {
                let monday = day.checked_sub(i64::from(day.weekday().to_monday_zero_offset()).days()).ok()?;
                (monday, monday.checked_add(7.days()).ok()?)
            }
            _ => {
                let starts_on = i8::try_from(starts_on).ok()?;
                let here = day.first_of_month().with().day(starts_on).build().ok()?;
                let first = if here > day { here.checked_sub(1.month()).ok()? } else { here };
                (first, first.checked_add(1.month()).ok()?)
            }
        };
        Some(Span { from: self.begins(first)?, to: self.begins(next)? })
    }

    /// The first moment of a day: midnight, or the first moment after it that exists. East of Greenwich, 1970 UTC begins within a day.
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
    fn a_day_begins_at_midnight_of_the_time_zone() {
        let windows = Windows::new(TimeZone::get("Asia/Shanghai").unwrap());
        let span = windows.at(Window::Day, 1, at("2026-11-23T15:59:59Z"));
        assert_eq!(span, Span { from: at("2026-11-22T16:00:00Z"), to: at("2026-11-23T16:00:00Z") });
        assert_eq!(windows.at(Window::Day, 1, span.to).from, span.to);
        let month = windows.at(Window::Month, 1, at("2026-11-30T16:00:00Z"));
        assert_eq!(month, Span { from: at("2026-11-30T16:00:00Z"), to: at("2026-12-31T16:00:00Z") });
        let berlin = Windows::new(TimeZone::get("Europe/Berlin").unwrap());
        let long = berlin.at(Window::Day, 1, at("2026-10-25T12:00:00Z"));
        assert_eq!(long.to - long.from, 25 * 3_600_000);
        assert_eq!(windows.at(Window::Day, 1, 0), Span { from: 0, to: 16 * 3_600_000 });
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_configured_day() {
        let windows = Windows::new(TimeZone::get("Asia/Shanghai").unwrap());
        // 2026-11-30 is a Monday; in Shanghai it begins at 16:00 UTC of the day before.
        let week = Span { from: at("2026-11-29T16:00:00Z"), to: at("2026-12-06T16:00:00Z") };
        for moment in [week.from, at("2026-12-02T09:00:00Z"), week.to - 1] {
            assert_eq!(windows.at(Window::Week, 1, moment), week);
        }
        assert_eq!(windows.at(Window::Week, 1, week.from - 1).to, week.from);
        for (starts_on, moment, from, to) in [
            (15, "2026-11-14T15:59:59Z", "2026-10-14T16:00:00Z", "2026-11-14T16:00:00Z"),
            (15, "2026-11-14T16:00:00Z", "2026-11-14T16:00:00Z", "2026-12-14T16:00:00Z"),
            (28, "2027-02-27T15:59:59Z", "2027-01-27T16:00:00Z", "2027-02-27T16:00:00Z"),
            (28, "2027-03-01T00:00:00Z", "2027-02-27T16:00:00Z", "2027-03-27T16:00:00Z"),
            (2, "2027-01-01T00:00:00Z", "2026-12-01T16:00:00Z", "2027-01-01T16:00:00Z"),
        ] {
            let span = Span { from: at(from), to: at(to) };
            assert_eq!(windows.at(Window::Month, starts_on, at(moment)), span, "{starts_on} {moment}");
        }
    }

    proptest! {
        /// Every moment is in one window of each kind, and the next one begins where it ends.
        #[test]
        fn windows_leave_no_gap(zone in 0..ZONES.len(), starts_on in 1..=LAST_START, now in 5_000_000_000..4_102_444_800_000_u64) {
            let windows = Windows::new(TimeZone::get(ZONES[zone]).unwrap());
            for (window, longest) in
                [(Window::Day, 26 * 3_600_000), (Window::Week, 8 * 86_400_000), (Window::Month, 32 * 86_400_000)]
            {
                let span = windows.at(window, starts_on, now);
                prop_assert!((span.from..span.to).contains(&now), "{:?} of {}", span, now);
                prop_assert!(span.to - span.from <= longest);
                prop_assert_eq!(windows.at(window, starts_on, span.to).from, span.to);
                prop_assert_eq!(windows.at(window, starts_on, span.to - 1), span);
                prop_assert_eq!(windows.at(window, starts_on, span.from), span);
            }
        }
    }
}
