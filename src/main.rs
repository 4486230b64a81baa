//! Arguments, configuration, gateway, exit code: see [`tidegate::cli`].

fn main() -> std::process::ExitCode {
    tidegate::cli::run()
}
