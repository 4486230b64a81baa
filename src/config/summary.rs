//! The summary of a configuration for `tidegate check`. Never contains a secret.

use std::fmt::{self, Display, Write};

use jiff::Timestamp;

use crate::domain::{
    endpoint::Surface,
    money::{Budget, decimal},
};

use super::types::{
    AffinitySettings, Config, FailoverOn, Key, KeyLimits, LogFormat, Model, ModelLimits, ModelPrice, MoneySettings,
    OnClientGone, OnLostState, SharedLimits, Store, Strategy, Target, UnknownIds, Upstream, WhenRedisIsAway,
};

/// Describes a checked configuration for people, for `tidegate check`. `memory` is the most memory that this configuration
/// allows. `disk` describes its use of the disk.
#[must_use]
pub fn summary(config: &Config, memory: &dyn Display, disk: &dyn Display) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, config, memory, disk);
    out
}

fn write(out: &mut String, config: &Config, memory: &dyn Display, disk: &dyn Display) -> fmt::Result {
    let Config { server, timeouts, log, .. } = config;
    let tls = if server.tls.is_some() { ", TLS" } else { "" };
    writeln!(out, "listens on   {} (data{tls}), {} (admin)", server.listen, server.admin_listen)?;
    if let Some(metrics) = &server.metrics_listen {
        writeln!(out, "             {metrics} (metrics)")?;
    }
    writeln!(out, "data folder  {}", server.data_dir.display())?;
    match &config.store {
        Store::Sqlite => writeln!(out, "store        SQLite in the data folder")?,
        Store::Postgres { url, .. } => writeln!(out, "store        {url}")?,
    }
    if let Some(days) = config.keep_days {
        writeln!(out, "             rows for {days} days, then sums by day")?;
    }
    if let Some(SharedLimits { redis, replicas, fail, .. }) = &config.sharing {
        let away = match fail {
            WhenRedisIsAway::Share => "each allows its share",
            WhenRedisIsAway::Closed => "keys with limits are refused",
        };
        writeln!(out, "limits       {redis}, shared by {replicas} replicas; while it is away, {away}")?;
    }
    write_affinity(out, config)?;
    writeln!(out, "workers      {}, {} connections at most", server.workers, server.max_connections)?;
    writeln!(
        out,
        "bodies       up to {} MiB each, {} MiB together",
        server.max_body_bytes >> 20,
        server.max_body_memory >> 20
    )?;
    writeln!(out, "memory       {memory}")?;
    writeln!(out, "disk         {disk}")?;
    writeln!(out, "logs         {}, {}", if log.format == LogFormat::Json { "json" } else { "text" }, log.level)?;
    writeln!(
        out,
        "timeouts     upstream connect {:?}, head {:?}, silence {:?}; write stall {:?}; drain {:?} after {:?}",
        timeouts.upstream_connect,
        timeouts.upstream_head,
        timeouts.upstream_silence,
        timeouts.write_stall,
        timeouts.drain,
        timeouts.drain_delay
    )?;

    writeln!(
        out,
        "drain        up to {:?} and {} MiB of an answer after its client left, for keys that drain",
        timeouts.client_gone_drain,
        server.client_gone_drain >> 20
    )?;
    if let Some(alerts) = &config.alerts {
        let signed = if alerts.secret.is_some() { ", signed" } else { ", not signed" };
        writeln!(out, "alerts       go to {}{signed}", alerts.url.host().unwrap_or_default())?;
    }
    if !server.trusted_proxies.is_empty() {
        let proxies: Vec<_> = server.trusted_proxies.iter().map(ToString::to_string).collect();
        writeln!(out, "proxies      Tidegate believes X-Forwarded-For from {}", proxies.join(", "))?;
    }

    writeln!(out, "\nupstreams")?;
    for upstream in &config.upstreams {
        write_upstream(out, upstream)?;
    }
    for idle in &config.idle {
        writeln!(out, "  {}: not used, because no credential is set; set {}", idle.name, idle.variables.join(" or "))?;
    }

    writeln!(out, "\nmodels")?;
    for model in &config.models {
        write_model(out, config, model)?;
    }
    if config.models.is_empty() {
        writeln!(out, "  none; clients can ask for UPSTREAM/MODEL")?;
    }
    match config.default_upstream {
        Some(index) => writeln!(out, "  (no model) -> {}", config.upstreams[index].name)?,
        None => writeln!(out, "  (no model in the body) is refused")?,
    }
    write_new_conversations(out, config)?;

    writeln!(out, "\nkeys")?;
    for key in &config.keys {
        let models = key.models.as_ref().map_or_else(|| "all models".into(), |models| models.join(", "));
        let upstreams = key.upstreams.as_ref().map_or_else(
            || "all upstreams".into(),
            |indices| match indices.as_slice() {
                [] => "no upstream (none of its upstreams has a credential)".into(),
                indices => indices.iter().map(|i| &*config.upstreams[*i].name).collect::<Vec<_>>().join(", "),
            },
        );
        let group = key.group.map(|group| format!("; group {}", config.groups[group].name)).unwrap_or_default();
        let (name, limits, budgets) = (&key.name, limits(key.limits), budgets(&key.budgets));
        let by_model = by_model(&key.limits_by_model);
        writeln!(out, "  {name}: {models}; {upstreams}{limits}{budgets}{by_model}{group}{}", bounds(key))?;
    }
    if config.keys.is_empty() {
        writeln!(out, "  none here; if the store has no key either, the first start creates one")?;
    }
    for group in &config.groups {
        writeln!(out, "  group {}{}{}", group.name, limits(group.limits), budgets(&group.budgets))?;
    }
    writeln!(out, "  `tidegate keys list` shows the keys of the store too")?;
    write_prices(out, config)
}

