//! `tidegate usage`.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::output;
use crate::{
    config::Source,
    domain::clock::Clock,
    store::sqlite::{self, By, Total},
};

/// What to sum up, and how to print it.
#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// One line for each of these.
    #[arg(long, value_enum, default_value = "key")]
    by: Sums,
    /// From when on: so long ago (`7d`, `12h`, `30m`), or a day in UTC (`2026-11-01`). Without it, everything.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Sums {
    Key,
    Group,
    Model,
    Upstream,
    Day,
}

impl From<Sums> for By {
    fn from(by: Sums) -> Self {
        match by {
            Sums::Key => Self::Key,
            Sums::Group => Self::Group,
            Sums::Model => Self::Model,
            Sums::Upstream => Self::Upstream,
            Sums::Day => Self::Day,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Ago(Duration),
    /// Days since 1970-01-01 UTC.
    Day(u64),
}

/// Sums up the ledger in the data folder, also while the gateway runs.
pub(super) fn run(source: &Source, question: &Question) -> ExitCode {
    let config = match output::load(source) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let path = config.server.data_dir.join(sqlite::FILE);
    if !path.exists() {
        let path = path.display();
        return output::fail(format_args!("there is no ledger at {path}: the gateway makes it when it first starts"));
    }
    let since = match question.since {
        None => Duration::ZERO,
        Some(Since::Ago(ago)) => Clock::system().since_epoch().saturating_sub(ago),
        Some(Since::Day(day)) => Duration::from_secs(day.saturating_mul(86_400)),
    };
    let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let by = By::from(question.by);
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(error),
    };
    let totals = match runtime.block_on(sqlite::usage(&path, by, since)) {
        Ok(totals) => totals,
        Err(error) => {
            return output::fail(format_args!("the ledger at {} cannot be read: {error}", path.display()));
        }
    };
    if question.json {
        output::print(json(by, &totals));
    } else if question.csv {
        output::print(csv(by, &totals).trim_end());
    } else {
        output::print(table(by, &totals).trim_end());
    }
    ExitCode::SUCCESS
}

fn since(text: &str) -> Result<Since, String> {
    let wrong = || format!("{text:?} is neither so long ago (7d, 12h, 30m) nor a day (2026-11-01)");
    if let Some((number, unit)) = text.split_at_checked(text.len().saturating_sub(1))
        && let Some(seconds) = match unit {
            "d" => Some(86_400),
            "h" => Some(3600),
            "m" => Some(60),
            _ => None,
        }
    {
        let number: u64 = number.parse().map_err(|_| wrong())?;
        return Ok(Since::Ago(Duration::from_secs(number.saturating_mul(seconds))));
    }
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (Some(Some(year)), Some(Some(month)), Some(Some(day))) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    day_number(year, month, day).map(Since::Day).ok_or_else(wrong)
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn day_number(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) {
        return None;
    }
    let leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let length = |month: u64| match month {
        2 => 28 + u64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if !(1..=12).contains(&month) || !(1..=length(month)).contains(&day) {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(leap(year))).sum();
    Some(years + (1..month).map(length).sum::<u64>() + day - 1)
}

const COLUMNS: [&str; 9] =
    ["requests", "input", "cached", "output", "reasoning", "exact", "partial", "unknown", "interrupted"];

fn numbers(total: &Total) -> [u64; COLUMNS.len()] {
    let Total { name: _, requests, input, cached, output, reasoning, exact, partial, unknown, interrupted } = total;
    [*requests, *input, *cached, *output, *reasoning, *exact, *partial, *unknown, *interrupted]
}

fn json(by: By, totals: &[Total]) -> Value {
    let line = |total: &Total| {
        let mut line = serde_json::Map::new();
        line.insert(by.name().into(), json!(total.name));
        line.extend(COLUMNS.iter().zip(numbers(total)).map(|(column, number)| ((*column).into(), json!(number))));
        Value::Object(line)
    };
    totals.iter().map(line).collect()
}

fn csv(by: By, totals: &[Total]) -> String {
    let mut out = format!("{},{}\n", by.name(), COLUMNS.join(","));
    for total in totals {
        let name = total.name.as_deref().unwrap_or_default();
        let special = name.contains([',', '"', '\n', '\r']);
        let name = if special { format!("\"{}\"", name.replace('"', "\"\"")) } else { name.into() };
        let numbers = numbers(total).map(|number| number.to_string()).join(",");
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name},{numbers}");
    }
    out
}

/// For people: columns in line, and the sum of all lines below.
fn table(by: By, totals: &[Total]) -> String {
    let mut lines = vec![[by.name()].into_iter().chain(COLUMNS).map(str::to_owned).collect::<Vec<_>>()];
    let mut sums = [0u64; COLUMNS.len()];
    for total in totals {
        let numbers = numbers(total);
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum = sum.saturating_add(number);
        }
        let name = total.name.clone().unwrap_or_else(|| "-".into());
        // Names of models are clients' own words.
        let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        lines.push([name].into_iter().chain(numbers.map(|number| number.to_string())).collect());
    }
    lines.push(["total".to_owned()].into_iter().chain(sums.map(|number| number.to_string())).collect());
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..=COLUMNS.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(out, "{cell:<width$}") } else { write!(out, "  {cell:>width$}") };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_long_ago_or_a_day() {
        let ago = |seconds| Ok(Since::Ago(Duration::from_secs(seconds)));
        for (text, since_then) in [("7d", ago(604_800)), ("12h", ago(43_200)), ("30m", ago(1800)), ("0d", ago(0))] {
            assert_eq!(since(text), since_then, "{text}");
        }
        for (text, seconds) in [
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400),
            ("2026-11-01", 1_793_491_200),
            ("2100-03-01", 4_107_542_400),
        ] {
            assert_eq!(since(text), Ok(Since::Day(seconds / 86_400)), "{text}");
        }
        for text in ["", "7", "d", "-1d", "7w", "2026-13-01", "2026-02-29", "2100-02-29", "2026-11", "1969-12-31", "é"]
        {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_form_says_the_same() {
        let total = Total { name: Some("a,\"b\"\u{1b}".into()), requests: 12, input: 1_000_000, ..Total::default() };
        let totals = [total, Total { requests: 1, unknown: 1, ..Total::default() }];
        assert_eq!(
            csv(By::Key, &totals),
            "key,requests,input,cached,output,reasoning,exact,partial,unknown,interrupted\n\
             \"a,\"\"b\"\"\u{1b}\",12,1000000,0,0,0,0,0,0,0\n,1,0,0,0,0,0,0,1,0\n"
        );
        let json = json(By::Key, &totals);
        assert_eq!((&json[0]["input"], &json[1]["key"]), (&json!(1_000_000), &Value::Null));
        assert_eq!(
            table(By::Key, &totals),
            "key     requests    input  cached  output  reasoning  exact  partial  unknown  interrupted\n\
             a,\"b\"?        12  1000000       0       0          0      0        0        0            0\n\
             -              1        0       0       0          0      0        0        1            0\n\
             total         13  1000000       0       0          0      0        0        1            0\n"
        );
    }
}
