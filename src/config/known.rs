//! Reads the part of a configuration that commands need: store, data folder and listeners. Other parts of the file may have faults,
//! for example while a person edits the file.

use std::borrow::Cow;

use super::{
    BUILT_IN, Config, Environment, Report, SecretsNeeded, Source, Store, check,
    document::{Document, Path},
    load_text,
    nearest::nearest,
    raw, read_file,
    reads::WatchedFiles,
    schema, shape,
};

/// The part of the configuration that a command such as `tidegate keys` needs, while other parts may have faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigPart {
    /// `[store]` and `data_dir`, and `[money]` if that table has no faults.
    Store,
    /// The parts of `Store`, and the addresses of the listeners.
    Listeners,
}

/// A configuration for a command, read without the secrets of upstreams and clients. May be only the part that the command needs.
#[derive(Debug)]
pub struct PartialConfig {
    /// The whole configuration. If the file has faults, only the requested part, without upstreams, models and keys.
    pub config: Config,
    /// Name of the source, for people.
    pub source: String,
    /// Whether the data plane uses TLS. The certificate itself is not read.
    pub tls: bool,
    /// Faults in the other parts of the file.
    pub faults: Option<Report>,
}

/// Tables that are read even when other tables have faults.
const TABLES: [&str; 2] = ["server", "store"];

/// Reads a configuration for a command. If the file has faults, reads only the part that the command needs.
///
/// # Errors
/// A report of every fault, when the needed part has faults too or cannot be separated from the faulty parts.
pub fn load_known(source: &Source, env: Environment<'_>, part: ConfigPart) -> Result<PartialConfig, Report> {
    let mut reads = WatchedFiles::default();
    let (name, text) = match source {
        Source::BuiltIn => ("config/tidegate.toml (built in)".to_owned(), BUILT_IN.to_owned()),
        Source::File(file) => {
            let name = file.display().to_string();
            let text = read_file(&name, file, &mut reads)?;
            (name, text)
        }
    };
    match load_text(&name, &text, env, &mut reads, SecretsNeeded::Leave) {
        Ok(config) => Ok(PartialConfig { config, source: name, tls: has_tls(&text), faults: None }),
        Err(report) => match sound_part(&text, env, part) {
            Some((config, tls)) => Ok(PartialConfig { config, source: name, tls, faults: Some(report) }),
            None => Err(report),
        },
    }
}

fn has_tls(text: &str) -> bool {
    Document::parse(text).is_ok_and(|document| tls_of(&document))
}

fn tls_of(document: &Document<'_>) -> bool {
    // For a missing setting, `place` returns the place of its table.
    let (server, tls) = (Path::default().key("server"), Path::default().key("server").key("tls"));
    document.place(&tls) != document.place(&server)
}

/// Returns the part only if the store is certain: a command on the wrong store would do harm.
fn sound_part(text: &str, env: Environment<'_>, part: ConfigPart) -> Option<(Config, bool)> {
    let sound = match Document::parse(text) {
        Ok(document) => {
            let mut names = document.root.get_ref().keys().map(|key| key.get_ref().as_ref());
            if names.any(is_misspelled) {
                return None;
            }
            Cow::Borrowed(text)
        }
        Err(_) => Cow::Owned(tables(text)?),
    };
    let config = |also: &[&str]| read(&sound, env, part, also);
    let (config, tls) = config(&["money"]).or_else(|| config(&[]))?;
    // The URL of a PostgreSQL database may be in a table that is not read. Then the command must not use SQLite.
    let names_postgres = |line: &str| !line.trim_start().starts_with('#') && line.contains("postgres");
    if config.store == Store::Sqlite && text.lines().any(names_postgres) {
        return None;
    }
    Some((config, tls))
}

fn is_misspelled(name: &str) -> bool {
    !TABLES.contains(&name) && nearest(name, TABLES).is_some()
}

