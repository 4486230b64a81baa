//! Money: whole numbers of nano-units (billionths of a yuan or dollar). Amounts are never floats, and currencies are never
//! mixed.

use std::fmt;

/// Nano-units in one yuan or dollar.
pub const UNIT: u64 = 1_000_000_000;

/// The largest amount, in nano-units: the largest integer of SQL. About nine billion yuan or dollars.
pub const MOST: u64 = i64::MAX as u64;

/// Currency of an amount of money: yuan or dollar. The names are fixed: settings, column `currency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Currency {
    /// Yuan.
    Cny,
    /// Dollars.
    Usd,
}

impl Currency {
    /// All currencies. The journal stores the position in this list: add new currencies at the end only.
    pub const ALL: [Self; 2] = [Self::Cny, Self::Usd];

    /// The fixed name of a currency: `CNY` or `USD`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cny => "CNY",
            Self::Usd => "USD",
        }
    }

    /// The other one of the two currencies: USD for CNY, and CNY for USD.
    pub const fn other(self) -> Self {
        match self {
            Self::Cny => Self::Usd,
            Self::Usd => Self::Cny,
        }
    }

    /// The currency with this name (`CNY` or `USD`), in any letter case. None for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|currency| currency.name().eq_ignore_ascii_case(name))
    }
}

/// An amount of money in one currency, in nano-units (billionths).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    /// The amount in nano-units; at most [`MOST`].
    pub nano: u64,
    /// The currency of the amount.
    pub currency: Currency,
}

impl fmt::Display for Money {
    /// For people: `12.5 CNY`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", decimal(self.nano), self.currency.name())
    }
}

/// Writes an amount of nano-units as a decimal number for people: `12.5`.
pub fn decimal(nano: u64) -> String {
    let (units, rest) = (nano / UNIT, nano % UNIT);
    if rest == 0 {
        return units.to_string();
    }
    format!("{units}.{}", format!("{rest:09}").trim_end_matches('0'))
}

/// Parses a decimal number as people write it (`50`, `0.125`) into nano-units. None for a number with more than nine decimal
/// places, and for a number above [`MOST`].
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

/// The exchange rate between yuan and dollar, which converts amounts of money. May be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Nano-yuan per dollar; none = amounts in different currencies are never added.
    pub cny_per_usd: Option<u64>,
}

impl Exchange {
    /// Converts an amount of money from one currency to another, rounded up. None where no exchange rate is configured.
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

/// The period that a budget covers: day, week, month or all time. The names are fixed: settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// A calendar day.
    Day,
    /// A week, which begins on Monday.
    Week,
    /// A month, which begins on the first day or on another day ([`Budget::starts_on`]).
    Month,
    /// All time: the budget never starts again.
    Total,
}

impl Window {
    /// All periods that a budget can cover.
    pub const ALL: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Total];

    /// The fixed name of the period that a budget covers: `day`, `week`, `month` or `total`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
        }
    }
}

/// A budget: an upper bound of money in each window, such as `50CNY/month`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The upper bound.
    pub money: Money,
    /// The period that the upper bound covers.
    pub window: Window,
    /// The day on which a month begins, from 1 to [`LAST_START`]. For other windows, always 1.
    pub starts_on: u8,
}

/// The last day on which a budget month may begin. Every calendar month has this day.
pub const LAST_START: u8 = 28;

impl Budget {
    /// Parses the text of a budget: `50CNY/month`, `10CNY/week`, `0.5 USD/day`, `100CNY/total`. A month begins on its first day.
    ///
    /// # Errors
    /// The text is no budget. The error says for people what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a budget: write an amount, CNY or USD, and day, week, month or total, such as 50CNY/month"
            )
        };
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
    /// The same budget with months that begin on this day. A budget that is not for a month stays unchanged.
    #[must_use]
    pub fn starting_on(self, day: u8) -> Self {
        Self { starts_on: if self.window == Window::Month { day.clamp(1, LAST_START) } else { 1 }, ..self }
    }

    /// Whether a budget covers a month.
    pub fn is_monthly(&self) -> bool {
        self.window == Window::Month
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
    fn budgets_are_parsed_as_people_write_them() {
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
        assert!(Budget::parse("9223372037USD/day").is_err(), "more than the largest integer of SQL");
    }

    proptest! {
        #[test]
        fn converting_back_never_gives_less(nano in 0..=MOST, rate in 1..=1_000_000 * UNIT) {
            let exchange = Exchange { cny_per_usd: Some(rate) };
            let yuan = exchange.convert(nano, Currency::Usd, Currency::Cny).unwrap();
            let back = exchange.convert(yuan, Currency::Cny, Currency::Usd).unwrap();
            prop_assert!(back >= nano || yuan == MOST);
            prop_assert!(yuan <= MOST && back <= MOST);
        }
    }
}
