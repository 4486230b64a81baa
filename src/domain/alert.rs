//! Alerts that Tidegate sends to the operator through a webhook.

/// Kind of an alert that Tidegate sends to the operator's webhook, such as a spent budget. The names are fixed: field `event` of
/// the webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertEvent {
    /// 80 % of a budget is spent.
    BudgetWarning,
    /// A budget is spent.
    BudgetSpent,
    /// An upstream refuses a credential, or the balance of the credential's account is spent.
    CredentialRefused,
    /// An upstream stays ejected for a long time.
    UpstreamEjected,
    /// Ledger rows are not written to the database.
    LedgerBehind,
    /// Many answers of an upstream end before they are complete.
    StreamsTruncated,
}

impl AlertEvent {
    /// The fixed name of the kind of an alert, such as `budget_spent`: field `event` of the webhook.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BudgetWarning => "budget_warning",
            Self::BudgetSpent => "budget_spent",
            Self::CredentialRefused => "credential_refused",
            Self::UpstreamEjected => "upstream_ejected",
            Self::LedgerBehind => "ledger_behind",
            Self::StreamsTruncated => "streams_truncated",
        }
    }
}

impl AlertEvent {
    /// Whether a lost alert of this kind is not raised again after a restart, because spend reaches a threshold once. Every other
    /// condition that still applies is found again.
    pub const fn happens_once(self) -> bool {
        matches!(self, Self::BudgetWarning | Self::BudgetSpent)
    }

    /// The kind of alert with this name, such as `budget_spent`. None for an unknown name.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::BudgetWarning,
            Self::BudgetSpent,
            Self::CredentialRefused,
            Self::UpstreamEjected,
            Self::LedgerBehind,
            Self::StreamsTruncated,
        ];
        all.into_iter().find(|event| event.name() == name)
    }
}

/// One alert for the operator: its kind, its subject and a text. Contains names and numbers only, never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Kind of the alert.
    pub event: AlertEvent,
    /// The subject of the alert: `key team-a`, `upstream dmxapi`.
    pub subject: String,
    /// For people: what happened, the consequence, and what the operator can do.
    pub text: String,
}

/// An alert that waits for delivery to the operator's webhook, with its id and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuedAlert {
    /// The same id for each delivery, so that a receiver can recognise a repeated alert.
    pub id: String,
    /// The time at which the alert was raised, in milliseconds since 1970-01-01 UTC.
    pub time_ms: u64,
    /// The alert.
    pub alert: Alert,
}
