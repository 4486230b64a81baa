//! Estimates the cost of a request before it is made, for keys with a budget.

use std::fmt::Write;

use super::{error::ApiError, tables::Tables};
use crate::{
    auth::Caller,
    config::{Config, Key, Unpriced},
    domain::{money::Currency, usage::UsageEstimate},
    limits::Costs,
    routing::Target,
    upstream::Upstream,
};

/// Returns the highest cost among the targets, in each currency. `asked` = the model as the client wrote it.
///
/// # Errors
/// When a target has no price, unless the configuration allows that. The cost of a request to such a target would not be
/// counted.
pub(super) fn highest_costs<'a>(
    tables: &Tables,
    targets: impl Iterator<Item = (&'a Target, &'a Upstream)>,
    asked: Option<&str>,
    estimate: UsageEstimate,
    began: u64,
) -> Result<Costs, ApiError> {
    let (usage, exchange) = (estimate.usage(), tables.prices.exchange());
    let mut costs = Costs::default();
    for (target, _) in targets {
        let model = target.model.as_deref().or(asked);
        let Some(price) = model.and_then(|model| tables.prices.price(target.upstream, model, began)) else {
            if tables.prices.unpriced() == Unpriced::Refuse {
                return Err(ApiError::unpriced_model(asked));
            }
            continue;
        };
        for (currency, highest) in Currency::ALL.into_iter().zip(&mut costs) {
            let cost = exchange.convert(price.cost(&usage), price.base.currency, currency).unwrap_or_default();
            *highest = cost.max(*highest);
        }
    }
    Ok(costs)
}

/// Returns a list of the models that client keys cannot use, because the key has a budget and the model has no price. Each key has one
/// line. `now` = milliseconds since 1970-01-01 UTC.
pub fn unpriced(tables: &Tables, config: &Config, now: u64) -> String {
    let mut out = String::new();
    if tables.prices.unpriced() == Unpriced::Allow {
        return out;
    }
    for (index, key) in config.keys.iter().enumerate() {
        let Some(caller) = tables.keys.named(&key.name) else { continue };
        let names = names(config, key).filter(|name| tables.limits.has_budgets(index, Some(name)));
        let hit: Vec<String> = names.filter_map(|name| without_price(tables, &caller, name, now)).collect();
        if !hit.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "  {}: {}", key.name, hit.join(", "));
        }
    }
    out
}

/// Returns the names to check: the models of the configuration, and names that only this key lists.
fn names<'a>(config: &'a Config, key: &'a Key) -> impl Iterator<Item = &'a str> {
    let known = config.models.iter().map(|model| &*model.name);
    let own = key.models.iter().flatten().map(|name| &**name);
    known.chain(own.filter(|own| !config.models.iter().any(|model| *model.name == **own)))
}

/// Returns the name with the upstreams where it has no price. `None` = the name has a price everywhere, or the key may not use
/// it.
fn without_price(tables: &Tables, caller: &Caller, name: &str, now: u64) -> Option<String> {
    let beginning = name.strip_suffix('*');
    if !caller.may_use_model(name) {
        return None;
    }
    // A pattern's final star matches itself, so the pattern has the same route as its names.
    let route = tables.routes.route(name)?;
    let targets = route.targets.iter().filter(|target| caller.may_use(target.upstream));
    let lacks = targets.filter_map(|target| {
        let upstream = &tables.upstreams.get(target.upstream)?.config.name;
        match (&target.model, beginning) {
            (None, Some(beginning)) if tables.prices.cover_prefix(target.upstream, beginning, now) => None,
            (None, Some(_)) => Some(format!("names without a price at {upstream}")),
            (model, _) => {
                let model = model.as_deref().unwrap_or(name);
                tables.prices.price(target.upstream, model, now).is_none().then(|| format!("at {upstream}"))
            }
        }
    });
    let lacks: Vec<String> = lacks.collect();
    (!lacks.is_empty()).then(|| format!("{name} ({})", lacks.join(", ")))
}
