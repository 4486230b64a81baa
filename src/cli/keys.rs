//! `tidegate keys`: changes keys in the store, also while gateways run. Running gateways notice a change within seconds.

mod made;
mod settings;
mod shown;
mod store;
mod update;

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::runtime::Builder;

use self::{
    made::{confirm_new, is_new, made_in, no_store},
    settings::Settings,
    shown::{HEADS, with_audit},
    store::{CommandError, KeyStore},
    update::Update,
};
use super::{output, time};
use crate::{
    auth,
    config::{ConfigPart, PartialConfig, Source},
    domain::{
        clock::Clock,
        key::{KeySettings, MAX_NAME_BYTES, RotatedSecret, StoredKey},
        random::RandomBytes,
    },
    store::{
        files,
        sql::{ChangeAuthor, Database, DatabaseError, DatabaseLocation, KeyChange, KeyError},
    },
};

/// A subcommand of `tidegate keys`, which shows or changes client keys in the store.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a key. Its secret is printed now and never again.
    Create(Create),
    /// List all keys, including those of the configuration.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a key, its settings, and who changed it.
    Show {
        /// Name of the key.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Change settings of a key. Its secret and all other settings stay the same.
    Update(Update),
    /// Disable a key: Tidegate refuses it from now on.
    Disable {
        /// Name of the key.
        name: String,
    },
    /// Enable a disabled key again.
    Enable {
        /// Name of the key.
        name: String,
    },
    /// Create a new secret for a key, printed now and never again. The previous secret works for a grace period.
    Rotate {
        /// Name of the key.
        name: String,
        /// How long the previous secret works: 24h, 30m, 0s.
        #[arg(long, default_value = "24h", value_parser = time::pause, value_name = "TIME")]
        grace: Duration,
    },
    /// Delete a key permanently. Its usage stays in the ledger.
    Delete {
        /// Name of the key.
        name: String,
        /// Do not ask for confirmation. Without a terminal, this option is required.
        #[arg(long)]
        yes: bool,
    },
}

impl Command {
    /// Returns the name of the key that the command uses.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Create(create) => Some(&create.name),
            Self::List { .. } => None,
            Self::Update(Update { name, .. })
            | Self::Show { name, .. }
            | Self::Disable { name }
            | Self::Enable { name }
            | Self::Rotate { name, .. }
            | Self::Delete { name, .. } => Some(name),
        }
    }
}

impl Command {
    /// Whether the command changes a key that must exist.
    fn changes_a_key(&self) -> bool {
        !matches!(self, Self::Create(_) | Self::List { .. } | Self::Show { .. })
    }
}

/// Arguments of `tidegate keys create`: the name and the settings of the new client key.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// Name of the key in logs and in the ledger.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    settings: Settings,
    /// Do not ask for confirmation before a key is created in a store that no gateway has used yet.
    #[arg(long)]
    yes: bool,
}

/// Most tries of one change. When several commands change keys at once, one of them succeeds in each round. So 32 commands can run
/// at once and none fails.
const TRIES: usize = 32;

