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
    text: String,
    faults: Vec<ConfigFault>,
    reads: WatchedFiles,
}

impl Report {
    /// Returns a report in the order of the file. Faults without a place come last.
    pub(super) fn new(source: String, text: String, mut faults: Vec<ConfigFault>) -> Self {
        faults.sort_by_key(|fault| fault.place.as_ref().map_or(usize::MAX, |place| place.start));
        Self { source, text, faults, reads: WatchedFiles::default() }
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
        for fault in &self.faults {
            let group = self.group(fault).element(Level::HELP.message(fault.help.as_str()));
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

    fn group<'a>(&'a self, fault: &'a ConfigFault) -> Group<'a> {
        let title = Level::ERROR.primary_title(fault.message.as_str());
        let Some(place) = &fault.place else { return Group::with_title(title) };
        // One line is enough to find the fault. A list over several lines is marked at its first line.
        let start = floor(&self.text, place.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = self.text[start..].find('\n').map_or(self.text.len(), |newline| start + newline);
        let line = self.text[line_start..line_end].trim_end();
        let end = floor(&self.text, place.end.min(line_end)).max(start);
        let number = self.text[..line_start].matches('\n').count() + 1;
        let span = (start - line_start).min(line.len())..(end - line_start).min(line.len());
        let snippet = Snippet::source(line).line_start(number).path(self.source.as_str());
        title.element(snippet.annotation(AnnotationKind::Primary.span(span)))
    }
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
