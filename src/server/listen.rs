//! Binds TCP listeners.

use std::{io, net::SocketAddr};

use tokio::net::TcpSocket;

/// How many connections may wait to be accepted. The kernel caps the number at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;

/// Whether several sockets may listen on one address, so that the kernel spreads connections over them.
const CAN_SHARE_PORTS: bool =
    cfg!(all(unix, not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))));

/// Binds one TCP listener on `address`. Must be called inside a tokio runtime.
///
/// # Errors
/// When the system refuses the address.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    bind(address, false)
}

/// Binds `count` TCP listeners on the same `address`, one for each worker. The kernel spreads connections over them. Must be called
/// inside a tokio runtime.
///
/// # Errors
/// When the system refuses the address.
pub fn listen_shared(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if count <= 1 || !CAN_SHARE_PORTS {
        return Ok(vec![listen(address)?]);
    }
    // With SO_REUSEPORT, a second process of the same user would silently take half of the connections. This bind
    // without it fails if the address is taken.
    drop(listen(address)?);
    let first = bind(address, true)?;
    // For port 0 the system chose a free port, which the others share.
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
