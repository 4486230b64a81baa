//! Alerts of what happens once, until they are delivered: a restart loses none of them.

use std::{cell::RefCell, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    domain::alert::{Alert, AlertEvent, Raised},
    store::files,
};

/// The file in the data folder.
pub(super) const FILE: &str = "alerts.json";

/// As a line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    id: String,
    time_ms: u64,
    event: String,
    subject: String,
    text: String,
}

/// The alerts, with a copy in a file.
#[derive(Debug)]
pub(super) struct Kept {
    file: PathBuf,
    lines: RefCell<Vec<Line>>,
}

impl Kept {
    /// Those that a process before this one did not deliver.
    pub(super) fn open(file: PathBuf) -> Self {
        let lines = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { file, lines: RefCell::new(lines.unwrap_or_default()) }
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Raised> {
        let raised = |line: &Line| {
            let alert = Alert {
                event: AlertEvent::named(&line.event)?,
                subject: line.subject.clone(),
                text: line.text.clone(),
            };
            Some(Raised { id: line.id.clone(), time_ms: line.time_ms, alert })
        };
        self.lines.borrow().iter().filter_map(raised).collect()
    }

    /// Keeps an alert, if nothing would raise it again.
    pub(super) fn add(&self, Raised { id, time_ms, alert: Alert { event, subject, text } }: &Raised) {
        if event.happens_once() {
            let (id, event) = (id.clone(), event.name().to_owned());
            let line = Line { id, time_ms: *time_ms, event, subject: subject.clone(), text: text.clone() };
            self.lines.borrow_mut().push(line);
            self.save();
        }
    }

    /// An alert is delivered, or was dropped.
    pub(super) fn remove(&self, id: &str) {
        let before = self.lines.borrow().len();
        self.lines.borrow_mut().retain(|line| line.id != id);
        if self.lines.borrow().len() != before {
            self.save();
        }
    }

    fn save(&self) {
        let written = serde_json::to_vec(&*self.lines.borrow()).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| files::replace(&self.file, &text)) {
            tracing::warn!(
                %error,
                file = %self.file.display(),
                "alerts that are not delivered yet cannot be kept: a restart loses them. Look at the disk of the data folder"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_once_is_kept_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let raised = |id: &str, event| {
            let alert = Alert { event, subject: "key a".into(), text: "spent".into() };
            Raised { id: id.into(), time_ms: 7, alert }
        };
        let (spent, warned) = (raised("1", AlertEvent::BudgetSpent), raised("2", AlertEvent::BudgetWarning));
        let kept = Kept::open(file.clone());
        for one in [&spent, &warned, &raised("3", AlertEvent::UpstreamEjected)] {
            kept.add(one);
        }
        let again = Kept::open(file.clone());
        assert_eq!(again.all(), [spent, warned.clone()]);
        again.remove("1");
        again.remove("3");
        assert_eq!(Kept::open(file.clone()).all(), [warned]);
        std::fs::write(&file, "[{").unwrap();
        assert_eq!(Kept::open(file).all(), []);
    }
}
