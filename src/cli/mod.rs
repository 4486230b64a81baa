//! The command line: one file for each subcommand.

mod check;
mod config;
mod demo;
mod explain;
mod gateway;
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
    /// Configuration file. Without it, Tidegate uses the built-in default.
    #[arg(long, global = true, env = "TIDEGATE_CONFIG", value_name = "FILE")]
    config: Option<OsString>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve,
    /// Run the gateway in front of simulated providers, and print examples that work as printed.
    Demo {
        /// Address of the data plane. The default is `TIDEGATE_LISTEN`, or 127.0.0.1:8080.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<SocketAddr>,
        /// Address of the admin plane.
        #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
        admin_listen: SocketAddr,
    },
    /// Check the configuration and print a summary of it, without secrets.
    Check,
    /// Show which upstreams a request for a model would use, in which order, and why. The running gateway answers this. If no gateway
    /// runs, the answer comes from the configuration alone.
    Explain {
        /// Name of the key.
        #[arg(long, value_name = "NAME")]
        key: String,
        /// Model that the client asks for.
        #[arg(long, value_name = "MODEL")]
        model: String,
        /// `prompt_cache_key` or session id of the request.
        #[arg(long, value_name = "TEXT")]
        cache_key: Option<String>,
        /// Part of the API: a name that `surface` of an upstream can contain.
        #[arg(long, value_name = "NAME", default_value = "responses", value_parser = surface)]
        surface: Surface,
    },
    /// Create, list, change, disable, rotate and delete keys. Running gateways notice a change within seconds.
    Keys {
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Sum up the ledger: requests, tokens and cost by key, group, model, upstream, endpoint or time. Works while the gateway runs.
    Usage(usage::UsageOptions),
    /// Ask a running gateway whether it is alive, for the HEALTHCHECK of a container.
    Healthcheck,
    /// Run only the simulated providers, to test programs without cost.
    Simulate {
        /// Address of the simulated providers.
        #[arg(long, default_value = "127.0.0.1:8090", value_name = "ADDRESS")]
        listen: SocketAddr,
    },
    /// Print the schema or the default of the configuration.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the JSON Schema of the configuration, for editors.
    Schema,
    /// Print the built-in default configuration: every setting with its default and reason.
    Default,
}

/// Runs the command that the arguments of this process name, and returns the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    // An empty variable counts as unset.
    let config = arguments.config.filter(|file| !file.is_empty());
    let source = config.map_or(Source::BuiltIn, |file| Source::File(file.into()));
    match arguments.command {
        Command::Serve => serve::run(&source),
        Command::Demo { listen, admin_listen } => {
            if matches!(source, Source::File(_)) {
                output::print_remark("demo has a configuration of its own, and ignores --config and TIDEGATE_CONFIG");
            }
            demo::run(listen, admin_listen)
        }
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
    Surface::named(name).ok_or_else(|| format!("the names are {}", Surface::ALL.map(Surface::name).join(", ")))
}
