//! The files of `config/` and `tests/config/`, and what no report may ever show.

use std::{collections::BTreeSet, ffi::OsString, fs, time::Duration};

use http::HeaderName;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::*;

const MINIMAL: &str = include_str!("../../config/minimal.toml");

fn nothing(_: &str) -> Option<OsString> {
    None
}

fn load_text(name: &str, text: &str, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, Report> {
    super::load_text(name, text, env, &mut WatchedFiles::default(), SecretsNeeded::Read)
}

/// The environment of the test files. Every secret in it holds the word that `no_secret` looks for.
fn env(name: &str) -> Option<OsString> {
    #[cfg(unix)]
    if name == "BINARY_KEY" {
        return Some(std::os::unix::ffi::OsStringExt::from_vec(b"sk-canary-\xff".to_vec()));
    }
    let value = match name {
        "GOOD_KEY" => "sk-canary-good-0123456789",
        "OTHER_KEY" => "sk-canary-other-0123456789",
        "CLIENT_KEY" => "sk-canary-client-0123456789",
        "SPACED_KEY" => "sk canary",
        "SHORT_KEY" => "sk-canary",
        "KNOWN_KEY" => "sk-xxxxxxxxxxxxxxxxxxxx",
        "EMPTY_KEY" => "",
        "QUOTED_KEY" => "\"sk-canary-quoted\"",
        _ => return None,
    };
    Some(value.into())
}

fn files(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(format!("tests/config/{folder}")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|name| name == "toml")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn file(name: &str) -> Config {
    load(&Source::File(format!("tests/config/valid/{name}.toml").into()), &env).unwrap().config
}

fn no_secret(text: &str, about: &str) {
    for secret in ["canary", "xxxx"] {
        assert!(!text.contains(secret), "{about} shows a secret:\n{text}");
    }
}

#[test]
fn every_fault_is_reported_with_its_place_and_a_mend() {
    let bless = std::env::var_os("TIDEGATE_BLESS").is_some();
    for file in files("invalid") {
        let report =
            load(&Source::File(file.clone()), &env).err().unwrap_or_else(|| panic!("{} is valid", file.display()));
        let text = report.to_string();
        no_secret(&text, &file.display().to_string());
        assert_eq!(text.matches("= help: ").count(), report.count(), "{text}");
        let placed = text.matches(&format!("--> {}:", file.display())).count();
        let outside = ["none.toml", "idle.toml"].iter().filter(|name| file.ends_with(name)).count();
        assert_eq!(placed + outside, report.count(), "{text}");
        let expected = file.with_extension("txt");
        if bless {
            fs::write(&expected, &text).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(text, expected, "{}: TIDEGATE_BLESS=1 writes this down as expected", file.display());
    }
}

#[test]
fn valid_files_load_and_show_no_secret() {
    for file in files("valid") {
        let loaded = load(&Source::File(file.clone()), &env).unwrap();
        assert_eq!(loaded.source, file.display().to_string());
        no_secret(&summary(&loaded.config, &"", &"").replace("x-canary", ""), "summary");
        no_secret(&format!("{loaded:?}").replace("x-canary", ""), "Debug");
    }
}

#[test]
fn the_built_in_configuration_needs_one_variable() {
    let one = |name: &str| (name == "MODELVERSE_API_KEY").then(|| "sk-canary".into());
    let Loaded { config, source, reads } = load(&Source::BuiltIn, &one).unwrap();
    assert_eq!((source.as_str(), reads), ("config/tidegate.toml (built in)", WatchedFiles::default()));
    assert_eq!(config.upstreams.len(), 1);
    assert_eq!(config.upstreams[0].base_url, "https://api.modelverse.cn/v1");
    assert_eq!(config.upstreams[0].credentials[0].secret.expose_secret(), "sk-canary");
    assert_eq!(config.upstreams[0].credentials[0].name.as_ref(), "MODELVERSE_API_KEY");
    assert_eq!(config.idle[1].variables, ["ACEDATA_API_KEY"]);
    let models: Vec<_> = config.models.iter().map(|model| (model.name.as_ref(), model.targets[0].upstream)).collect();
    let names = ["gpt-5.2-pro", "gpt-5-pro", "gpt-5-mini", "gpt-4.1", "gpt-4o", "o3", "*"];
    assert_eq!(models, names.map(|name| (name, 0)));
    assert!(config.keys.is_empty());

    let all = |name: &str| match name {
        "TIDEGATE_KEY" => Some("sk-canary-of-a-client".into()),
        name => name.ends_with("_API_KEY").then(|| name.into()),
    };
    let config = load(&Source::BuiltIn, &all).unwrap().config;
    let first = |i: usize| &*config.upstreams[config.models[i].targets[0].upstream].name;
    assert_eq!((first(0), first(3), first(4)), ("dmxapi", "acedata", "modelverse"));
    assert_eq!(config.upstreams[2].base_url.path(), "/openai");
    assert_eq!(config.keys[0].name.as_ref(), "default");
    assert!(config.keys[0].models.is_none() && config.keys[0].upstreams.is_none());

    let report = load(&Source::BuiltIn, &nothing).unwrap_err().to_string();
    for word in ["DMXAPI_API_KEY", "MODELVERSE_API_KEY", "ACEDATA_API_KEY", "tidegate demo"] {
        assert!(report.contains(word), "{report}");
    }
}

#[test]
fn minimal_file_loads() {
    let one = |name: &str| (name == "DMXAPI_API_KEY").then(|| "sk-canary".into());
    let config = load_text("minimal.toml", MINIMAL, &one).unwrap();
    assert_eq!((config.upstreams.len(), config.models.len(), config.keys.len()), (1, 1, 0));
    assert_eq!(config.timeouts.upstream_silence, Duration::from_secs(600));
}

#[test]
fn the_file_for_several_replicas_loads() {
    let source = Source::File("config/replicas.toml".into());
    let all =
        |name: &str| (name.ends_with("_KEY") || name.ends_with("_PASSWORD")).then(|| "sk-canary-0123456789".into());
    let config = load(&source, &all).unwrap().config;
    let sharing = config.sharing.as_ref().unwrap();
    assert_eq!((sharing.redis.to_string().as_str(), sharing.replicas), ("redis://valkey:6379/0", 3));
    assert_eq!(sharing.fail, WhenRedisIsAway::Share);
    assert!(sharing.redis.password.is_some() && config.store != Store::Sqlite);
    no_secret(&format!("{config:?}"), "Debug");
}

#[test]
fn where_limits_are_shared_is_taken_as_written() {
    let config = file("sharing");
    let sharing = config.sharing.as_ref().unwrap();
    assert_eq!(sharing.redis.to_string(), "rediss://tidegate@cache.internal:6379/3");
    assert_eq!((sharing.replicas, sharing.fail), (3, WhenRedisIsAway::Closed));
    assert!(sharing.patience < Duration::from_millis(50));
    let line = "limits       rediss://tidegate@cache.internal:6379/3, shared by 3 replicas; while it is away, keys with limits";
    let summary = summary(&config, &"", &"");
    assert!(summary.contains(line), "{summary}");
}

#[test]
fn prices_are_taken_as_written_and_what_is_not_written_rises_with_the_rest() {
    use crate::domain::{
        money::UNIT,
        usage::{ServiceTier, Usage},
    };

    let prices = file("prices").prices;
    let tariff = &prices.iter().find(|price| &*price.model == "all-*").unwrap().price;
    assert_eq!(tariff.base.per_audio_second, Some(UNIT / 10_000));
    // Nano-dollars for a million tokens of input, of the cache, of audio, written for an hour; of output, reasoning, images.
    for (tier, input, expected) in [
        (None, 200_000, [2000, 500, 32_000, 4000, 10_000, 10_000, 40_000]),
        (None, 200_001, [4000, 1000, 64_000, 8000, 15_000, 15_000, 60_000]),
        (None, 272_001, [6000, 1000, 96_000, 12_000, 20_000, 21_000, 80_000]),
        (Some(ServiceTier::Flex), 272_001, [3000, 500, 48_000, 6000, 10_000, 10_500, 40_000]),
        (Some(ServiceTier::Batch), 1, [1000, 250, 16_000, 2000, 5000, 5000, 20_000]),
        (Some(ServiceTier::Priority), 1, [4000, 1000, 64_000, 8000, 20_000, 20_000, 80_000]),
    ] {
        let bill = tariff.bill(&Usage { input: Some(input), tier, ..Usage::default() });
        let price = bill.price;
        let found = [
            price.input,
            price.cached,
            price.input_audio.unwrap(),
            price.cache_write_1h.unwrap(),
            price.output,
            price.reasoning,
            price.output_image.unwrap(),
        ];
        assert_eq!(found, expected.map(|milli| milli * UNIT / 1000), "{tier:?} {input}");
        assert_eq!((price.per_call, price.per_web_search), (UNIT / 1000, Some(UNIT / 100)), "{tier:?} {input}");
        assert!(bill.unpriced.is_empty());
    }
}

#[test]
fn affinity_is_taken_as_written() {
    let config = file("affinity");
    let expected = AffinitySettings {
        ttl: Duration::from_secs(7 * 86_400),
        max_entries: 5000,
        shared: false,
        unknown_ids: Some(UnknownIds::Route),
    };
    assert_eq!((config.affinity, config.models[0].on_lost_state), (expected, OnLostState::StripEncrypted));
    let summary = summary(&config, &"", &"");
    for line in [
        "affinity     7 days, 5000 ids in memory, kept in the data folder; unknown ids are sent upstream\n",
        "  m -> a, without encrypted content at another account if its account cannot answer\n",
    ] {
        assert!(summary.contains(line), "{summary}");
    }
    let shared = file("sharing").affinity;
    assert_eq!((shared.shared, shared.ttl.as_secs(), shared.max_entries), (true, 30 * 86_400, 1_000_000));
    assert!(!file("limits").affinity.shared);
}

/// Paths of all settings in a schema, with their defaults.
fn settings_of_schema(schema: &Value, path: &str, all: &mut Vec<(String, Value)>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, property) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        all.push((path.clone(), property["default"].clone()));
        // How a secret is named is shown where keys are.
        if path.ends_with("password") || path == "alerts.secret" {
            continue;
        }
        settings_of_schema(property, &path, all);
        settings_of_schema(&property["items"], &path, all);
    }
}

/// Paths of all settings in a file, with their values.
fn settings_of_file(value: &toml::Value, path: &str, all: &mut Vec<(String, Value)>) {
    match value {
        toml::Value::Table(table)
            if path != "upstreams.headers" && path != "alerts.secret" && !path.ends_with("password") =>
        {
            for (name, value) in table {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                all.push((path.clone(), serde_json::to_value(value).unwrap()));
                settings_of_file(value, &path, all);
            }
        }
        toml::Value::Array(array) => array.iter().for_each(|value| settings_of_file(value, path, all)),
        _ => {}
    }
}

#[test]
fn the_page_shows_every_setting_with_its_default() {
    let page: Vec<_> = BUILT_IN
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).unwrap_or(line))
        .collect();
    let page = page.join("\n").replace("/etc/ssl/company-ca.pem", "./tests/config/ca.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = pair(&made.cert.pem(), &made.signing_key.serialize_pem());
    let page = page.replace("/etc/tidegate/tls", folder.path().join("tls").to_str().unwrap());
    let all = |name: &str| {
        Some(format!("secret-of-{name}").into())
            .filter(|_| !name.starts_with("TIDEGATE_L") && name != "TIDEGATE_DATA_DIR")
    };
    let report = load_text("page", &page, &all).err();
    assert!(report.is_none(), "{}", report.unwrap());

    let (mut written, mut known) = (Vec::new(), Vec::new());
    settings_of_file(&page.parse::<toml::Table>().unwrap().into(), "", &mut written);
    settings_of_schema(&schema::tree(), "", &mut known);
    let names = |all: &[(String, Value)]| all.iter().map(|(path, _)| path.clone()).collect::<BTreeSet<_>>();
    assert_eq!(names(&written), names(&known));
    for (path, default) in known.iter().filter(|(_, default)| !default.is_null()) {
        // Optional is what the page is about: it has to run with any one of the providers.
        if !path.ends_with(".optional") {
            let shown: Vec<_> = written.iter().filter(|(other, _)| other == path).map(|(_, value)| value).collect();
            assert_eq!(shown, [default], "{path}");
        }
    }
}

