//! The command line, one file a subcommand.

mod check;
mod config;
mod demo;
mod explain;
mod healthcheck;
mod keys;
mod output;
mod rows;
mod serve;
mod signals;
mod simulate;
mod time;
mod usage;

use std::{ffi::OsString, net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{config::Source, domain::endpoint::Surface, proxy::explain::ExplainQuery};

/// An OpenAI-compatible reverse proxy gateway for the Responses API.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
struct Arguments {
    /// Configuration file; without one the built-in default is used.
    #[arg(long, global = true, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve,
    /// Try it: run the gateway in front of simulated providers, and print examples that work as they are.
    Demo {
        /// Where to listen; without it, where `TIDEGATE_LISTEN` says, or 127.0.0.1:8080.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        /// Where the admin plane listens.
        #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
        admin_listen: SocketAddr,
    },
    /// Check the configuration and print what would run, never a secret.
    Check,
    /// Say who would be asked for a model, in which order, and why: by the running gateway, or without one by the
    /// configuration alone.
    Explain {
        /// Name of the client key.
        #[arg(long, value_name = "NAME")]
        key: String,
        /// The model that it asks for.
        #[arg(long, value_name = "MODEL")]
        model: String,
        /// `prompt_cache_key` or session id of the request.
        #[arg(long, value_name = "TEXT")]
        cache_key: Option<String>,
        /// The part of the API: a name that `surface` of an upstream may hold.
        #[arg(long, value_name = "NAME", default_value = "responses", value_parser = surface)]
        surface: Surface,
    },
    /// Make, list, disable, rotate and delete keys of clients. Also while gateways run: they notice within seconds.
    Keys {
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Sum up the ledger: requests and tokens by key, group, model, upstream, endpoint or day. Also while the gateway runs.
    Usage(usage::UsageOptions),
    /// Ask a running gateway whether it is alive; for HEALTHCHECK of a container.
    Healthcheck,
    /// Run the simulated providers alone, for programs that are tested without spending money.
    Simulate {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
        listen: SocketAddr,
    },
    /// Print parts of the configuration's definition.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// The JSON Schema of the configuration, for editors.
    Schema,
    /// The built-in default configuration: every option with its default and reason.
    Default,
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // An empty variable is one that is not set.
    let config = arguments.config.filter(|file| !file.is_empty());
    let source = config.map_or(Source::BuiltIn, |file| Source::File(file.into()));
    match arguments.command {
        Command::Serve => serve::run(&source),
        Command::Demo { listen, admin_listen } => demo::run(listen, admin_listen),
        Command::Check => check::run(&source),
        Command::Explain { key, model, cache_key, surface } => {
            explain::run(&source, ExplainQuery { key, model, cache_key, surface })
        }
        Command::Usage(question) => usage::run(&source, &question),
        Command::Keys { command } => keys::run(&source, &command),
        Command::Healthcheck => healthcheck::run(&source),
        Command::Simulate { listen } => simulate::run(listen),
        Command::Config { what: ConfigCommand::Schema } => config::schema(),
        Command::Config { what: ConfigCommand::Default } => config::default(),
    }
}

fn surface(name: &str) -> Result<Surface, String> {
    Surface::named(name).ok_or_else(|| format!("names are {}", Surface::ALL.map(Surface::name).join(", ")))
}
