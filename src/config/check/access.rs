//! Networks from which a key may be used, and its expiry.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::Check;
use crate::config::document::Path;

impl Check<'_> {
    /// Parses the networks from which a key may be used. Reports a fault for each text that is no network.
    pub(super) fn networks(&mut self, written: &[String], path: &Path) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (i, text) in written.iter().enumerate() {
            match network(text) {
                Some(network) => networks.push(network),
                None => self.fault(
                    &path.index(i),
                    "this is neither an IP address nor a network",
                    "write one as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"",
                ),
            }
        }
        networks
    }

    /// Parses the setting `expires` of a key, a day or a moment, into milliseconds since 1970-01-01 UTC.
    pub(super) fn expires(&mut self, text: &str, zone: &TimeZone, path: &Path) -> Option<u64> {
        let moment = moment(text, zone);
        if moment.is_none() {
            let help =
                "write the first day on which it is refused, \"2026-12-31\", or a moment, \"2026-12-31T18:00:00Z\"";
            self.fault(path, "`expires` is neither a day nor a moment", help);
        }
        moment
    }
}

/// Parses a network from which a key may be used, such as `10.0.0.0/8`, or a single IP address.
pub(in crate::config) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|network| network.trunc())
}

/// Returns the milliseconds since 1970-01-01 UTC of a moment, or of the start of a day.
fn moment(text: &str, zone: &TimeZone) -> Option<u64> {
    let moment = text.parse::<Timestamp>().ok().or_else(|| {
        let day = text.parse::<Date>().ok()?;
        Some(day.to_zoned(zone.clone()).ok()?.timestamp())
    })?;
    u64::try_from(moment.as_millisecond()).ok()
}