#[test]
fn a_file_without_settings_means_what_the_page_says() {
    let config = load_text("t", "[[upstreams]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:1/v1\"", &nothing).unwrap();
    let (server, upstream) = (&config.server, &config.upstreams[0]);
    assert_eq!(
        (server.listen.to_string(), server.admin_listen.to_string()),
        ("0.0.0.0:8080".into(), "127.0.0.1:8081".into())
    );
    assert!(server.metrics_listen.is_none() && server.workers >= 1);
    assert_eq!(
        (server.max_connections, server.max_body_bytes, server.max_body_memory, server.data_dir.to_str()),
        (10_000, 64 << 20, 512 << 20, Some("data"))
    );
    let timeouts = &config.timeouts;
    let seconds = [
        timeouts.first_byte,
        timeouts.head,
        timeouts.keep_alive_idle,
        timeouts.body_idle,
        timeouts.body_total,
        timeouts.write_stall,
        timeouts.drain_delay,
        timeouts.drain,
        timeouts.queue,
        timeouts.upstream_connect,
        timeouts.upstream_head,
        timeouts.upstream_silence,
        timeouts.upstream_pool_idle,
    ];
    assert_eq!(seconds.map(|t| t.as_secs()), [10, 10, 75, 20, 300, 60, 5, 300, 1, 5, 1800, 600, 50]);
    assert_eq!(timeouts.body_min_rate, 1024);
    assert_eq!((config.log.format, config.log.level.as_str()), (LogFormat::Json, "info"));
    assert!(upstream.credentials.is_empty() && config.idle.is_empty() && upstream.error_rules.is_empty());
    assert_eq!((&upstream.auth_header, upstream.on_incomplete), (&http::header::AUTHORIZATION, OnIncomplete::Pass));
    assert_eq!((upstream.codex_headers, upstream.organization_headers, upstream.trace_headers), (true, false, false));
    assert_eq!(upstream.max_idle_connections, 64);
    assert_eq!((upstream.failover_on, upstream.max_in_flight, upstream.max_queued), (FailoverOn::default(), None, 64));
    let second = Duration::from_secs(1);
    assert_eq!(config.retries, Retries { max_attempts: 3, percent: 20, retry_after_max: 2 * second });
    let health = Health {
        consecutive_faults: 5,
        fault_percent: 50,
        eject: 30 * second,
        eject_max: 300 * second,
        refused: 600 * second,
        cooldown_max: 300 * second,
    };
    assert_eq!(config.health, health);
}

