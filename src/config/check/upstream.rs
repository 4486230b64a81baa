//! `[[upstreams]]`.

use std::{collections::BTreeMap, path::Path as FilePath, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;

use super::{
    Check,
    secret::{SecretLookup, SecretReference, digest},
    url,
};
use crate::{
    config::{
        document::Path,
        nearest::nearest,
        raw,
        types::{Credential, ErrorRule, FailoverOn, FaultOwner, IdleUpstream, OnIncomplete, SecretsNeeded, Upstream},
    },
    domain::endpoint::Surface,
};

/// Headers of the connection, the body or the credential. Tidegate sets them; a configured value would break requests.
const NOT_OURS: [&str; 15] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The checked upstreams of the configuration, with all their names, so that other settings can refer to them.
pub(super) struct UpstreamNames {
    pub(super) live: Vec<Upstream>,
    pub(super) idle: Vec<IdleUpstream>,
    /// Every name, with its index in `live`; none for an idle upstream.
    pub(super) names: BTreeMap<String, Option<usize>>,
    /// Digests of all credentials.
    pub(super) secrets: Vec<[u8; 32]>,
    /// Whether `names` has all upstreams that the file means.
    pub(super) complete: bool,
}

impl Check<'_> {
    /// Checks the `[[upstreams]]` blocks of the configuration. Reports a fault if no usable upstream is left.
    pub(super) fn upstreams(&mut self, raw: Vec<raw::Upstream>) -> UpstreamNames {
        let faults = self.faults.len();
        let mut all = UpstreamNames {
            live: Vec::new(),
            idle: Vec::new(),
            names: BTreeMap::new(),
            secrets: Vec::new(),
            complete: self.is_complete("upstreams", raw.iter().map(|upstream| upstream.name.is_some())),
        };
        let none_written = raw.is_empty();
        for (i, raw) in raw.into_iter().enumerate() {
            self.upstream(raw, &Path::default().key("upstreams").index(i), &mut all);
        }
        if all.live.is_empty() && self.sound && self.faults.len() == faults {
            if none_written {
                let help = "add an [[upstreams]] block (config/minimal.toml is the smallest file), or look around with `tidegate demo`";
                self.fault_outside("no upstream is configured", help);
            } else {
                let variables: Vec<_> =
                    all.idle.iter().flat_map(|idle| idle.variables.iter().map(String::as_str)).collect();
                let help = format!("set one or more of {}, or look around with `tidegate demo`", variables.join(", "));
                self.fault_outside("no upstream can be used, because none has a credential that is set", help);
            }
        }
        all
    }

    /// Returns the index of the usable upstream with this name. Returns none for an idle upstream, and for an unknown one, which
    /// is a fault.
    pub(super) fn upstream_index(&mut self, all: &UpstreamNames, name: &str, path: &Path) -> Option<usize> {
        if let Some(index) = all.names.get(name) {
            return *index;
        }
        if all.complete {
            let names = all.names.keys().map(String::as_str);
            let help = match nearest(name, names.clone()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("upstreams are {}", names.collect::<Vec<_>>().join(", ")),
            };
            self.fault(path, "no upstream has this name", help);
        }
        None
    }

    fn upstream(&mut self, raw: raw::Upstream, path: &Path, all: &mut UpstreamNames) {
        let name: Arc<str> = raw.name.as_deref().unwrap_or_default().into();
        if raw.name.is_some()
            && self.short_name(&name, &['/', '*'], &path.key("name"))
            && all.names.contains_key(&*name)
        {
            self.fault(&path.key("name"), "another upstream has this name", "give each upstream a name of its own");
        }
        let base_url = raw.base_url.as_deref();
        let base_url = base_url.and_then(|text| self.url(&path.key("base_url"), url::base(text, raw.insecure)));
        let (proxy, proxy_login) = self.proxy(&raw, base_url.as_ref(), path);
        let auth_header = self.auth_header(&raw.auth_header, &path.key("auth_header"));
        let headers = self.headers(&raw.headers, &auth_header, &path.key("headers"));
        let ca_pem = raw
            .ca_file
            .filter(|_| self.secrets == SecretsNeeded::Read)
            .and_then(|file| self.ca_file(&file, &path.key("ca_file")));
        let surface = self.surface(raw.surface, &path.key("surface"));
        let error_rules = self.error_rules(raw.error_rules, &path.key("error_rules"));
        let failover_codes = self.failover_codes(raw.failover_codes, &path.key("failover_codes"));
        let official = raw.official_prices.as_ref();
        let official_prices = official.and_then(|part| self.decimal(part, &path.key("official_prices")));
        let wants_credentials = raw.credentials.is_some();
        let (credentials, unset) = self.credentials(raw.credentials, &path.key("credentials"));
        all.secrets.extend(credentials.iter().map(|one| digest(one.secret.expose_secret().as_bytes())));
        let is_idle = wants_credentials && credentials.is_empty();
        let index = (!is_idle).then_some(all.live.len());
        all.names.entry(name.to_string()).or_insert(index);
        if is_idle {
            all.idle.push(IdleUpstream { name, variables: unset });
            return;
        }
        all.live.push(Upstream {
            name,
            base_url: base_url.unwrap_or_default(),
            credentials,
            auth_header,
            headers,
            ca_pem,
            proxy,
            proxy_login,
            max_body_bytes: raw.max_body_mib.map(|mib| mib << 20),
            surface,
            on_incomplete: match raw.on_incomplete {
                raw::OnIncomplete::Pass => OnIncomplete::Pass,
                raw::OnIncomplete::Break => OnIncomplete::Break,
            },
            codex_headers: raw.codex_headers,
            organization_headers: raw.organization_headers,
            trace_headers: raw.trace_headers,
            failover_on: FailoverOn {
                disconnect: raw.failover_on.contains(&raw::FailoverOn::Disconnect),
                timeout: raw.failover_on.contains(&raw::FailoverOn::Timeout),
                empty: raw.failover_on.contains(&raw::FailoverOn::Empty),
            },
            failover_statuses: raw.failover_statuses,
            failover_codes,
            max_in_flight: raw.max_in_flight,
            max_queued: raw.max_queued,
            max_idle_connections: raw.max_idle_connections,
            official_prices,
            error_rules,
        });
    }

    /// Returns a parsed URL of the configuration, or reports its error as a fault of the setting at this path.
    pub(super) fn url(&mut self, path: &Path, url: Result<http::Uri, url::UrlError>) -> Option<http::Uri> {
        url.map_err(|(message, help)| {
            let setting = path.name().unwrap_or_default();
            self.fault(path, format!("`{setting}` {message}"), help);
        })
        .ok()
    }

    fn auth_header(&mut self, text: &str, path: &Path) -> HeaderName {
        match text.parse::<HeaderName>() {
            Ok(name) if name == http::header::AUTHORIZATION || !NOT_OURS.contains(&name.as_str()) => return name,
            Ok(_) => self.fault(
                path,
                "`auth_header` names a header that has another meaning in HTTP",
                "use \"authorization\" or, for example, \"api-key\"",
            ),
            Err(_) => self.fault(
                path,
                "`auth_header` is not a header name",
                "use \"authorization\" or, for example, \"api-key\"",
            ),
        }
        http::header::AUTHORIZATION
    }

    fn headers(&mut self, raw: &BTreeMap<String, String>, auth_header: &HeaderName, path: &Path) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in raw {
            let path = path.key(name);
            let Ok(name) = name.parse::<HeaderName>() else {
                self.fault(&path, "this is not a header name", "header names hold letters, digits and `-`");
                continue;
            };
            if NOT_OURS.contains(&name.as_str()) || name == *auth_header {
                let help = "remove the header: Tidegate sets this header for each request (the credential belongs in `credentials`)";
                self.fault(&path, format!("the header `{name}` cannot be set here"), help);
                continue;
            }
            let Ok(mut value) = HeaderValue::from_str(value) else {
                self.fault(
                    &path,
                    format!("the value of `{name}` cannot be sent"),
                    "header values are one line of visible ASCII",
                );
                continue;
            };
            // The value may be a secret, so debug output of the headers must not show it.
            value.set_sensitive(true);
            if headers.insert(&name, value).is_some() {
                self.fault(
                    &path,
                    format!("the header `{name}` is set twice"),
                    "header names do not differ by letter case",
                );
            }
        }
        headers
    }

    /// Reads the file with further CA certificates for TLS, as PEM text. Reports a fault if the file has no certificates.
    pub(super) fn ca_file(&mut self, file: &str, path: &Path) -> Option<Arc<[u8]>> {
        let pem = match self.reads.read(FilePath::new(file)) {
            Ok(pem) => pem,
            Err(error) => {
                self.fault(
                    path,
                    format!("`ca_file` cannot be read: {}", error.kind()),
                    "check the path and who may read it",
                );
                return None;
            }
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            return Some(pem.into());
        }
        self.fault(path, "`ca_file` holds no certificates", "it must be PEM text: -----BEGIN CERTIFICATE----- …");
        None
    }

    /// Returns the parts of the API that an upstream has. The default is all parts: providers grow faster than configurations, and
    /// a provider reports itself what is missing.
    fn surface(&mut self, raw: Option<Vec<raw::Surface>>, path: &Path) -> Vec<Surface> {
        if raw.as_ref().is_some_and(Vec::is_empty) {
            self.fault(path, "`surface` is empty", "leave it out if the upstream has everything");
        }
        let of = |raw| match raw {
            raw::Surface::Responses => Surface::Responses,
            raw::Surface::Conversations => Surface::Conversations,
            raw::Surface::Chat => Surface::Chat,
            raw::Surface::Completions => Surface::Completions,
            raw::Surface::Embeddings => Surface::Embeddings,
            raw::Surface::Moderations => Surface::Moderations,
            raw::Surface::Images => Surface::Images,
            raw::Surface::Audio => Surface::Audio,
        };
        raw.map_or_else(|| Surface::ALL.to_vec(), |raw| raw.into_iter().map(of).collect())
    }

    fn error_rules(&mut self, raw: Vec<raw::ErrorRule>, path: &Path) -> Vec<ErrorRule> {
        let mut rules = Vec::new();
        for (i, rule) in raw.into_iter().enumerate() {
            let path = path.index(i);
            for (name, text) in [("code", &rule.code), ("type", &rule.kind)] {
                if text.as_deref() == Some("") {
                    let message = format!("`{name}` is empty");
                    self.fault(&path.key(name), message, format!("leave it out if any {name} is meant"));
                }
            }
            let words = rule.words.unwrap_or_default();
            if words.iter().any(String::is_empty) {
                self.fault(&path.key("words"), "one of `words` is empty", "leave it out: it would match every message");
            }
            // A status out of range was reported already and is missing here.
            if self.sound && rule.status.is_none() && rule.code.is_none() && rule.kind.is_none() && words.is_empty() {
                let help = "add one of `status`, `code`, `type` and `words`";
                self.fault(&path, "the error rule has no condition, so every error would match", help);
            }
            let Some(fault) = rule.fault else { continue };
            let fault = match fault {
                raw::Fault::Credential => FaultOwner::Credential,
                raw::Fault::Balance => FaultOwner::Balance,
                raw::Fault::Request => FaultOwner::Request,
                raw::Fault::Model => FaultOwner::Model,
                raw::Fault::Upstream => FaultOwner::Upstream,
            };
            rules.push(ErrorRule { status: rule.status, code: rule.code, kind: rule.kind, words, fault });
        }
        rules
    }

    fn failover_codes(&mut self, codes: Vec<String>, path: &Path) -> Vec<String> {
        if codes.iter().any(String::is_empty) {
            self.fault(path, "one of `failover_codes` is empty", "write a code or type of an error answer");
        }
        codes
    }

    /// Returns the credentials that are set, and the variables or files that the others need.
    fn credentials(&mut self, raw: Option<Vec<raw::Credential>>, path: &Path) -> (Vec<Credential>, Vec<String>) {
        let (mut found, mut unset) = (Vec::new(), Vec::new());
        let Some(raw) = raw else { return (found, unset) };
        if raw.is_empty() {
            self.fault(path, "`credentials` is empty", "leave it out if the upstream wants none");
        }
        let mut names: Vec<String> = Vec::new();
        for (i, raw) in raw.into_iter().enumerate() {
            let path = path.index(i);
            let reference =
                SecretReference { env: raw.env.as_deref(), file: raw.file.as_deref(), optional: raw.optional };
            let secret = self.secret(&reference, &path);
            for (setting, name) in [("name", &raw.name), ("account", &raw.account)] {
                if let Some(name) = name {
                    self.name(name, &[], &path.key(setting));
                }
            }
            let name = raw.name.clone().unwrap_or_else(|| reference.own_name());
            if names.contains(&name) && !matches!(secret, SecretLookup::Faulty) {
                let place = if raw.name.is_some() { path.key("name") } else { path.clone() };
                self.fault(&place, "another credential of this upstream has this name", "give it a `name` of its own");
            }
            match secret {
                SecretLookup::Secret(secret) => {
                    let account = raw.account.as_deref().unwrap_or(&name).into();
                    let name = name.as_str().into();
                    found.push(Credential { name, account, max_in_flight: raw.max_in_flight, secret });
                }
                SecretLookup::Unset => unset.push(reference.wanted()),
                SecretLookup::Faulty => {}
            }
            names.push(name);
        }
        (found, unset)
    }
}
