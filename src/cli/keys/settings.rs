//! Settings of a key on the command line, for `create` and `update`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::{
    cli::time::{self, TimeArgument},
    domain::key::KeySettings,
};

/// Options of `tidegate keys` for the settings of a client key. Each given option replaces that setting of the key.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// Models that the key may use. A trailing * matches any rest. Without this option: all models.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    models: Option<Vec<String>>,
    /// Upstreams that the key may use. Without this option: all upstreams.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    upstreams: Option<Vec<String>>,
    /// Group of the key, from the configuration.
    #[arg(long)]
    group: Option<String>,
    /// When the key expires: 30d, 12h, or the first day on which it is refused (2026-12-31).
    #[arg(long, value_parser = time::moment, value_name = "TIME")]
    expires: Option<TimeArgument>,
    /// Requests per minute.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rpm: Option<u32>,
    /// Tokens per minute.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    tpm: Option<u32>,
    /// Requests in progress at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_in_flight: Option<u32>,
    /// Budget of the key: 50CNY/month, 10CNY/week, 2.5USD/day, 100CNY/total. May be given once for each of these windows.
    #[arg(long, value_name = "BUDGET")]
    budget: Vec<String>,
    /// Day of the month on which the months of the budgets begin, 1 to 28. Without this option: 1.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=28), value_name = "DAY")]
    starts_on: Option<u8>,
    /// Limits for a model or pattern: `gpt-5* rpm=10 tpm=50000 max_in_flight=2 budget=5CNY/day`. May be given several times.
    #[arg(long, value_name = "LIMITS")]
    limit: Vec<String>,
    /// Networks from which clients may use the key: 10.0.0.0/8, 192.0.2.7. May be given several times.
    #[arg(long, value_name = "NETWORK")]
    ip: Vec<String>,
    /// What happens to the upstream request when the client leaves early. Without this option, Tidegate cancels streams, and reads
    /// other answers to their end if the key or its group has a budget.
    #[arg(long, value_enum)]
    on_client_gone: Option<ClientGone>,
    /// Add `stream_options.include_usage` to chat requests that lack this field, so that their streams report usage.
    #[arg(long)]
    require_usage: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ClientGone {
    Cancel,
    Drain,
}

/// A setting of a client key, by the name of its option in `tidegate keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Setting {
    Models,
    Upstreams,
    Group,
    Expires,
    Rpm,
    Tpm,
    MaxInFlight,
    Budget,
    StartsOn,
    Limit,
    Ip,
    OnClientGone,
    RequireUsage,
    /// Whether the key is the first key, which ends when another key is declared.
    Interim,
}

impl Settings {
    /// Returns the settings of a client key that the command line gives.
    pub(super) fn given(&self) -> Vec<Setting> {
        // Every field is named, so that the compiler finds a field that is missing here.
        let Self {
            models,
            upstreams,
            group,
            expires,
            rpm,
            tpm,
            max_in_flight,
            budget,
            starts_on,
            limit,
            ip,
            on_client_gone,
            require_usage,
        } = self;
        let given = [
            (models.is_some(), Setting::Models),
            (upstreams.is_some(), Setting::Upstreams),
            (group.is_some(), Setting::Group),
            (expires.is_some(), Setting::Expires),
            (rpm.is_some(), Setting::Rpm),
            (tpm.is_some(), Setting::Tpm),
            (max_in_flight.is_some(), Setting::MaxInFlight),
            (!budget.is_empty(), Setting::Budget),
            (starts_on.is_some(), Setting::StartsOn),
            (!limit.is_empty(), Setting::Limit),
            (!ip.is_empty(), Setting::Ip),
            (on_client_gone.is_some(), Setting::OnClientGone),
            (*require_usage, Setting::RequireUsage),
        ];
        given.into_iter().filter_map(|(given, setting)| given.then_some(setting)).collect()
    }

    /// Replaces those settings of a client key that the command line gives.
    pub(super) fn apply(&self, settings: &mut KeySettings, now: Duration) {
        for setting in self.given() {
            match setting {
                Setting::Models => settings.models.clone_from(&self.models),
                Setting::Upstreams => settings.upstreams.clone_from(&self.upstreams),
                Setting::Group => settings.group.clone_from(&self.group),
                Setting::Expires => settings.expires_ms = self.expires.map(|moment| moment.after(now)),
                Setting::Rpm => settings.rpm = self.rpm,
                Setting::Tpm => settings.tpm = self.tpm,
                Setting::MaxInFlight => settings.max_in_flight = self.max_in_flight.map(|count| count as usize),
                Setting::Budget => settings.budgets.clone_from(&self.budget),
                Setting::StartsOn => settings.starts_on = self.starts_on,
                Setting::Limit => settings.limits.clone_from(&self.limit),
                Setting::Ip => settings.ips.clone_from(&self.ip),
                Setting::RequireUsage => settings.require_usage = self.require_usage,
                // No option sets this setting.
                Setting::Interim => {}
                Setting::OnClientGone => {
                    let name = |what| match what {
                        ClientGone::Cancel => "cancel".to_owned(),
                        ClientGone::Drain => "drain".to_owned(),
                    };
                    settings.on_client_gone = self.on_client_gone.map(name);
                }
            }
        }
    }
}

impl Setting {
    /// Returns the name of the command-line option for this setting of a client key.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Resets this setting of a client key to its default.
    pub(super) fn clear(self, settings: &mut KeySettings) {
        // Every field is named, so that the compiler finds a field that is missing here.
        let KeySettings {
            models,
            upstreams,
            group,
            rpm,
            tpm,
            max_in_flight,
            budgets,
            starts_on,
            limits,
            ips,
            expires_ms,
            on_client_gone,
            require_usage,
            interim,
        } = settings;
        match self {
            Self::Models => *models = None,
            Self::Upstreams => *upstreams = None,
            Self::Group => *group = None,
            Self::Expires => *expires_ms = None,
            Self::Rpm => *rpm = None,
            Self::Tpm => *tpm = None,
            Self::MaxInFlight => *max_in_flight = None,
            Self::Budget => budgets.clear(),
            Self::StartsOn => *starts_on = None,
            Self::Limit => limits.clear(),
            Self::Ip => ips.clear(),
            Self::OnClientGone => *on_client_gone = None,
            Self::RequireUsage => *require_usage = false,
            Self::Interim => *interim = false,
        }
    }
}