#[test]
fn limits_are_taken_as_written() {
    let config = file("limits");
    let key = &config.keys[0];
    assert_eq!(key.limits, KeyLimits { requests: Some(60), tokens: Some(200_000), in_flight: Some(5) });
    assert_eq!(config.groups[key.group.unwrap()].name.as_ref(), "team");
    assert_eq!(config.groups[0].limits, KeyLimits { requests: Some(600), tokens: None, in_flight: Some(50) });
    assert_eq!(key.limits_by_model[0].limits, KeyLimits { requests: Some(10), tokens: None, in_flight: None });
    assert_eq!(
        (&*key.warn_at, key.budgets[0].starts_on, key.budgets[1].starts_on),
        (&[500_000_000, 1_000_000_000][..], 1, 15)
    );
    assert_eq!(*config.groups[0].warn_at, [800_000_000, 1_000_000_000]);
    let summary = summary(&config, &"", &"");
    for line in [
        "; 60 requests per minute; 200000 tokens per minute; 5 requests at once; 5 CNY/week; 50 CNY/month from day 15 on; of \
         a/gpt-5*: 10 requests per minute; 1.5 CNY/day; of a/o3: 1 requests at once; group team; from 10.0.0.0/8, 192.0.2.7/32; ends \
         2030-01-01T00:00:00Z; drains when a client leaves\n",
        "  group team; 600 requests per minute; 50 requests at once\n",
    ] {
        assert!(summary.contains(line), "{summary}");
    }
}

