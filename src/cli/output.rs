//! Output for people: standard output for the result, standard error for everything else.

use std::{
    fmt::{Display, Write as _},
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use crate::config::{self, ConfigPart, EXIT_CONFIG, Loaded, PartialConfig, Report, Source};

/// Prints the result of a command to standard output. A closed pipe is not an error of Tidegate.
pub(super) fn print(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints why a command failed to standard error, and returns the exit code of a failure.
pub(super) fn fail(text: impl Display) -> ExitCode {
    print_remark(text);
    ExitCode::FAILURE
}

/// Prints a remark for people to standard error, so that standard output has only the result of the command.
pub(super) fn print_remark(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "tidegate: {text}");
}

/// Asks the person at the terminal for confirmation and waits for yes or no. Returns none if there is no terminal.
pub(super) fn confirm(question: &str) -> Option<bool> {
    let mut answer = String::new();
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let _ = write!(io::stderr().lock(), "tidegate: {question} [y/N] ");
    let _ = io::stdin().read_line(&mut answer);
    Some(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Loads the whole configuration for a command. On failure, prints a report of its faults to standard error and returns the exit code.
pub(super) fn load(source: &Source) -> Result<Loaded, ExitCode> {
    config::load(source, &|name| std::env::var_os(name)).map_err(|report| refuse(&report))
}

/// Loads the part of the configuration that a command needs. Prints the number of faults in other parts to standard error.
pub(super) fn load_known(source: &Source, part: ConfigPart) -> Result<PartialConfig, ExitCode> {
    let known = config::load_known(source, &|name| std::env::var_os(name), part).map_err(|report| refuse(&report))?;
    if let Some(report) = &known.faults {
        let (count, source) = (report.count(), &known.source);
        let faults = if count == 1 { "fault" } else { "faults" };
        let used = match part {
            ConfigPart::Store => "[store] and `data_dir`",
            ConfigPart::Listeners => "the addresses of [server]",
        };
        print_remark(format_args!(
            "{source} has {count} {faults}, which `tidegate check` shows. This command continues, because it needs only {used}."
        ));
    }
    Ok(known)
}

/// Prints a report of the faults in the configuration to standard error, and returns the exit code for them.
pub(super) fn refuse(report: &Report) -> ExitCode {
    let mut err = io::stderr().lock();
    let color = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let _ = writeln!(err, "{}", report.render(color));
    ExitCode::from(EXIT_CONFIG)
}

/// Formats the output of a command as a table for people: the first column is aligned left, the others right.
pub(super) fn in_columns(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(out, "{cell:<width$}") } else { write!(out, "  {cell:>width$}") };
        }
        out.push('\n');
    }
    out
}

/// Formats the output of a command as lines for people: a name, then the rest, all aligned left.
pub(super) fn in_lines(lines: &[Vec<String>]) -> String {
    let width = lines.iter().filter_map(|line| line.first()).map(|cell| cell.chars().count()).max().unwrap_or_default();
    let mut out = String::new();
    for line in lines {
        if let [name, rest @ ..] = line.as_slice() {
            let _ = writeln!(out, "{name:<width$}  {}", rest.join("  "));
        }
    }
    out
}
