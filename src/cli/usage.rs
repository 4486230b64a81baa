//! `tidegate usage`.

use std::{fmt::Write as _, io, process::ExitCode};

use clap::ValueEnum;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{
    output,
    rows::{self, RowFormat, quoted},
    time::{self, TimeArgument},
};
use crate::{
    config::{ConfigPart, Source},
    domain::{
        clock::Clock,
        ledger::storable,
        money::{Currency, Exchange, decimal},
    },
    store::sql::{Database, DatabaseLocation, GroupBy, UsageQuery, UsageTotal},
};

/// Options of `tidegate usage`: which requests are summed up, and how the sums are printed.
#[derive(Debug, clap::Args)]
pub(super) struct UsageOptions {
    /// Print one line for each of these.
    #[arg(long, value_enum, default_value = "key")]
    by: GroupArgument,
    /// Start of the period: a time ago (`7d`, `12h`, `30m`), or a day (`2026-11-01`). Without this option, the period starts
    /// with the ledger.
    #[arg(long, value_name = "TIME", value_parser = time::moment)]
    since: Option<TimeArgument>,
    /// End of the period (exclusive), in the same format. Without this option: now.
    #[arg(long, value_name = "TIME", value_parser = time::moment)]
    until: Option<TimeArgument>,
    /// Only requests of this key.
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Only requests for this model, by the name that clients asked for.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Time zone in which days, weeks and months begin, including the days of --since and --until: an IANA name, such as
    /// Asia/Shanghai. Without this option: `time_zone` of `[money]`.
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    tz: Option<TimeZone>,
    /// Print the ledger rows instead of sums, the oldest first: as comma-separated values, or with --json as one object per line.
    #[arg(long, conflicts_with = "by")]
    rows: bool,
    /// Print comma-separated values.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GroupArgument {
    Key,
    Group,
    Model,
    Upstream,
    Endpoint,
    Day,
    /// Weeks begin on Monday. The name of a week is the day of its Monday.
    Week,
    Month,
}

/// Parses a time zone of the command line.
fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name)
        .map_err(|_| format!("no time zone is called {name:?}: write an IANA name, such as Asia/Shanghai"))
}

impl From<GroupArgument> for GroupBy {
    fn from(by: GroupArgument) -> Self {
        match by {
            GroupArgument::Key => Self::Key,
            GroupArgument::Group => Self::Group,
            GroupArgument::Model => Self::Model,
            GroupArgument::Upstream => Self::Upstream,
            GroupArgument::Endpoint => Self::Endpoint,
            GroupArgument::Day => Self::Day,
            GroupArgument::Week => Self::Week,
            GroupArgument::Month => Self::Month,
        }
    }
}

/// Runs `tidegate usage`: sums up the ledger. Works while the gateway runs.
pub(super) fn run(source: &Source, question: &UsageOptions) -> ExitCode {
    let config = match output::load_known(source, ConfigPart::Store) {
        Ok(known) => known.config,
        Err(code) => return code,
    };
    let place = DatabaseLocation::of(&config);
    if let DatabaseLocation::Sqlite(path) = &place
        && !path.exists()
    {
        return output::fail(format_args!("there is no ledger at {place}: the gateway creates it at its first start"));
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(error),
    };
    let now = Clock::system().since_epoch();
    let zone = question.tz.clone().unwrap_or_else(|| config.money.time_zone.clone());
    let exchange = Exchange { cny_per_usd: config.money.cny_per_usd };
    let asked = UsageQuery {
        by: question.by.into(),
        since: question.since.map_or(0, |since| since.before(now, &zone)),
        until: question.until.map_or(u64::MAX, |until| until.before(now, &zone)),
        key: question.key.as_deref(),
        model: question.model.as_deref(),
        zone,
        exchange,
    };
    let unreadable = |error| output::fail(format_args!("the ledger at {place} cannot be read: {error}"));
    if question.rows {
        let form = if question.json { RowFormat::Json } else { RowFormat::Csv };
        let printed = runtime.block_on(async {
            let mut database = Database::open_to_read(&place).await?;
            let printed = rows::print(&mut database, &asked, form).await;
            database.close().await;
            printed
        });
        return match printed {
            // A closed pipe is not an error of Tidegate.
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => output::fail(error),
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => unreadable(error),
        };
    }
    let totals = runtime.block_on(async {
        let mut database = Database::open_to_read(&place).await?;
        let totals = database.usage_of(&asked).await;
        database.close().await;
        totals
    });
    let totals = match totals {
        Ok(totals) => totals,
        Err(error) => return unreadable(error),
    };
    if question.json {
        output::print(json(asked.by, &totals));
    } else if question.csv {
        output::print(csv(asked.by, &totals).trim_end());
    } else {
        output::print(table(asked.by, &totals, exchange).trim_end());
    }
    ExitCode::SUCCESS
}

const COUNTS: [&str; 13] = [
    "requests",
    "input",
    "cached",
    "output",
    "reasoning",
    "exact",
    "partial",
    "unknown",
    "interrupted",
    "pending",
    "unpriced_part",
    "unpriced",
    "estimated",
];

fn counts(total: &UsageTotal) -> [u64; COUNTS.len()] {
    [
        total.requests,
        total.input,
        total.cached,
        total.output,
        total.reasoning,
        total.exact,
        total.partial,
        total.unknown,
        total.interrupted,
        total.pending,
        total.unpriced_part,
        total.unpriced,
        total.estimated,
    ]
}

/// Returns the cost columns, each with the index of its currency.
fn costs() -> impl Iterator<Item = (usize, String)> {
    Currency::ALL.iter().map(|currency| format!("cost_{}", currency.name().to_ascii_lowercase())).enumerate()
}

