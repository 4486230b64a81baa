//! `tidegate usage --rows`: prints ledger rows for other programs.

use std::io::{self, BufWriter, Write};

use serde_json::{Map, Value, json};

use super::time;
use crate::{
    domain::{ledger::storable, money::decimal},
    store::sql::{Cell, Database, DatabaseError, SqlRow, UsageQuery, columns},
};

/// Format in which `tidegate usage --rows` prints ledger rows: CSV or JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowFormat {
    /// Comma-separated values, after a line with the column names.
    Csv,
    /// One JSON object on each line.
    Json,
}

/// Prints all ledger rows of a query to standard output, page by page, so that memory holds only one page.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn print(
    database: &mut Database,
    asked: &UsageQuery<'_>,
    form: RowFormat,
) -> Result<io::Result<()>, DatabaseError> {
    let mut out = BufWriter::new(io::stdout());
    if form == RowFormat::Csv
        && let Err(error) = writeln!(out, "{}", columns().collect::<Vec<_>>().join(","))
    {
        return Ok(Err(error));
    }
    let mut last = None;
    loop {
        let page = database.page_of(asked, last.as_ref()).await?;
        for row in &page {
            let line = match form {
                RowFormat::Csv => csv(row),
                RowFormat::Json => json(row).to_string(),
            };
            if let Err(error) = writeln!(out, "{line}") {
                return Ok(Err(error));
            }
        }
        match page.into_iter().next_back() {
            Some(row) => last = Some(row),
            None => return Ok(out.flush()),
        }
    }
}

/// Amounts are text, because most programs read a JSON number as a float.
fn json(row: &SqlRow) -> Value {
    let value = |cell: &Cell| match cell {
        Cell::None => Value::Null,
        Cell::Text(text) => json!(text),
        Cell::Count(count) => json!(count),
        Cell::Time(millis) => json!(time::format_moment(*millis)),
        Cell::Amount(nano) => json!(decimal(*nano)),
        Cell::Flag(flag) => json!(flag),
    };
    let fields = columns().zip(&row.cells).map(|(name, cell)| (name.to_owned(), value(cell)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn csv(row: &SqlRow) -> String {
    let text = |cell: &Cell| match cell {
        Cell::None => String::new(),
        Cell::Text(text) => quoted(text),
        Cell::Count(count) => count.to_string(),
        Cell::Time(millis) => time::format_moment(*millis),
        Cell::Amount(nano) => decimal(*nano),
        Cell::Flag(flag) => flag.to_string(),
    };
    row.cells.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Formats a text as a cell of a CSV file (RFC 4180) that every program reads as text: clients choose the names of models. A
/// spreadsheet would compute a text that begins like a formula. The apostrophe prevents this and is not shown.
pub(super) fn quoted(text: &str) -> String {
    let formula = if text.starts_with(['=', '+', '-', '@']) { "'" } else { "" };
    let text = format!("{formula}{}", storable(text));
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
