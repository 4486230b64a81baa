# Lists what there is.
default:
    @just --list

# Everything that must pass; --full adds the long tests.
test *arguments:
    ./scripts/test {{arguments}}

# What an editor does not show: format and lints.
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings

# The gateway in front of simulated providers.
demo:
    cargo run --release -- demo
