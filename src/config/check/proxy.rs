//! The proxy on the way to an upstream: from the setting, or from the environment where the setting says so.

use data_encoding::BASE64;
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::SecretString;

use super::{
    Check,
    secret::{SecretLookup, SecretReference},
    url,
};
use crate::config::{document::Path, raw, types::ProxyLogin};

/// Value of `proxy` that selects the proxy of the environment.
const OF_ENVIRONMENT: &str = "env";

impl Check<'_> {
    /// Checks the setting `proxy` of an upstream. Returns the URL of the proxy and the login for it. `proxy = "env"` takes them
    /// from the environment.
    pub(super) fn proxy(
        &mut self,
        raw: &raw::Upstream,
        base_url: Option<&Uri>,
        path: &Path,
    ) -> (Option<Uri>, Option<ProxyLogin>) {
        let login = self.proxy_login(raw, path);
        match raw.proxy.as_deref() {
            None => {
                if raw.proxy_user.is_some() {
                    let help = "add `proxy`, or remove it";
                    self.fault(&path.key("proxy_user"), "`proxy_user` without `proxy`", help);
                }
                (None, None)
            }
            Some(OF_ENVIRONMENT) => {
                let (proxy, own) = base_url.map_or((None, None), |base_url| self.of_environment(base_url, path));
                (proxy, login.or(own))
            }
            Some(text) => (self.url(&path.key("proxy"), url::proxy(text)), login),
        }
    }

    fn proxy_login(&mut self, raw: &raw::Upstream, path: &Path) -> Option<ProxyLogin> {
        let password = raw.proxy_password.as_ref().and_then(|secret| {
            let (env, file) = (secret.env.as_deref(), secret.file.as_deref());
            let reference = SecretReference { env, file, optional: secret.optional };
            match self.secret(&reference, &path.key("proxy_password")) {
                SecretLookup::Secret(secret) => Some(secret),
                SecretLookup::Unset | SecretLookup::Faulty => None,
            }
        });
        match (&raw.proxy_user, password) {
            (Some(user), _) if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) => {
                let help = "write the name that the proxy knows, without a colon";
                self.fault(&path.key("proxy_user"), "`proxy_user` is not a valid user name", help);
                None
            }
            (Some(user), Some(password)) => Some(ProxyLogin { user: user.as_str().into(), password }),
            (Some(user), None) => Some(ProxyLogin { user: user.as_str().into(), password: SecretString::default() }),
            (None, _) if raw.proxy_password.is_some() => {
                let help = "add `proxy_user`: a proxy knows a password by its user";
                self.fault(&path.key("proxy_password"), "`proxy_password` without `proxy_user`", help);
                None
            }
            (None, _) => None,
        }
    }

    /// Reads the variables like curl: the variable of the scheme, else `ALL_PROXY`, unless `NO_PROXY` names the host.
    fn of_environment(&mut self, base_url: &Uri, path: &Path) -> (Option<Uri>, Option<ProxyLogin>) {
        let env = self.env;
        let variable = |names: &[&str]| -> String {
            let set = names.iter().filter_map(|name| env(name)?.into_string().ok());
            set.map(|text| text.trim().to_owned()).find(|text| !text.is_empty()).unwrap_or_default()
        };
        let matcher = Matcher::builder()
            .https(variable(&["https_proxy", "HTTPS_PROXY"]))
            .http(variable(&["http_proxy", "HTTP_PROXY"]))
            .all(variable(&["all_proxy", "ALL_PROXY"]))
            .no(variable(&["no_proxy", "NO_PROXY"]))
            .build();
        let Some(found) = matcher.intercept(base_url) else { return (None, None) };
        // The matcher keeps user and password apart from this URI.
        let text = found.uri().to_string();
        let Ok(proxy) = url::proxy(text.trim_end_matches('/')) else {
            let help =
                "set HTTPS_PROXY, HTTP_PROXY or ALL_PROXY to a URL that begins with http://, socks5:// or socks5h://";
            self.fault(&path.key("proxy"), "the proxy of the environment cannot be used", help);
            return (None, None);
        };
        let login = match (found.raw_auth(), found.basic_auth()) {
            (Some((user, password)), _) => Some((user.to_owned(), password.to_owned())),
            (None, Some(basic)) => basic.to_str().ok().and_then(from_basic),
            (None, None) => None,
        };
        let login = login.map(|(user, password)| ProxyLogin { user: user.into(), password: password.into() });
        (Some(proxy), login)
    }
}

/// Parses user and password from `Basic …`.
fn from_basic(text: &str) -> Option<(String, String)> {
    let text = BASE64.decode(text.strip_prefix("Basic ")?.as_bytes()).ok()?;
    let text = String::from_utf8(text).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}
