//! The place of a listener: an address, or a Unix socket.

use std::{fmt, net::SocketAddr, path::Path, str::FromStr, sync::Arc};

/// Most bytes in the path of a Unix socket. The kernel accepts 107 on Linux and 103 elsewhere. The socket file has a longer
/// temporary name before it is renamed.
const LONGEST: usize = 96;

/// Where a listener accepts connections: an IP address with a port, or a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An IP address and a port.
    Address(SocketAddr),
    /// A Unix socket, by the path of its file.
    Socket(Arc<Path>),
}

/// The error that a listen address is neither an IP address with a port nor a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the listen address must be an IP address with a port, or `unix:` and the path of a socket")]
pub struct NoListen;

impl Listen {
    /// Returns the IP address and port of a listener. None for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Socket(_) => None,
        }
    }
}

impl FromStr for Listen {
    type Err = NoListen;

    fn from_str(text: &str) -> Result<Self, NoListen> {
        let Some(path) = text.strip_prefix("unix:") else {
            return text.parse().map(Self::Address).map_err(|_| NoListen);
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        let is_sound = path.starts_with('/') && !path.ends_with('/') && path.len() <= LONGEST;
        let is_sound = is_sound && cfg!(unix) && !path.chars().any(char::is_control);
        if is_sound { Ok(Self::Socket(Path::new(path).into())) } else { Err(NoListen) }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Listen {
    /// Writes the form that `from_str` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_a_path_is_read_and_nothing_else() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::]:80", "[::]:80"),
            ("unix:/run/tidegate/tidegate.sock", "unix:/run/tidegate/tidegate.sock"),
            ("unix:///run/t.sock", "unix:/run/t.sock"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), shown);
        }
        let long = format!("unix:/{}", "a".repeat(LONGEST));
        for text in ["8080", "localhost:80", "unix:", "unix:t.sock", "unix://t.sock", "unix:/run/", "unix:/a\nb", &long]
        {
            assert_eq!(text.parse::<Listen>(), Err(NoListen), "{text}");
        }
    }
}