#[test]
fn strategies_and_priorities_are_taken_as_written() {
    let config = file("routing");
    let model = |i: usize| {
        let model = &config.models[i];
        (model.strategy, model.targets.iter().map(|one| (one.priority, one.weight)).collect::<Vec<_>>())
    };
    assert_eq!(model(0), (Strategy::Ordered, vec![(1, 1), (2, 1)]));
    assert_eq!(model(1), (Strategy::Ordered, vec![(2, 3), (2, 1)]));
    assert_eq!(model(2), (Strategy::Weighted, vec![(1, 3), (1, 1)]));
    assert_eq!(model(3), (Strategy::LeastLatency, vec![(7, 1), (1, 1)]));
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.failover_on, FailoverOn { disconnect: true, timeout: false, empty: true });
    assert_eq!(upstream.failover_statuses.as_deref(), Some(&[429, 503][..]));
    assert_eq!(upstream.failover_codes, ["engine overloaded"]);
    assert_eq!((&config.upstreams[1].failover_statuses, config.upstreams[1].failover_codes.len()), (&None, 0));
    assert_eq!((upstream.max_in_flight, upstream.credentials[0].max_in_flight), (Some(9), Some(3)));
    let summary = summary(&config, &"", &"");
    for line in [
        "  as-written -> a > b\n",
        "  shared -> a (3) | b (1)\n",
        "  fast -> b > a, the faster of two random targets\n",
        "    9 requests at once, 0 may wait\n    failover also on disconnect, empty\n",
        "(account OTHER_KEY), 3 requests at once\n",
    ] {
        assert!(summary.contains(line), "{summary}");
    }
}

