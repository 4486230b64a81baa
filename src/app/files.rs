//! Computes how many connections the limit of open files allows.

/// Open files other than connections: listeners, runtimes, the data folder and the few clients of the admin plane.
#[cfg(unix)]
const OTHER_FILES: u64 = 64;

/// Returns how many client connections to accept: `wanted`, or fewer if the limit of open files is too low. A request needs two
/// files. If clients used all of them, Tidegate could not open a connection to an upstream for any. The soft limit, usually 1024,
/// exists for programs that use `select`; this function raises the soft limit to the hard limit.
#[cfg(unix)]
pub(super) fn connections(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_ok();
    let Some(files) = (if raised { limit.maximum } else { limit.current }) else {
        return wanted;
    };
    let affordable = usize::try_from(files.saturating_sub(OTHER_FILES) / 2).unwrap_or(usize::MAX).max(1);
    // The default of `max_connections` is a round number that the operator did not choose. A few connections less do no
    // harm.
    if affordable < wanted / 2 {
        tracing::warn!(
            max_connections = wanted,
            open_files = files,
            taken = affordable,
            "the limit of open files allows less than half of `max_connections`: Tidegate accepts only as many \
             connections as `taken` says. Raise the limit (`ulimit -Hn`, LimitNOFILE=), or lower `max_connections`"
        );
    } else if affordable < wanted {
        tracing::info!(
            max_connections = wanted,
            open_files = files,
            taken = affordable,
            "the limit of open files is a little lower than `max_connections` needs: Tidegate accepts only as many \
             connections as `taken` says. Nothing needs to be done"
        );
    }
    affordable.min(wanted)
}

/// Returns how many client connections to accept: always `wanted`, because this system has no limit of open files.
#[cfg(not(unix))]
pub(super) fn connections(wanted: usize) -> usize {
    wanted
}
