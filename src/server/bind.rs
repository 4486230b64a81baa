//! Listeners on TCP addresses and on Unix sockets.
//!
//! A connection over a Unix socket counts as one from 127.0.0.1: every program that may use the socket runs on this
//! machine. Therefore `trusted_proxies` and the networks of keys need no syntax for sockets.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};
#[cfg(unix)]
use std::{
    os::fd::OwnedFd,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
};

use tokio::net::{TcpListener, TcpStream};

/// The file mode of a Unix socket: its owner and its group may connect. Add a proxy's user to the group.
#[cfg(unix)]
const MODE: u32 = 0o660;

/// A listener of the HTTP server, on a TCP address or a Unix socket. It is bound, but does not accept connections yet.
#[derive(Debug)]
pub struct Listener(ListenerKind);

#[derive(Debug)]
enum ListenerKind {
    Address(std::net::TcpListener),
    #[cfg(unix)]
    Socket(UnixListener, Arc<SocketFile>),
}

/// A listener that accepts.
pub(super) enum Accepting {
    Address(TcpListener),
    #[cfg(unix)]
    Socket {
        listener: tokio::net::UnixListener,
        _file: Arc<SocketFile>,
    },
}

/// The file of a Unix socket. The last listener removes the file, unless another process replaced it.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct SocketFile {
    path: Arc<Path>,
    identity: Option<(u64, u64)>,
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Self(ListenerKind::Address(listener))
    }
}

impl Listener {
    /// Starts to accept. Must be called inside a runtime.
    pub(super) fn accepting(self) -> io::Result<Accepting> {
        match self.0 {
            ListenerKind::Address(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Accepting::Address)
            }
            #[cfg(unix)]
            ListenerKind::Socket(listener, file) => {
                listener.set_nonblocking(true)?;
                Ok(Accepting::Socket { listener: tokio::net::UnixListener::from_std(listener)?, _file: file })
            }
        }
    }
}

impl Accepting {
    /// Accepts the next connection. Returns it with the client's address.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        match self {
            Self::Address(listener) => listener.accept().await.map(|(stream, peer)| (stream, peer.ip())),
            #[cfg(unix)]
            Self::Socket { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                // All socket kinds are read, written and shut down by the same system calls, so a Unix socket can pass
                // as a TCP stream. TCP options fail on it, which does no harm: a Unix socket never delays small writes.
                let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
                Ok((TcpStream::from_std(stream)?, Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

/// Creates `count` listeners of the HTTP server on one Unix socket. A stale file of a killed process is replaced. A socket on which a
/// process listens, or a file of another kind, is an error.
///
/// # Errors
/// If the system refuses the path, or the path is in use.
#[cfg(unix)]
pub fn listen_on_socket(path: &Arc<Path>, count: usize) -> io::Result<Vec<Listener>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(existing) if !existing.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there already"));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        },
    }
    // The socket is bound under a temporary name until it has its mode. Thus nobody can connect too early, and no
    // client is refused in between.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let placed = std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(MODE))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    let file = Arc::new(SocketFile { path: Arc::clone(path), identity: identity(path) });
    let mut listeners = Vec::with_capacity(count);
    for _ in 1..count {
        listeners.push(Listener(ListenerKind::Socket(listener.try_clone()?, Arc::clone(&file))));
    }
    listeners.push(Listener(ListenerKind::Socket(listener, file)));
    Ok(listeners)
}

/// Identifies the file at a path by device and inode.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