#[test]
fn what_leads_to_an_idle_upstream_goes_with_it() {
    let config = file("idle");
    assert_eq!(config.upstreams[0].base_url, "http://vllm:8000/v1");
    assert_eq!(config.idle[0].variables, ["UNSET_KEY", "./tests/config/no-such-file.txt"]);
    assert_eq!(config.models.len(), 1);
    assert_eq!((config.models[0].targets.len(), config.models[0].targets[0].model.as_deref()), (1, Some("b")));
    assert_eq!(config.default_upstream, None);
    assert_eq!(config.keys.len(), 1);
    // None would mean all.
    assert_eq!(config.keys[0].upstreams, Some(vec![]));
    let summary = summary(&config, &"", &"");
    for line in [
        "idle: not used, because no credential is set; set UNSET_KEY or ./tests",
        "both -> live/b",
        "nothing: gone, idle/*; no upstream",
    ] {
        assert!(summary.contains(line), "{summary}");
    }
}

fn rule(status: Option<u16>, code: Option<&str>, words: &[&str], fault: FaultOwner) -> ErrorRule {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    ErrorRule { status, code: code.map(Into::into), kind: None, words, fault }
}

#[test]
fn files_pools_and_hashes_are_taken_as_written() {
    let config = file("files");
    let upstream = &config.upstreams[0];
    let credentials: Vec<_> =
        upstream.credentials.iter().map(|one| (&*one.name, &*one.account, one.secret.expose_secret())).collect();
    assert_eq!(
        credentials,
        [("secret", "shared", "sk-canary-from-a-file-0123"), ("second", "shared", "sk-canary-other-0123456789")]
    );
    assert_eq!(upstream.auth_header, HeaderName::from_static("api-key"));
    assert_eq!(upstream.headers["x-canary"], "sk-canary-in-a-header");
    assert!(upstream.ca_pem.as_ref().is_some_and(|pem| pem.starts_with(b"-----BEGIN CERTIFICATE")));
    assert_eq!((upstream.max_body_bytes, upstream.on_incomplete), (Some(20 << 20), OnIncomplete::Break));
    assert_eq!(
        upstream.error_rules,
        [
            rule(Some(403), Some("token_mismatched"), &[], FaultOwner::Credential),
            rule(Some(402), None, &[], FaultOwner::Request),
            ErrorRule {
                kind: Some("two words".into()),
                ..rule(None, None, &["Daily limit", "额度"], FaultOwner::Balance)
            },
            rule(Some(503), None, &["no channel"], FaultOwner::Model),
            rule(None, Some("overloaded"), &[], FaultOwner::Upstream),
        ]
    );
    assert_eq!((config.server.workers, config.default_upstream), (3, Some(0)));
    assert_eq!((config.keys[0].sha256[0], &config.keys[0].upstreams), (0xa6, &Some(vec![0])));
}

