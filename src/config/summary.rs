//! What would run, for `tidegate check`. Never a secret.

use std::fmt::{self, Display, Write};

use super::types::{Config, LogFormat, Upstream};

/// What would run with this configuration, for people. `memory` is the most that it allows.
#[must_use]
pub fn summary(config: &Config, memory: &dyn Display) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, config, memory);
    out
}

fn write(out: &mut String, config: &Config, memory: &dyn Display) -> fmt::Result {
    let Config { server, timeouts, log, .. } = config;
    writeln!(out, "listens on   {} (data), {} (admin)", server.listen, server.admin_listen)?;
    if let Some(metrics) = server.metrics_listen {
        writeln!(out, "             {metrics} (metrics)")?;
    }
    writeln!(out, "data folder  {}", server.data_dir.display())?;
    writeln!(out, "workers      {}, {} connections at most", server.workers, server.max_connections)?;
    writeln!(
        out,
        "bodies       up to {} MiB, all together up to {} MiB",
        server.max_body_bytes >> 20,
        server.max_body_memory >> 20
    )?;
    writeln!(out, "memory       {memory}")?;
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

    writeln!(out, "\nupstreams")?;
    for upstream in &config.upstreams {
        write_upstream(out, upstream)?;
    }
    for idle in &config.idle {
        writeln!(out, "  {}: idle, has no credential; set {}", idle.name, idle.variables.join(" or "))?;
    }

    writeln!(out, "\nmodels")?;
    for model in &config.models {
        let targets = model.targets.iter().map(|target| {
            let upstream = &config.upstreams[target.upstream].name;
            target.model.as_ref().map_or_else(|| upstream.to_string(), |name| format!("{upstream}/{name}"))
        });
        writeln!(out, "  {} -> {}", model.name, targets.collect::<Vec<_>>().join(", "))?;
    }
    if config.models.is_empty() {
        writeln!(out, "  none; clients may ask for upstream/model")?;
    }
    match config.default_upstream {
        Some(index) => writeln!(out, "  (no model) -> {}", config.upstreams[index].name)?,
        None => writeln!(out, "  (no model) is refused")?,
    }

    writeln!(out, "\nkeys")?;
    for key in &config.keys {
        let models = key.models.as_ref().map_or_else(|| "all models".into(), |models| models.join(", "));
        let upstreams = key.upstreams.as_ref().map_or_else(
            || "all upstreams".into(),
            |indices| match indices.as_slice() {
                [] => "no upstream (all of its own are idle)".into(),
                indices => indices.iter().map(|i| &*config.upstreams[*i].name).collect::<Vec<_>>().join(", "),
            },
        );
        writeln!(out, "  {}: {models}; {upstreams}", key.name)?;
    }
    if config.keys.is_empty() {
        writeln!(out, "  none configured; the first start makes one")?;
    }
    Ok(())
}

fn write_upstream(out: &mut String, upstream: &Upstream) -> fmt::Result {
    writeln!(out, "  {}: {}", upstream.name, upstream.base_url)?;
    if let Some(proxy) = &upstream.proxy {
        writeln!(out, "    through {proxy}")?;
    }
    for credential in &upstream.credentials {
        writeln!(out, "    credential {} (account {})", credential.name, credential.account)?;
    }
    if upstream.credentials.is_empty() {
        writeln!(out, "    no credential")?;
    }
    Ok(())
}
