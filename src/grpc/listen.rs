//! The addresses and the sockets on which a server listens.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener, lookup_host};

use super::connection::Stream;

/// An address to listen on: `HOST:PORT`, or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListenAddress {
    /// A TCP port of a host's addresses. Port 0 stands for any free port.
    Tcp(String),
    /// A Unix socket, which only its owner may use (mode 0600).
    Unix(PathBuf),
}

/// The text is not an address that a server can listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidListenAddress {
    /// It names a Unix socket without a path.
    #[error("unix: takes a path")]
    NoPath,
    /// It is neither a host and a port nor a Unix socket.
    #[error("{0:?} should be HOST:PORT or unix:PATH")]
    NeitherTcpNorUnix(String),
}

impl FromStr for ListenAddress {
    type Err = InvalidListenAddress;

    fn from_str(address: &str) -> Result<Self, InvalidListenAddress> {
        if let Some(path) = address.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(InvalidListenAddress::NoPath);
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(address.to_owned()))
            }
            _ => Err(InvalidListenAddress::NeitherTcpNorUnix(address.to_owned())),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The error of a server that cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is not loopback: other machines could reach the server, and nothing would
    /// protect it from them.
    #[error(
        "listening on {address} would let everyone who can reach {resolved} use this server, \
         unencrypted and unauthenticated: listen on a loopback address or a Unix socket, or allow it \
         with --insecure"
    )]
    Insecure {
        /// The address as given.
        address: String,
        /// The address that is not loopback.
        resolved: SocketAddr,
    },
    /// Another server already listens on the socket.
    #[error("another server listens on unix:{}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path exists and is not a socket.
    #[error("{} exists, and is not a socket: it is not replaced", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused the call.
    #[error("listening on {address}: {source}")]
    Io {
        /// The address as given.
        address: String,
        /// The operating system's error.
        source: io::Error,
    },
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A socket on a TCP port.
    Tcp(TcpListener),
    /// A Unix socket, with its file.
    Unix(UnixListener, SocketFile),
}

impl Listener {
    /// Starts to listen: on every address that the host's name has, or on the Unix socket. Refuses an
    /// address that is not loopback unless `insecure` is set.
    pub async fn bind(address: &ListenAddress, insecure: bool) -> Result<Vec<Self>, ListenError> {
        let io = |source| ListenError::Io {
            address: address.to_string(),
            source,
        };
        match address {
            ListenAddress::Tcp(host) => {
                let resolved: Vec<_> = lookup_host(host).await.map_err(io)?.collect();
                let public = resolved
                    .iter()
                    .find(|resolved| !resolved.ip().is_loopback());
                if let (Some(resolved), false) = (public, insecure) {
                    return Err(ListenError::Insecure {
                        address: host.clone(),
                        resolved: *resolved,
                    });
                }
                bind_all(&resolved).await.map_err(io)
            }
            ListenAddress::Unix(path) => {
                replaceable(path).map_err(|error| error.unwrap_or_else(io))?;
                let listener = bind_private(path).map_err(io)?;
                let file = SocketFile::new(path).map_err(io)?;
                Ok(vec![Self::Unix(listener, file)])
            }
        }
    }

    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A message is small and has to leave at once. Without it, all else works.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }

    /// Returns the address in the form that a client takes: `http://…` or `unix:…`.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(_) => "http://?".to_owned(),
            },
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }
}

/// Binds all addresses of a host. Where it asks for any free port, all get the same one. A name may have
/// an address that this machine has not: `localhost` its IPv6 one, where IPv6 is off.
async fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let mut bound: Vec<TcpListener> = Vec::with_capacity(addresses.len());
    let mut missing = None;
    for address in addresses {
        let mut address = *address;
        if address.port() == 0
            && let Some(first) = bound.first()
        {
            address.set_port(first.local_addr()?.port());
        }
        match TcpListener::bind(address).await {
            Ok(listener) => bound.push(listener),
            Err(error) if is_missing(&error) => {
                tracing::debug!(%address, %error, "this machine has no such address");
                missing = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound.into_iter().map(Listener::Tcp).collect()),
    }
}

/// Whether the error says that the machine has no address of this kind. The standard library has no
/// name for EAFNOSUPPORT, which is 97 on Linux and 47 on the BSDs and macOS.
fn is_missing(error: &io::Error) -> bool {
    let unsupported = if cfg!(target_os = "linux") { 97 } else { 47 };
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

/// Checks that the path is free, or holds a socket on which no server listens any more.
fn replaceable(path: &Path) -> Result<(), Result<ListenError, io::Error>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Err(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(Ok(ListenError::NotASocket {
            path: path.to_owned(),
        })),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(Ok(ListenError::InUse {
                path: path.to_owned(),
            })),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(Err(error)),
        },
    }
}

/// Binds a socket that no other user can use at any moment: creates it in a private directory, and
/// moves it into place once its mode is set.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The name is as short as possible, because a socket's whole path has at most 107 bytes
    // (unix(7)).
    let private = parent.join(format!(".r{:04x}", fastrand::u16(..)));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = private.join("s");
    let bound = UnixListener::bind(&made).and_then(|listener| {
        fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
        fs::rename(&made, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&made);
    let _ = fs::remove_dir(&private);
    bound
}

/// The file of a Unix socket. Dropping this value removes the file, unless another file has
/// replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    file: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!(
            "localhost:0".parse(),
            Ok(ListenAddress::Tcp("localhost:0".into()))
        );
        assert_eq!(
            "[::1]:7323".parse(),
            Ok(ListenAddress::Tcp("[::1]:7323".into()))
        );
        assert_eq!("unix:/a/b".parse(), Ok(ListenAddress::Unix("/a/b".into())));
        assert_eq!(
            "unix:///a/b".parse(),
            Ok(ListenAddress::Unix("/a/b".into()))
        );
        for bad in [
            "",
            "7323",
            "localhost",
            "localhost:",
            ":7323",
            "localhost:70000",
            "unix:",
        ] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn listening_beyond_loopback_has_to_be_asked_for() {
        let everywhere = ListenAddress::Tcp("0.0.0.0:0".to_owned());
        let refused = Listener::bind(&everywhere, false).await.unwrap_err();
        assert!(refused.to_string().contains("--insecure"), "{refused}");
        assert!(Listener::bind(&everywhere, true).await.is_ok());
        assert!(
            Listener::bind(&ListenAddress::Tcp("127.0.0.1:0".into()), false)
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("readyd.sock");
        let address = ListenAddress::Unix(path.clone());

        // The listener of this socket is gone, but its file is still there.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&address, false).await.unwrap().remove(0);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        let refused = Listener::bind(&address, false).await.unwrap_err();
        assert!(matches!(refused, ListenError::InUse { .. }), "{refused}");
        drop(listener);
        assert!(!path.exists());

        fs::write(&path, "mine").unwrap();
        let refused = Listener::bind(&address, false).await.unwrap_err();
        assert!(
            matches!(refused, ListenError::NotASocket { .. }),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