#[test]
fn the_environment_wins() {
    const TEXT: &str = "[server]\nlisten = \"not used\"\n[[upstreams]]\nname = \"a\"\nbase_url = \"http://a/v1\"";
    let with = |listen: &'static str, folder: &'static str| {
        load_text("t", TEXT, &move |name: &str| match name {
            "TIDEGATE_LISTEN" => Some(listen.into()),
            "TIDEGATE_DATA_DIR" => Some(folder.into()),
            _ => None,
        })
    };
    let server = with("127.0.0.1:9000", "/data").unwrap().server;
    assert_eq!((server.listen.to_string(), server.data_dir), ("127.0.0.1:9000".into(), PathBuf::from("/data")));
    // A variable that is empty is not set.
    let report = with("", "").unwrap_err().to_string();
    assert!(
        report.contains("`listen` is neither an address and a port nor a Unix socket"),
        "what the file says counts: {report}"
    );
    assert_eq!(with("127.0.0.1:9000", "").unwrap().server.data_dir, PathBuf::from("data"));
    let report = with("nonsense", "").unwrap_err();
    assert_eq!(report.count(), 1);
    assert!(report.to_string().contains("the variable TIDEGATE_LISTEN is neither an address"), "{report}");
    let report = with("127.0.0.1:8081", "/data").unwrap_err().to_string();
    assert!(
        report.contains("`admin_listen` uses port 8081, which `listen` (which TIDEGATE_LISTEN sets) uses too"),
        "{report}"
    );
}

#[test]
fn files_that_are_no_files_are_reported() {
    let report = load(&Source::File("tests/config/nowhere.toml".into()), &nothing).unwrap_err();
    assert!(report.to_string().contains("tests/config/nowhere.toml"), "{report}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), b"a = 1\nb = \"sk-canary \xff\"").unwrap();
    let report = load(&Source::File(file.path().into()), &nothing).unwrap_err();
    assert!(report.to_string().contains(&format!("{}:2:16", file.path().display())), "{report}");
    no_secret(&report.to_string(), "report");
}

#[test]
fn a_change_of_any_file_that_was_read_is_seen() {
    let folder = tempfile::TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pem = fs::read("tests/config/ca.pem").unwrap();
    let text = format!(
        "[[upstreams]]\nname = \"a\"\nbase_url = \"https://a/v1\"\nca_file = {:?}\n\
         credentials = [{{ file = {:?} }}, {{ file = {:?}, optional = true }}]\n",
        at("ca"),
        at("secret"),
        at("optional")
    );
    for (name, text) in [("file", text.as_bytes()), ("ca", &pem), ("secret", b"sk-canary-0123456789")] {
        fs::write(at(name), text).unwrap();
    }
    let load = || load(&Source::File(at("file")), &nothing);
    let Loaded { config, reads, .. } = load().unwrap();
    assert_eq!((reads.again(), load().unwrap().config), (reads.clone(), config.clone()));
    for (name, text) in [("optional", "sk-canary-optional"), ("secret", "sk-canary-another"), ("ca", ""), ("file", "=")]
    {
        let before = reads.again();
        fs::write(at(name), text).unwrap();
        assert_ne!(reads.again(), before, "{name}");
        // Also that of a credential's secret, by which nothing else differs.
        assert!(load().is_err() || load().unwrap().config != config, "{name}");
    }
    let report = load().unwrap_err();
    assert_eq!(report.reads().again(), *report.reads());
    fs::remove_file(at("file")).unwrap();
    assert_ne!(report.reads().again(), *report.reads());
}

