//! Listeners.

use std::{io, net::SocketAddr};

use tokio::net::TcpSocket;

/// Connections that wait to be accepted. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Whether several sockets may listen on one address, with the kernel spreading connections over them.
const SHARES_PORTS: bool =
    cfg!(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))));

/// One listener on `address`. Called inside a runtime.
///
/// # Errors
/// When the system refuses the address.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind(address, false)
}

/// `count` listeners on `address`, between which the kernel shares connections out. Called inside a runtime.
///
/// # Errors
/// When the system refuses the address.
pub fn listen_shared(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if count <= 1 || !SHARES_PORTS {
        return Ok(vec![listen(address)?]);
    }
    // With SO_REUSEPORT a second process of ours would silently take half of the connections. Without it the kernel
    // tells that the address is taken.
    drop(listen(address)?);
    let first = bind(address, true)?;
    // Port 0 was any free one: the others share it.
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind(address, true)?);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    if shared {
        share_port(&socket)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

#[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))))]
fn share_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

#[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin")))))]
fn share_port(_: &TcpSocket) -> io::Result<()> {
    Ok(())
}