/// Returns the lines of the needed tables from a text that is not valid TOML. `None` if those lines are uncertain.
fn tables(text: &str) -> Option<String> {
    let (mut kept, mut keep, mut in_table) = (String::new(), false, false);
    for line in text.lines() {
        let trimmed = line.trim_start();
        let name = trimmed.trim_start_matches('[').split(['.', ']', '=', ' ', '#']).next().unwrap_or_default();
        if trimmed.starts_with('[') {
            keep = TABLES.contains(&name) && trimmed.contains(']');
            if !keep && (TABLES.contains(&name) || is_misspelled(name)) {
                return None;
            }
            in_table = true;
        } else if !in_table && (TABLES.contains(&name) || is_misspelled(name)) {
            return None;
        }
        if keep {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    Some(kept)
}

fn read(text: &str, env: Environment<'_>, part: ConfigPart, also: &[&str]) -> Option<(Config, bool)> {
    let mut document = Document::parse(text).ok()?;
    let root = document.root.get_mut();
    let names: Vec<String> = root.keys().map(|key| key.get_ref().to_string()).collect();
    for name in names.iter().filter(|name| !TABLES.iter().chain(also).any(|kept| kept == name)) {
        root.remove(name.as_str());
    }
    let mut shape = shape::read(&document, &schema::tree());
    if !shape.faults.is_empty() {
        return None;
    }
    let mut file: raw::File = shape::settings(&mut shape)?;
    let server = std::mem::take(&mut file.server);
    file.server.data_dir = server.data_dir;
    if part == ConfigPart::Listeners {
        (file.server.listen, file.server.admin_listen) = (server.listen, server.admin_listen);
    }
    let without_listen = |name: &str| env(name).filter(|_| part == ConfigPart::Listeners || name != "TIDEGATE_LISTEN");
    let mut reads = WatchedFiles::default();
    // Missing names are not faults here: they may be in a part that was left out.
    let (config, faults) = check::config(&document, file, false, &without_listen, &mut reads, SecretsNeeded::Leave);
    config.filter(|_| faults.is_empty()).map(|config| (config, tls_of(&document)))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::Path as FilePath};

    use super::*;

    fn known(text: &str, part: ConfigPart) -> Result<PartialConfig, Report> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load_known(&Source::File(file.path().into()), &|_: &str| None::<OsString>, part)
    }

    const GOOD: &str = "[server]\ndata_dir = \"here\"\n[store]\nurl = \"postgres://u@h/d\"\n";

    #[test]
    fn the_store_is_known_while_the_rest_of_the_file_is_edited() {
        for rest in [
            "",
            "[[upstreams]]\nname = \"a\"\n",
            "[[upstreams]]\nname = \"a\"\nbase_url = \"https://h.cn\"\ncredentials = [{ env = \"NOT_SET\" }]\n",
            "[[keys]]\nname = \"a\"\nsecret = { env = \"NOT_SET\" }\n",
            "[[models]]\nname = \"m\"\ntargets = [{ upstream = \"nobody\" }]\n",
            "[wrong]\nx = 1\n",
            "[log]\nlevel = \"loud\"\n",
            "[money]\ntime_zone = \"Mars\"\n",
            "[money]\ntime_zone = 7\n",
            "[[models]]\nname = \"m\ntargets = [\n",
            "[[models\n",
            "[[keys]]\nname = \"a\"\nname = \"b\"\n",
        ] {
            for text in [format!("{GOOD}{rest}"), format!("{rest}\n{GOOD}")] {
                let found = known(&text, ConfigPart::Store).unwrap_or_else(|report| panic!("{text}\n{report}"));
                assert!(found.faults.is_some(), "{text}");
                assert_eq!(found.config.server.data_dir, FilePath::new("here"), "{text}");
                assert!(matches!(&found.config.store, Store::Postgres { url, .. } if **url == *"postgres://u@h/d"));
            }
        }
    }

    #[test]
    fn a_store_that_is_in_doubt_is_not_used() {
        for text in [
            "[stor]\nurl = \"postgres://u@h/d\"\n",
            "[store\nurl = \"postgres://u@h/d\"\n",
            "[store]\nurll = \"postgres://u@h/d\"\n",
            "[store]\nurl = \"postgres://u@h/d\n",
            "[store]\nurl = \"mysql://u@h/d\"\n",
            "[store]\nurl = \"postgres://u@h/d\"\npassword = { env = \"NOT_SET\" }\n",
            "[server]\ndata_dri = \"here\"\n",
            "[server]\ndata_dir = 7\n",
            "[sever]\ndata_dir = \"here\"\n",
            "[server]\ndata_dir = \"\"\n",
            "store.url = \"postgres://u@h/d\"\n[[models\n",
            "[[models]]\nname = \"m\nurl = \"postgres://u@h/d\"\n",
        ] {
            assert!(known(text, ConfigPart::Store).is_err(), "{text}");
        }
    }

    #[test]
    fn listeners_are_known_without_any_secret_or_certificate() {
        let text = "[server]\nlisten = \"127.0.0.1:7\"\nadmin_listen = \"127.0.0.1:8\"\n\
                    tls = { cert_file = \"none.crt\", key_file = \"none.key\" }\n[wrong]\n";
        let found = known(text, ConfigPart::Listeners).unwrap();
        let server = &found.config.server;
        let listen = [&server.listen, &server.admin_listen].map(|listen| listen.to_string());
        assert_eq!((listen, found.tls), (["127.0.0.1:7", "127.0.0.1:8"].map(str::to_owned), true));
        assert!(!known("[server]\nlisten = \"127.0.0.1:7\"\n", ConfigPart::Listeners).unwrap().tls);
        assert!(known("[server]\nlisten = \"7\"\n", ConfigPart::Listeners).is_err());
        assert!(known("[server]\nlisten = \"7\"\n", ConfigPart::Store).is_ok());
    }
}