#[test]
fn the_report_of_any_cut_file_shows_no_secret() {
    // Whatever is half written: nothing of what is in quotes or remarks comes out.
    for file in files("invalid") {
        let text = fs::read_to_string(&file).unwrap();
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            if let Err(report) = load_text("t", &text[..end], &env) {
                no_secret(&report.render(end % 2 == 0), &format!("{}, the first {end} bytes", file.display()));
            }
        }
    }
}

#[test]
fn the_schema_is_json_and_closed() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["server"]["properties"]["max_body_mib"]["maximum"], 1024);
    assert!(!schema.to_string().contains("null"));
}

/// A folder with `tls.crt` and `tls.key`.
fn pair(cert: &str, key: &str) -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    fs::write(folder.path().join("tls.crt"), cert).unwrap();
    fs::write(folder.path().join("tls.key"), key).unwrap();
    folder
}

/// What is said of this pair of files, if anything.
fn about_pair(cert: &str, key: &str) -> Option<String> {
    let folder = pair(cert, key);
    let (cert_file, key_file) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let text = format!("[server]\ntls = {{ cert_file = {cert_file:?}, key_file = {key_file:?} }}\n{MINIMAL}");
    let loaded = load_text("a.toml", &text, &|name| name.ends_with("_API_KEY").then(|| "sk-canary".into()));
    match loaded {
        Ok(config) => {
            let shown = format!("{config:?}") + &summary(&config, &"", &"");
            assert!(shown.contains("Identity { .. }") && shown.contains("(data, TLS)"), "{shown}");
            None
        }
        Err(report) => {
            let text = report.to_string();
            let secret = key.lines().find(|line| line.len() > 40).unwrap_or("canary");
            assert!(!text.contains(secret) && text.contains("--> a.toml:2:"), "{text}");
            Some(text)
        }
    }
}

#[test]
fn a_certificate_and_its_key_fit_or_are_refused() {
    let made = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    let (cert, key) = (one.cert.pem(), one.signing_key.serialize_pem());
    assert_eq!(about_pair(&cert, &key), None);
    assert_eq!(about_pair(&format!("{cert}{}", other.cert.pem()), &key), None, "a chain");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (cert, key, message) in [
        (&*cert, &*other.signing_key.serialize_pem(), "`key_file` is not the key of the certificate"),
        (&format!("{}{cert}", other.cert.pem()), &key, "`key_file` is not the key of the certificate"),
        (&key, &cert, "`cert_file` holds no certificates"),
        (&key, &cert, "`key_file` holds no private key"),
        (&cert, &encrypted, "`key_file` holds no private key"),
        (&cert, "", "`key_file` holds no private key"),
        ("", &key, "`cert_file` holds no certificates"),
        (&cert[..cert.len() / 2], &key, "`cert_file` holds no certificates"),
        (nonsense, &key, "the first certificate in `cert_file` cannot be used"),
    ] {
        let report = about_pair(cert, key).unwrap();
        assert!(report.contains(message), "{message}: {report}");
    }
}

#[test]
fn a_key_in_the_place_of_its_file_is_not_shown() {
    let key = "-----BEGIN PRIVATE KEY-----\nsk-canary\n-----END PRIVATE KEY-----";
    let text = format!("[server]\ntls = {{ cert_file = \"/no/such\", key_file = '''{key}''' }}\n{MINIMAL}");
    let report = load_text("a.toml", &text, &|name| name.ends_with("_API_KEY").then(|| "sk-canary".into()))
        .unwrap_err()
        .to_string();
    no_secret(&report, &report);
}
