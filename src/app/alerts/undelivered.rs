//! Alerts that are not delivered yet, kept in a file so that a restart does not lose them. Only alerts of events that
//! happen once are kept: `watch` raises the others again while their condition lasts.

use std::{cell::RefCell, io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    domain::alert::{Alert, AlertEvent, QueuedAlert},
    store::files,
};

/// Name of the file in the data folder that keeps undelivered alerts over a restart.
pub(super) const FILE: &str = "alerts.json";

/// One alert as the file holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredAlert {
    id: String,
    time_ms: u64,
    event: String,
    subject: String,
    text: String,
}

/// The alerts that the webhook has not accepted yet, with a copy in a file, so that a restart does not lose them.
#[derive(Debug)]
pub(super) struct UndeliveredAlerts {
    file: PathBuf,
    stored_alerts: RefCell<Vec<StoredAlert>>,
}

impl UndeliveredAlerts {
    /// Reads from the file the alerts that an earlier process did not deliver.
    pub(super) fn open(file: PathBuf) -> Self {
        let stored_alerts = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { file, stored_alerts: RefCell::new(stored_alerts.unwrap_or_default()) }
    }

    /// Returns all alerts that the webhook has not accepted yet, the oldest first.
    pub(super) fn all(&self) -> Vec<QueuedAlert> {
        let queued = |stored: &StoredAlert| {
            let alert = Alert {
                event: AlertEvent::named(&stored.event)?,
                subject: stored.subject.clone(),
                text: stored.text.clone(),
            };
            Some(QueuedAlert { id: stored.id.clone(), time_ms: stored.time_ms, alert })
        };
        self.stored_alerts.borrow().iter().filter_map(queued).collect()
    }

    /// Keeps an undelivered alert in the file if its event happens once. The watcher raises other alerts again by itself.
    pub(super) fn add(&self, QueuedAlert { id, time_ms, alert: Alert { event, subject, text } }: &QueuedAlert) {
        if event.happens_once() {
            let (id, event) = (id.clone(), event.name().to_owned());
            let stored = StoredAlert { id, time_ms: *time_ms, event, subject: subject.clone(), text: text.clone() };
            self.stored_alerts.borrow_mut().push(stored);
            self.save();
        }
    }

    /// Removes an alert from the file of undelivered alerts, because it was delivered or dropped.
    pub(super) fn remove(&self, id: &str) {
        let before = self.stored_alerts.borrow().len();
        self.stored_alerts.borrow_mut().retain(|stored| stored.id != id);
        if self.stored_alerts.borrow().len() != before {
            self.save();
        }
    }

    fn save(&self) {
        let written = serde_json::to_vec(&*self.stored_alerts.borrow()).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| files::replace(&self.file, &text)) {
            tracing::warn!(
                %error,
                file = %self.file.display(),
                "undelivered alerts cannot be saved to disk: a restart loses these alerts. Check the disk of the data \
                 folder"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_of_one_time_events_survive_a_restart_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let queued = |id: &str, event| {
            let alert = Alert { event, subject: "key a".into(), text: "spent".into() };
            QueuedAlert { id: id.into(), time_ms: 7, alert }
        };
        let (spent, warned) = (queued("1", AlertEvent::BudgetSpent), queued("2", AlertEvent::BudgetWarning));
        let undelivered = UndeliveredAlerts::open(file.clone());
        for one in [&spent, &warned, &queued("3", AlertEvent::UpstreamEjected)] {
            undelivered.add(one);
        }
        let again = UndeliveredAlerts::open(file.clone());
        assert_eq!(again.all(), [spent, warned.clone()]);
        again.remove("1");
        again.remove("3");
        assert_eq!(UndeliveredAlerts::open(file.clone()).all(), [warned]);
        std::fs::write(&file, "[{").unwrap();
        assert_eq!(UndeliveredAlerts::open(file).all(), []);
    }
}
