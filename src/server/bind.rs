//! Unix sockets beside addresses: a listener of either kind, and the file of the one.
//!
//! A connection over a Unix socket is served as one from 127.0.0.1: whoever may use the file is on this machine. So `trusted_proxies` and
//! the networks of keys need no word of their own for it.

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

/// The owner and the group may connect. Whoever else should, such as a proxy, belongs into the group.
#[cfg(unix)]
const MODE: u32 = 0o660;

/// A listener before it accepts.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Address(std::net::TcpListener),
    #[cfg(unix)]
    Socket(UnixListener, Arc<File>),
}

/// One that accepts.
pub(super) enum Accepting {
    Address(TcpListener),
    #[cfg(unix)]
    Socket {
        listener: tokio::net::UnixListener,
        _file: Arc<File>,
    },
}

/// The file of a Unix socket: removed with the last listener on it, unless somebody put another one in its place.
#[cfg(unix)]
#[derive(Debug)]
pub(super) struct File {
    path: Arc<Path>,
    identity: Option<(u64, u64)>,
}

impl From<std::net::TcpListener> for Listener {
    fn from(listener: std::net::TcpListener) -> Self {
        Self(Kind::Address(listener))
    }
}

impl Listener {
    /// To be called inside of a runtime.
    pub(super) fn accepting(self) -> io::Result<Accepting> {
        match self.0 {
            Kind::Address(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Accepting::Address)
            }
            #[cfg(unix)]
            Kind::Socket(listener, file) => {
                listener.set_nonblocking(true)?;
                Ok(Accepting::Socket { listener: tokio::net::UnixListener::from_std(listener)?, _file: file })
            }
        }
    }
}

impl Accepting {
    /// The next connection, and the address that it counts as.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        match self {
            Self::Address(listener) => listener.accept().await.map(|(stream, peer)| (stream, peer.ip())),
            #[cfg(unix)]
            Self::Socket { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                // Connections are read, written and shut down by the same calls, whatever kind of socket they are. Options of
                // TCP alone fail on this one, which does no harm: it never waits for more to send.
                let stream = std::net::TcpStream::from(OwnedFd::from(stream.into_std()?));
                Ok((TcpStream::from_std(stream)?, Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

/// `count` listeners on one Unix socket. A file that a killed process left behind gives way; where somebody listens it does not, nor does
/// anything that is no socket.
///
/// # Errors
/// When the system refuses the path, or something else is there.
#[cfg(unix)]
pub fn listen_on_socket(path: &Arc<Path>, count: usize) -> io::Result<Vec<Listener>> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there already"));
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        },
    }
    // Under another name until it has its mode: so nobody is there too early, and nobody is refused in between.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(MODE))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    let file = Arc::new(File { path: Arc::clone(path), identity: identity(path) });
    let mut listeners = Vec::with_capacity(count);
    for _ in 1..count {
        listeners.push(Listener(Kind::Socket(listener.try_clone()?, Arc::clone(&file))));
    }
    listeners.push(Listener(Kind::Socket(listener, file)));
    Ok(listeners)
}

/// Which file lies at a path.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(unix)]
impl Drop for File {
    fn drop(&mut self) {
        if identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