/// Shows the upstream of new conversations, which name no model: the default upstream, or the first one that a key may use.
fn write_new_conversations(out: &mut String, config: &Config) -> fmt::Result {
    let serves = |index: &usize, key: Option<&Key>| {
        let allowed = key.and_then(|key| key.upstreams.as_ref()).is_none_or(|allowed| allowed.contains(index));
        allowed
            && config.upstreams.get(*index).is_some_and(|upstream| upstream.surface.contains(&Surface::Conversations))
    };
    let home = |key| {
        let default = config.default_upstream.filter(|index| serves(index, key));
        default.or_else(|| (0..config.upstreams.len()).find(|index| serves(index, key)))
    };
    let name = |home: Option<usize>| home.and_then(|home| config.upstreams.get(home)).map_or("none", |it| &*it.name);
    write!(out, "  (new conversations) -> {}", name(home(None)))?;
    for key in &config.keys {
        if home(Some(key)) != home(None) {
            write!(out, ", of the key {} {}", key.name, name(home(Some(key))))?;
        }
    }
    writeln!(out)
}

/// Describes the networks and the expiry of a key, and what happens to answers whose client left.
fn bounds(key: &Key) -> String {
    let mut text = String::new();
    if !key.ips.is_empty() {
        let networks: Vec<_> = key.ips.iter().map(ToString::to_string).collect();
        // Writing to a string cannot fail.
        let _ = write!(text, "; from {}", networks.join(", "));
    }
    let ends = key.expires.and_then(|millis| Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok());
    if let Some(ends) = ends {
        let _ = write!(text, "; ends {ends}");
    }
    text.push_str(match key.on_client_gone {
        OnClientGone::ByCost => "",
        OnClientGone::Cancel => "; cancels when a client leaves",
        OnClientGone::Drain => "; drains when a client leaves",
    });
    if key.require_usage {
        text.push_str("; chat streams must report usage");
    }
    text
}

/// Describes retention, memory and place of the affinity data, and any setting that differs from its default.
fn write_affinity(out: &mut String, config: &Config) -> fmt::Result {
    let AffinitySettings { ttl, max_entries, shared, unknown_ids } = config.affinity;
    let place = if shared { "shared in Redis" } else { "kept in the data folder" };
    let unknown = match unknown_ids {
        Some(UnknownIds::Refuse) => "; unknown ids are refused",
        Some(UnknownIds::Route) => "; unknown ids are sent upstream",
        None => "",
    };
    let days = ttl.as_secs() / 86_400;
    writeln!(out, "affinity     {days} days, {max_entries} ids in memory, {place}{unknown}")
}

fn budgets(budgets: &[Budget]) -> String {
    let start = |budget: &Budget| match budget.starts_on {
        1 => String::new(),
        day => format!(" from day {day} on"),
    };
    budgets.iter().map(|budget| format!("; {budget}{}", start(budget))).collect()
}

/// Describes the limits of a key for some models.
fn by_model(all: &[ModelLimits]) -> String {
    let one = |one: &ModelLimits| format!("; of {}: {}", one.model.0, limits(one.limits) + &budgets(&one.budgets));
    all.iter().map(one).collect::<String>().replace(": ; ", ": ")
}

