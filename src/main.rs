//! Arguments, configuration, gateway, exit code: see [`tidegate::cli`].

/// Gives memory back to the system, which glibc's allocator hardly does after large bodies. It also takes fewer instructions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    tidegate::cli::run()
}
