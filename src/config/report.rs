//! All faults of a configuration at once, each with its place and help.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::reads::WatchedFiles;

/// One fault in a configuration: its place in the file, what is wrong, and how to correct the setting.
pub(super) struct ConfigFault {
    /// Byte range in the text; none if the fault is not in the file.
    pub(super) place: Option<Range<usize>>,
    /// What is wrong.
    pub(super) message: String,
    /// How to correct the setting.
    pub(super) help: String,
}

/// All faults of a configuration, for people. Never contains a secret: `mask` covers the text before it is shown.
pub struct Report {
    source: String,
    faults: Vec<(ConfigFault, Option<Line>)>,
    reads: WatchedFiles,
}

/// The line of the file in which a fault begins. One line is enough to find the fault.
struct Line {
    number: usize,
    text: String,
    /// The part of the line that is the fault, as a byte range.
    span: Range<usize>,
}

impl Report {
    /// Makes a report of the faults of a configuration, in the order of the file. Faults without a place in the file come last.
    /// `shown` returns the line at these bytes of `text` with its secrets covered, each byte in its place.
    pub(super) fn new(
        source: String,
        text: &str,
        mut faults: Vec<ConfigFault>,
        shown: impl Fn(Range<usize>) -> String,
    ) -> Self {
        faults.sort_by_key(|fault| fault.place.as_ref().map_or(usize::MAX, |place| place.start));
        let with_line = |fault: ConfigFault| {
            let line = fault.place.as_ref().map(|place| line(text, place, &shown));
            (fault, line)
        };
        Self { source, faults: faults.into_iter().map(with_line).collect(), reads: WatchedFiles::default() }
    }

    /// Adds to a report of faults the files that were read before the faults were found.
    pub(super) fn after(mut self, reads: WatchedFiles) -> Self {
        self.reads = reads;
        self
    }

    /// Returns the files of the configuration that were read before the faults of this report were found.
    #[must_use]
    pub fn reads(&self) -> &WatchedFiles {
        &self.reads
    }

    /// Returns the number of faults in a report about a configuration; never 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// Renders a report of the faults of a configuration for people, in the style of rustc. `color` adds terminal colors.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for (fault, line) in &self.faults {
            let group = self.group(fault, line.as_ref()).element(Level::HELP.message(fault.help.as_str()));
            for line in renderer.render(&[group]).lines() {
                out.push_str(line.trim_end());
                out.push('\n');
            }
            out.push('\n');
        }
        let faults = if self.faults.len() == 1 { "fault" } else { "faults" };
        out.push_str(&format!("{} {faults} in the configuration ({})\n", self.faults.len(), self.source));
        out
    }

    fn group<'a>(&'a self, fault: &'a ConfigFault, line: Option<&'a Line>) -> Group<'a> {
        let title = Level::ERROR.primary_title(fault.message.as_str());
        let Some(Line { number, text, span }) = line else { return Group::with_title(title) };
        let snippet = Snippet::source(text.as_str()).line_start(*number).path(self.source.as_str());
        title.element(snippet.annotation(AnnotationKind::Primary.span(span.clone())))
    }
}

/// Returns the line where a fault begins, also for a list over many lines.
fn line(text: &str, place: &Range<usize>, shown: impl Fn(Range<usize>) -> String) -> Line {
    let start = floor(text, place.start);
    let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let line = shown(line_start..line_end).trim_end().to_owned();
    let end = floor(text, place.end.min(line_end)).max(start);
    let span = (start - line_start).min(line.len())..(end - line_start).min(line.len());
    Line { number: text[..line_start].matches('\n').count() + 1, text: line, span }
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Report {}