fn write_prices(out: &mut String, config: &Config) -> fmt::Result {
    let MoneySettings { time_zone, cny_per_usd, .. } = &config.money;
    let rate = cny_per_usd.map(|rate| format!(", {} CNY for one USD", decimal(rate))).unwrap_or_default();
    writeln!(out, "\nprices (days, weeks and months begin in {}{rate})", time_zone.iana_name().unwrap_or("UTC"))?;
    for ModelPrice { upstream, model, from, price } in &config.prices {
        let from = Timestamp::from_millisecond(i64::try_from(*from).unwrap_or_default()).unwrap_or_default();
        let from = if from == Timestamp::UNIX_EPOCH {
            String::new()
        } else {
            format!(" from {}", from.to_zoned(time_zone.clone()).date())
        };
        let upstream = config.upstreams.get(*upstream).map_or("", |upstream| &*upstream.name);
        writeln!(out, "  {upstream}/{model}{from}: {price}")?;
    }
    for upstream in &config.upstreams {
        match upstream.official_prices {
            Some(part) => writeln!(out, "  {}: {} times the list price, else", upstream.name, decimal(part))?,
            None if config.prices.iter().any(|price| config.upstreams[price.upstream].name == upstream.name) => {}
            None => writeln!(out, "  {}: none; counted in tokens", upstream.name)?,
        }
    }
    Ok(())
}

fn limits(limits: KeyLimits) -> String {
    let KeyLimits { requests, tokens, in_flight } = limits;
    let parts = [
        requests.map(|count| format!("; {count} requests per minute")),
        tokens.map(|count| format!("; {count} tokens per minute")),
        in_flight.map(|count| format!("; {count} requests at once")),
    ];
    parts.into_iter().flatten().collect()
}

/// Shows the targets in the order of attempts: `>` before the next priority, `|` between equal ones, which have weights.
fn write_model(out: &mut String, config: &Config, model: &Model) -> fmt::Result {
    let mut targets: Vec<_> = model.targets.iter().collect();
    targets.sort_by_key(|target| target.priority);
    let groups = targets.chunk_by(|a, b| a.priority == b.priority).map(|equals| {
        let target = |target: &&Target| {
            let upstream = &config.upstreams[target.upstream].name;
            let name = target.model.as_ref().map_or_else(|| upstream.to_string(), |name| format!("{upstream}/{name}"));
            if equals.len() > 1 { format!("{name} ({})", target.weight) } else { name }
        };
        equals.iter().map(target).collect::<Vec<_>>().join(" | ")
    });
    let strategy = match model.strategy {
        Strategy::LeastLatency => ", the faster of two random targets",
        Strategy::Ordered | Strategy::Weighted => "",
    };
    let lost = match model.on_lost_state {
        OnLostState::Fail => "",
        OnLostState::StripEncrypted => ", without encrypted content at another account if its account cannot answer",
    };
    let usage = if model.require_usage { ", chat streams must report usage" } else { "" };
    writeln!(out, "  {} -> {}{strategy}{lost}{usage}", model.name, groups.collect::<Vec<_>>().join(" > "))
}

fn write_upstream(out: &mut String, upstream: &Upstream) -> fmt::Result {
    writeln!(out, "  {}: {}", upstream.name, upstream.base_url)?;
    if let Some(proxy) = &upstream.proxy {
        writeln!(out, "    through {proxy}")?;
    }
    if let Some(limit) = upstream.max_in_flight {
        writeln!(out, "    {limit} requests at once, {} may wait", upstream.max_queued)?;
    }
    if !Surface::ALL.iter().all(|surface| upstream.surface.contains(surface)) {
        let names: Vec<_> = upstream.surface.iter().map(|surface| surface.name()).collect();
        writeln!(out, "    has only {}", names.join(", "))?;
    }
    let FailoverOn { disconnect, timeout, empty } = upstream.failover_on;
    let also = [(disconnect, "disconnect"), (timeout, "timeout"), (empty, "empty")];
    let also: Vec<_> = also.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if !also.is_empty() {
        writeln!(out, "    failover also on {}", also.join(", "))?;
    }
    if let Some(statuses) = &upstream.failover_statuses {
        let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
        let all = if statuses.is_empty() { "no status".to_owned() } else { format!("status {}", statuses.join(", ")) };
        writeln!(out, "    failover on {all}")?;
    }
    if !upstream.failover_codes.is_empty() {
        writeln!(out, "    failover on code {}", upstream.failover_codes.join(", "))?;
    }
    for credential in &upstream.credentials {
        let limit = credential.max_in_flight.map(|limit| format!(", {limit} requests at once")).unwrap_or_default();
        writeln!(out, "    credential {} (account {}){limit}", credential.name, credential.account)?;
    }
    if upstream.credentials.is_empty() {
        writeln!(out, "    no credential")?;
    }
    Ok(())
}
