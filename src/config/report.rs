//! All faults of a configuration at once, each with its place and help.

use std::{fmt, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::reads::WatchedFiles;

/// One fault.
pub(super) struct ConfigFault {
    /// Byte range in the text; none if the fault is not in the file.
    pub(super) place: Option<Range<usize>>,
    /// What is wrong.
    pub(super) message: String,
    /// How to correct the setting.
    pub(super) help: String,
}

/// All faults of a configuration. Never contains a secret: `mask` covers the text before it is shown.
pub struct Report {
    source: String,
    faults: Vec<(ConfigFault, Option<Line>)>,
    reads: WatchedFiles,
}

/// The line in which a fault begins: one is enough to find it.
struct Line {
    number: usize,
    text: String,
    /// The fault's part of it.
    span: Range<usize>,
}

impl Report {
    /// A report in the order of the file; what has no place in it comes last. `shown` tells how the line at these bytes of
    /// `text` may be shown, byte for byte in its place.
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

    /// Adds the files that were read before the faults were found.
    pub(super) fn after(mut self, reads: WatchedFiles) -> Self {
        self.reads = reads;
        self
    }

    /// Returns the files that were read before the faults were found.
    #[must_use]
    pub fn reads(&self) -> &WatchedFiles {
        &self.reads
    }

    /// Returns the number of faults; never 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.faults.len()
    }

    /// Renders the report for people, in the style of rustc.
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

/// The line where a fault begins; a list over many lines is pointed at where it begins.
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