/// Runs a subcommand of `tidegate keys`, prints its result and returns the exit code.
pub(super) fn run(source: &Source, command: &Command) -> ExitCode {
    let known = match output::load_known(source, ConfigPart::Store) {
        Ok(known) => known,
        Err(code) => return code,
    };
    let done = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    match done.and_then(|runtime| runtime.block_on(KeyStore::with(known, command))) {
        Ok(text) => {
            output::print(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => output::fail(error),
    }
}

impl KeyStore {
    async fn with(known: PartialConfig, command: &Command) -> Result<String, String> {
        let PartialConfig { config, source, faults, .. } = known;
        let place = DatabaseLocation::of(&config);
        let is_new = is_new(&place, &config);
        if let Command::Create(create) = command {
            confirm_new(create.yes, &place, is_new)?;
        }
        if let (DatabaseLocation::Sqlite(path), true) = (&place, command.changes_a_key())
            && !path.exists()
        {
            return Err(no_store(&place));
        }
        if let DatabaseLocation::Sqlite(_) = place {
            let folder = &config.server.data_dir;
            files::make_private_folder(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let failed = |error| format!("the store at {place} cannot be used: {error}");
        let mut database = Database::open(&place).await.map_err(failed)?;
        let (revision, keys) = database.stored_keys().await.map_err(failed)?;
        let (is_whole, now) = (faults.is_none(), Clock::system().since_epoch());
        let mut store = Self { config, source, is_whole, database, revision, keys, now };
        if let Command::Delete { name, yes: false } = command {
            store.confirm_delete(name)?;
        }
        let mut tries = 1..TRIES;
        let done = loop {
            match store.run(command).await {
                Ok(text) => break Ok(text),
                Err(CommandError::Message(why)) => break Err(why),
                // A retry is wrong if another process changed the same key.
                Err(CommandError::Raced) => match store.read_again(command.name()).await {
                    Ok(same) if same && tries.next().is_some() => {}
                    Ok(_) => break Err(KeyError::Raced.to_string()),
                    Err(error) => break Err(failed(error)),
                },
            }
        };
        store.database.close().await;
        if done.is_ok() && matches!(command, Command::Create(_)) {
            output::print_remark(made_in(&place, is_new));
        }
        done
    }

    /// Asks for confirmation before a key is deleted, which cannot be undone.
    fn confirm_delete(&self, name: &str) -> Result<(), String> {
        self.stored(name).map_err(|failed| match failed {
            CommandError::Message(why) => why,
            CommandError::Raced => KeyError::Raced.to_string(),
        })?;
        match output::confirm(&format!("Delete the key {name} permanently? Its clients then get 401.")) {
            Some(true) => Ok(()),
            Some(false) => Err(format!("nothing was deleted; `tidegate keys disable {name}` can be undone")),
            None => Err(format!(
                "nothing was deleted: a deleted key cannot be restored, and there is no terminal to ask for confirmation. Add --yes, or \
                 use `tidegate keys disable {name}`, which can be undone"
            )),
        }
    }

    /// Reads the keys again. Returns whether the key of this name is unchanged.
    async fn read_again(&mut self, name: Option<&str>) -> Result<bool, DatabaseError> {
        let (revision, keys) = self.database.stored_keys().await?;
        let of_name = |keys: &[StoredKey]| keys.iter().find(|key| Some(&*key.name) == name).cloned();
        let same = of_name(&keys) == of_name(&self.keys);
        (self.revision, self.keys) = (revision, keys);
        Ok(same)
    }

    async fn run(&mut self, command: &Command) -> Result<String, CommandError> {
        match command {
            Command::Create(create) => self.create(create).await,
            Command::List { json } => Ok(self.list(*json)),
            Command::Show { name, json } => self.show(name, *json).await,
            Command::Update(update) => self.update(update).await,
            Command::Disable { name } => self.set_disabled(name, true).await,
            Command::Enable { name } => self.set_disabled(name, false).await,
            Command::Rotate { name, grace } => self.rotate(name, *grace).await,
            Command::Delete { name, .. } => {
                self.stored(name)?;
                self.change(KeyChange::Delete(name)).await?;
                Ok(format!("deleted {name}"))
            }
        }
    }

    async fn create(&mut self, create: &Create) -> Result<String, CommandError> {
        let name = &create.name;
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a name must not be empty, and must not contain white space".to_owned().into());
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("a name has at most {MAX_NAME_BYTES} bytes").into());
        }
        self.not_of_file(name)?;
        let mut settings = KeySettings::default();
        create.settings.apply(&mut settings, self.now);
        let (secret, prefix, sha256) = fresh()?;
        let (name, created_ms) = (name.clone(), time::millis(self.now));
        let key = StoredKey { name, prefix, sha256, previous: None, disabled: false, created_ms, settings };
        let mut faults = self.faults_of(&key);
        faults.extend(self.ended(&key.settings));
        if !faults.is_empty() {
            return Err(format!("no key was created: {}", faults.join("; ")).into());
        }
        // The ledger identifies keys by name. Read the audit before the change: no error may hide the secret of a created key.
        let audit = self.database.audit(&key.name).await.map_err(|error| error.to_string())?;
        self.change(KeyChange::Create(&key)).await?;
        if !audit.is_empty() {
            let name = &key.name;
            output::print_remark(format!(
                "an earlier key had the name {name}: the new key inherits its spend and its stored responses"
            ));
        }
        Ok(secret)
    }

    /// Returns the faults of a key by the configuration, if the configuration is complete.
    fn faults_of(&self, key: &StoredKey) -> Vec<String> {
        if self.is_whole { self.config.faults_of(key) } else { Vec::new() }
    }

    fn ended(&self, settings: &KeySettings) -> Option<String> {
        let ended = settings.expires_ms.is_some_and(|until| until <= time::millis(self.now));
        ended.then(|| "the key would be expired already".to_owned())
    }

    async fn set_disabled(&mut self, name: &str, disabled: bool) -> Result<String, CommandError> {
        let mut key = self.stored(name)?;
        let (action, done) = if disabled { ("disable", "disabled") } else { ("enable", "enabled") };
        if key.disabled == disabled {
            return Ok(format!("{name} is {done} already"));
        }
        key.disabled = disabled;
        self.change(KeyChange::Replace(&key, action)).await?;
        Ok(format!("{done} {name}"))
    }

    async fn rotate(&mut self, name: &str, grace: Duration) -> Result<String, CommandError> {
        let mut key = self.stored(name)?;
        let (secret, prefix, sha256) = fresh()?;
        let before = std::mem::replace(&mut key.sha256, sha256);
        key.prefix = prefix;
        let until_ms = time::millis(self.now.saturating_add(grace));
        key.previous = (!grace.is_zero()).then_some(RotatedSecret { sha256: before, until_ms });
        self.change(KeyChange::Replace(&key, "rotate")).await?;
        Ok(secret)
    }

    async fn change(&mut self, change: KeyChange<'_>) -> Result<(), CommandError> {
        let id = RandomBytes::system().bytes::<16>().map_err(|error| error.to_string())?;
        // Ids sort by time. Ids of the same millisecond sort at random.
        let id = format!("{:016x}{}", time::millis(self.now), HEXLOWER.encode(&id));
        let name = actor();
        let author = ChangeAuthor { id: &id, name: &name, time_ms: time::millis(self.now) };
        self.database.change_key(&self.revision, change, author).await.map_err(|error| match error {
            KeyError::Raced => CommandError::Raced,
            error => CommandError::Message(error.to_string()),
        })
    }

    fn not_of_file(&self, name: &str) -> Result<(), CommandError> {
        match self.config.keys.iter().find(|key| *key.name == *name) {
            Some(_) => Err(format!("the key {name} is declared in {}: change it there", self.source).into()),
            None => Ok(()),
        }
    }

    fn stored(&self, name: &str) -> Result<StoredKey, CommandError> {
        self.not_of_file(name)?;
        let key = self.keys.iter().find(|key| key.name == name);
        key.cloned().ok_or_else(|| unknown(name))
    }

    fn list(&self, as_json: bool) -> String {
        if as_json {
            return Value::from_iter(self.all().map(|key| key.json())).to_string();
        }
        let mut lines = vec![HEADS.map(str::to_owned).to_vec()];
        lines.extend(self.all().map(|key| key.cells()));
        output::in_columns(&lines)
    }

    /// Shows a key. For a deleted key, shows only its audit entries.
    async fn show(&mut self, name: &str, as_json: bool) -> Result<String, CommandError> {
        let audit = self.database.audit(name).await.map_err(|error| error.to_string())?;
        let key = self.all().find(|key| key.is_called(name));
        if key.is_none() && audit.is_empty() {
            return Err(unknown(name));
        }
        Ok(with_audit(key.as_ref(), name, &audit, as_json))
    }
}

fn unknown(name: &str) -> CommandError {
    CommandError::Message(format!("no key has the name {name}; `tidegate keys list` shows all keys"))
}

/// Creates a secret. Returns the secret, its prefix and its hash.
fn fresh() -> Result<(String, String, String), CommandError> {
    let secret = auth::make_key(RandomBytes::system()).map_err(|error| error.to_string())?;
    let secret = secret.expose_secret().to_owned();
    let (prefix, sha256) = (auth::prefix(&secret).to_owned(), HEXLOWER.encode(&auth::digest(secret.as_bytes())));
    Ok((secret, prefix, sha256))
}

/// Returns who makes the change: `TIDEGATE_ACTOR`, or the system's user. In a container without user names, this is the user's
/// number.
fn actor() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    if let Some(actor) = variable("TIDEGATE_ACTOR") {
        return actor;
    }
    let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(number);
    let host = variable("HOSTNAME").or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    match host.as_deref().map(str::trim).filter(|host| !host.is_empty()) {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

#[cfg(unix)]
fn number() -> String {
    format!("uid {}", rustix::process::getuid().as_raw())
}

#[cfg(not(unix))]
fn number() -> String {
    "unknown".to_owned()
}
