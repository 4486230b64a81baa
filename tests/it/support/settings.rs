//! The text of a configuration, for gateways that are processes of their own.

/// The smallest configuration that serves: the upstream `up` with the credential `UP_KEY`, the model `smart` that leads
/// to it, and the key `a` from the variable `A_KEY`. `server` has further lines of `[server]`; `tables` has further
/// tables. Text that is appended belongs to the key.
pub(crate) fn smallest(base_url: &str, server: &str, tables: &str) -> String {
    format!(
        r#"[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
{server}
{tables}
[[upstreams]]
name = "up"
base_url = "{base_url}"
credentials = [{{ env = "UP_KEY" }}]
[[models]]
name = "smart"
targets = [{{ upstream = "up" }}]
[[keys]]
name = "a"
secret = {{ env = "A_KEY" }}
"#
    )
}
