//! Money: whole numbers of nano-units (a billionth of a yuan or dollar), never a float, currencies never mixed.

use std::fmt;

/// Nano-units of one unit.
pub const UNIT: u64 = 1_000_000_000;

/// The most that any amount is: what SQL's integers hold. Some nine billion units.
pub const MOST: u64 = i64::MAX as u64;

/// What amounts are counted in. The names are fixed: settings, column `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Currency {
    /// Yuan.
    Cny,
    /// Dollars.
    Usd,
}

impl Currency {
    /// All of them. Journals hold their places in this list: it only ever grows, at its end.
    pub const ALL: [Self; 2] = [Self::Cny, Self::Usd];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cny => "CNY",
            Self::Usd => "USD",
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Cny => Self::Usd,
            Self::Usd => Self::Cny,
        }
    }

    /// The one of this name, in any letter case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|currency| currency.name().eq_ignore_ascii_case(name))
    }
}

/// So much of one currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    /// Nano-units; at most [`MOST`].
    pub nano: u64,
    /// Of what.
    pub currency: Currency,
}

impl fmt::Display for Money {
    /// As `12.5 CNY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", decimal(self.nano), self.currency.name())
    }
}

/// An amount as people write it: `12.5`.
pub fn decimal(nano: u64) -> String {
    let (units, rest) = (nano / UNIT, nano % UNIT);
    if rest == 0 {
        return units.to_string();
    }
    format!("{units}.{}", format!("{rest:09}").trim_end_matches('0'))
}

/// Nano-units of a decimal number as people write it (`50`, `0.125`), if it has at most nine places and is not more than
/// [`MOST`].
pub fn nano(text: &str) -> Option<u64> {
    let (units, places) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(units) || !digits(places) || places.len() > 9 {
        return None;
    }
    let places = format!("{places:0<9}").parse::<u64>().ok()?;
    let nano = units.parse::<u64>().ok()?.checked_mul(UNIT)?.checked_add(places)?;
    (nano <= MOST).then_some(nano)
}

/// One currency in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Nano-yuan for a dollar; none = the two are never added up.
    pub cny_per_usd: Option<u64>,
}

impl Exchange {
    /// So many nano-units of one currency in another, rounded up; none where no rate is configured.
    pub fn convert(self, nano: u64, from: Currency, to: Currency) -> Option<u64> {
        let (amount, rate) = (u128::from(nano), || self.cny_per_usd.filter(|rate| *rate > 0).map(u128::from));
        let unit = u128::from(UNIT);
        let converted = match (from, to) {
            (Currency::Cny, Currency::Cny) | (Currency::Usd, Currency::Usd) => amount,
            (Currency::Usd, Currency::Cny) => (amount * rate()?).div_ceil(unit),
            (Currency::Cny, Currency::Usd) => (amount * unit).div_ceil(rate()?),
        };
        Some(u64::try_from(converted).unwrap_or(MOST).min(MOST))
    }
}

/// The stretch of time that a budget is for. The names are fixed: settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// A calendar day.
    Day,
    /// A week; it begins on Monday.
    Week,
    /// A month; it begins on the first day, or on another one ([`Budget::starts_on`]).
    Month,
    /// For ever.
    Total,
}

impl Window {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// Its fixed name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

/// What may be spent: `50CNY/month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// How much.
    pub money: Money,
    /// In which time.
    pub window: Window,
    /// The day on which a month begins, from 1 to [`LAST_START`]. Other windows do not have one.
    pub starts_on: u8,
}

/// The last day on which a budget month may begin: every month has it.
pub const LAST_START: u8 = 28;

impl Budget {
    /// Reads `50CNY/month`, `10CNY/week`, `0.5 USD/day`, `100CNY/total`. A month begins on its first day.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an amount, a currency and a time, such as 50CNY/month or 2.5USD/day");
        let (amount, window) = text.split_once('/').ok_or_else(wrong)?;
        let window = Window::ALL.into_iter().find(|known| known.name() == window.trim()).ok_or_else(wrong)?;
        let amount = amount.trim();
        let letters = amount.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let (number, currency) = amount.split_at_checked(letters).ok_or_else(wrong)?;
        let currency = Currency::named(currency).ok_or_else(wrong)?;
        let nano = nano(number.trim()).filter(|nano| *nano > 0).ok_or_else(wrong)?;
        Ok(Self { money: Money { nano, currency }, window, starts_on: 1 })
    }
}

impl Budget {
    /// The same budget; a month begins on this day.
    #[must_use]
    pub fn starting_on(self, day: u8) -> Self {
        Self { starts_on: if self.window == Window::Month { day.clamp(1, LAST_START) } else { 1 }, ..self }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.money, self.window.name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn budgets_are_read_as_people_write_them() {
        for (text, nano, currency, window) in [
            ("50CNY/month", 50 * UNIT, Currency::Cny, Window::Month),
            ("0.5 usd/day", UNIT / 2, Currency::Usd, Window::Day),
            ("10CNY/week", 10 * UNIT, Currency::Cny, Window::Week),
            ("0.000000001USD/total", 1, Currency::Usd, Window::Total),
        ] {
            let budget = Budget::parse(text).unwrap();
            assert_eq!(budget, Budget { money: Money { nano, currency }, window, starts_on: 1 }, "{text}");
            assert_eq!(Budget::parse(&budget.to_string()), Ok(budget));
        }
        for text in
            ["", "50", "50CNY", "CNY/day", "0CNY/day", "-1CNY/day", "1e3CNY/day", "1EUR/day", "1CNY/year", "1.CNY/day"]
        {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
        assert!(Budget::parse("0.0000000001USD/day").is_err(), "a tenth of the smallest amount");
        assert!(Budget::parse("9223372037USD/day").is_err(), "more than SQL holds");
    }

    proptest! {
        #[test]
        fn nothing_is_gained_by_going_back_and_forth(nano in 0..=MOST, rate in 1..=1_000_000 * UNIT) {
            let exchange = Exchange { cny_per_usd: Some(rate) };
            let yuan = exchange.convert(nano, Currency::Usd, Currency::Cny).unwrap();
            let back = exchange.convert(yuan, Currency::Cny, Currency::Usd).unwrap();
            prop_assert!(back >= nano || yuan == MOST);
            prop_assert!(yuan <= MOST && back <= MOST);
        }
    }
}
