//! How many connections the limit of open files allows.

/// What is open besides connections: listeners, the runtimes' own, the data folder, the admin plane's few clients.
#[cfg(unix)]
const OTHERS: u64 = 64;

/// `wanted` connections of clients, or as many as there are files for: a request needs two, and where clients hold all
/// of them, nothing can be sent up for any. The soft limit, mostly 1024, is meant for programs that use `select`: it is
/// raised to the hard one.
#[cfg(unix)]
pub(super) fn connections(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_ok();
    let Some(files) = (if raised { limit.maximum } else { limit.current }) else {
        return wanted;
    };
    let affordable = usize::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX).max(1);
    // A few connections fewer than a round number that nobody chose are no loss.
    if affordable < wanted / 2 {
        tracing::warn!(
            max_connections = wanted,
            open_files = files,
            taken = affordable,
            "the limit of open files allows less than half of `max_connections`: raise the limit (`ulimit -Hn`, LimitNOFILE=), or lower the \
             setting"
        );
    } else if affordable < wanted {
        tracing::info!(
            max_connections = wanted,
            open_files = files,
            taken = affordable,
            "the limit of open files is lower than `max_connections` needs: Tidegate accepts a few connections less"
        );
    }
    affordable.min(wanted)
}

/// No such limit here.
#[cfg(not(unix))]
pub(super) fn connections(wanted: usize) -> usize {
    wanted
}