/// Returns the columns of the total cost, each with the index of the currency in which the total is shown.
fn in_all() -> impl Iterator<Item = (usize, String)> {
    Currency::ALL.iter().map(|currency| format!("total_{}", currency.name().to_ascii_lowercase())).enumerate()
}

fn at(costs: &[u64], place: usize) -> String {
    decimal(costs.get(place).copied().unwrap_or_default())
}

fn json(by: GroupBy, totals: &[UsageTotal]) -> Value {
    let line = |total: &UsageTotal| {
        let mut line = serde_json::Map::new();
        line.insert(by.name().into(), json!(total.name));
        line.extend(COUNTS.iter().zip(counts(total)).map(|(column, number)| ((*column).into(), json!(number))));
        // Costs are text, because most programs read a JSON number as a float.
        line.extend(costs().map(|(place, column)| (column, json!(at(&total.cost, place)))));
        line.extend(in_all().map(|(place, column)| (column, json!(at(&total.in_all, place)))));
        Value::Object(line)
    };
    totals.iter().map(line).collect()
}

fn csv(by: GroupBy, totals: &[UsageTotal]) -> String {
    let columns = COUNTS.iter().map(|column| (*column).to_owned());
    let columns = columns.chain(costs().chain(in_all()).map(|(_, column)| column));
    let mut out = format!("{},{}\n", by.name(), columns.collect::<Vec<_>>().join(","));
    for total in totals {
        let cells = counts(total).iter().map(u64::to_string).collect::<Vec<_>>().into_iter();
        let cells = cells.chain(costs().map(|(place, _)| at(&total.cost, place)));
        let cells = cells.chain(in_all().map(|(place, _)| at(&total.in_all, place)));
        let name = quoted(total.name.as_deref().unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{name},{}", cells.collect::<Vec<_>>().join(","));
    }
    out
}

/// Formats a table for people, with a line of totals at the end. To save space, currencies without cost are left out, and so are
/// empty columns of `pending`, `unpriced_part`, `unpriced` and `estimated`. If both currencies have cost and a rate is set, the
/// last column is the total in CNY.
fn table(by: GroupBy, totals: &[UsageTotal], exchange: Exchange) -> String {
    let mut sum = UsageTotal { name: Some("total".into()), ..UsageTotal::default() };
    for total in totals {
        sum.add(total);
    }
    let always = COUNTS.len() - 4;
    let shown: Vec<usize> =
        (0..COUNTS.len()).filter(|column| *column < always || counts(&sum).get(*column) != Some(&0)).collect();
    let paid: Vec<(usize, Currency)> =
        Currency::ALL.into_iter().enumerate().filter(|(place, _)| sum.cost.get(*place) != Some(&0)).collect();
    let heads = shown.iter().filter_map(|column| COUNTS.get(*column)).map(|column| (*column).to_owned());
    let heads = heads.chain(paid.iter().map(|(_, currency)| currency.name().to_owned()));
    let all = (paid.len() > 1 && exchange.cny_per_usd.is_some()).then_some(0);
    let heads = heads.chain(all.map(|_| format!("total_{}", Currency::Cny.name())));
    let mut lines = vec![std::iter::once(by.name().to_owned()).chain(heads).collect::<Vec<_>>()];
    for total in totals.iter().chain([&sum]) {
        let name = total.name.clone().unwrap_or_else(|| "-".into());
        // Clients choose the names of models.
        let name = storable(&name).into_owned();
        let counts = counts(total);
        let cells = shown.iter().filter_map(|column| counts.get(*column)).map(u64::to_string);
        let cells = cells.chain(paid.iter().map(|(place, _)| at(&total.cost, *place)));
        let cells = cells.chain(all.map(|place| at(&total.in_all, place)));
        lines.push(std::iter::once(name).chain(cells).collect());
    }
    output::in_columns(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_format_has_the_same_content() {
        let name = Some("a,\"b\"\u{1b}".into());
        let total = UsageTotal {
            name,
            requests: 12,
            input: 1_000_000,
            cost: [1_500_000_000, 0],
            in_all: [1_500_000_000, 214_285_715],
            ..UsageTotal::default()
        };
        let totals = [total, UsageTotal { requests: 1, unknown: 1, estimated: 1, ..UsageTotal::default() }];
        assert_eq!(
            csv(GroupBy::Key, &totals),
            "key,requests,input,cached,output,reasoning,exact,partial,unknown,interrupted,pending,unpriced_part,\
             unpriced,estimated,cost_cny,cost_usd,total_cny,total_usd\n\
             \"a,\"\"b\"\"?\",12,1000000,0,0,0,0,0,0,0,0,0,0,0,1.5,0,1.5,0.214285715\n\
             ,1,0,0,0,0,0,0,1,0,0,0,0,1,0,0,0,0\n"
        );
        for (name, cell) in
            [("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@x,", "\"'@x,\""), ("\t=1", "?=1"), ("a=1", "a=1")]
        {
            assert_eq!(quoted(name), cell);
        }
        let json = json(GroupBy::Key, &totals);
        assert_eq!((&json[0]["input"], &json[1]["key"]), (&json!(1_000_000), &Value::Null));
        assert_eq!((&json[0]["cost_cny"], &json[1]["estimated"]), (&json!("1.5"), &json!(1)));
        assert_eq!(
            table(GroupBy::Key, &totals, Exchange { cny_per_usd: Some(7_000_000_000) }),
            "key     requests    input  cached  output  reasoning  exact  partial  unknown  interrupted  estimated  CNY\n\
             a,\"b\"?        12  1000000       0       0          0      0        0        0            0          0  1.5\n\
             -              1        0       0       0          0      0        0        1            0          1    0\n\
             total         13  1000000       0       0          0      0        0        1            0          1  1.5\n"
        );
    }
}
