//! The address of an engine.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use bollard::{BollardRequest, ClientVersion, Docker, errors::Error};
use hyper::{Response, body::Incoming};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};

use super::certificates::Certificates;

/// The address of an engine, as in `DOCKER_HOST`: `unix:///path`, `tcp://host:port`, `http://host:port` or,
/// over TLS and with [certificates](Self::with_certificates), `https://host:port`. The default is
/// `unix:///var/run/docker.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerHost(Address);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(String),
    /// The first of these sockets that is there.
    Usual(Arc<[String]>),
    Tcp(String),
    Tls(String, Option<Certificates>),
}

/// The error for an engine's address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Docker host {host:?} cannot be used: {why}")]
pub struct InvalidDockerHost {
    host: String,
    why: String,
}

/// bollard's own timeout, in seconds. It never ends a call, because readyd's own limits are
/// shorter.
const BOLLARD_TIMEOUT: u64 = 120;

/// How many idle connections to an engine are kept, and for how long.
const IDLE: usize = 16;
const KEEP: Duration = Duration::from_secs(5);

/// The API version that readyd uses until the engine has reported its own: that of Docker 25. It
/// plays no part in the query for the version, which every engine answers.
pub(super) const NEWEST: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 44,
};

impl DockerHost {
    /// Creates a client that keeps its connections for the next calls. Each call over a new one would
    /// cost the engine another thread, and both sides open files. See [`observed`](Self::observed).
    pub(super) fn connect(
        &self,
        told: impl Fn(&Response<Incoming>) + Send + Sync + 'static,
    ) -> Result<Docker, Error> {
        // Without a socket, hyper's own error says less.
        match &self.0 {
            Address::Unix(path) if !Path::new(path).exists() => {
                return Err(Error::SocketNotFoundError(path.clone()));
            }
            Address::Usual(paths) if existing(paths).is_none() => {
                return Err(Error::SocketNotFoundError(format!(
                    "{}, and nothing names another engine (--docker-host, --docker-context, DOCKER_HOST, \
                     DOCKER_CONTEXT, or the current context of Docker's config.json)",
                    paths.join(", none at ")
                )));
            }
            _ => {}
        }
        self.observed(&NEWEST, told)
    }

    /// Creates the address of whichever of these sockets is there when it is looked for.
    pub(super) fn usual(sockets: Vec<String>) -> Self {
        Self(Address::Usual(sockets.into()))
    }

    /// Returns the same TCP address, reached over TLS with the certificates in this directory: `ca.pem` of
    /// whoever has signed the engine's, which is verified, and `cert.pem` and `key.pem` of the client, if it
    /// has one. They are read again for each new client of the engine.
    pub fn with_certificates(self, directory: &Path) -> Result<Self, InvalidDockerHost> {
        let (Address::Tcp(address) | Address::Tls(address, _)) = &self.0 else {
            let host = self.to_string();
            let why = "only a TCP address is reached over TLS".to_owned();
            return Err(InvalidDockerHost { host, why });
        };
        let certificates = Certificates(directory.to_owned());
        match certificates.read() {
            Ok(_) => Ok(Self(Address::Tls(address.clone(), Some(certificates)))),
            Err(error) => Err(InvalidDockerHost {
                host: self.to_string(),
                why: format!("it is reached over TLS, and {error}"),
            }),
        }
    }

    /// Whether it is a TCP address, over TLS or not.
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.0, Address::Tcp(_) | Address::Tls(..))
    }

    /// Whether it is reached over TLS alone.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.0, Address::Tls(..))
    }

    /// The socket on this machine, if it is one.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        match &self.0 {
            Address::Unix(path) => Some(path.into()),
            Address::Usual(paths) => Some(existing(paths).or(paths.first())?.into()),
            Address::Tcp(_) | Address::Tls(..) => None,
        }
    }

    /// Creates a client that calls `told` with each response when its headers have arrived. bollard does not report them.
    pub(super) fn observed(
        &self,
        version: &ClientVersion,
        told: impl Fn(&Response<Incoming>) + Send + Sync + 'static,
    ) -> Result<Docker, Error> {
        let (transport, address): (Transport, _) = match &self.0 {
            Address::Unix(_) | Address::Usual(_) => {
                let path = self.socket().unwrap_or_default();
                // The host of a URL cannot contain a path, so hyperlocal takes the path in
                // hexadecimal.
                let address = format!("unix://{}", hex(&path));
                (transport(hyperlocal::UnixConnector, told), address)
            }
            Address::Tcp(address) => (
                transport(HttpConnector::new(), told),
                format!("http://{address}"),
            ),
            Address::Tls(address, certificates) => {
                let certificates = certificates.as_ref().ok_or_else(|| {
                    io::Error::other("it is reached over TLS, and no certificates are named")
                })?;
                let connector = HttpsConnectorBuilder::new()
                    .with_tls_config(certificates.read().map_err(io::Error::from)?)
                    .https_only()
                    .enable_http1()
                    .build();
                (transport(connector, told), format!("https://{address}"))
            }
        };
        Docker::connect_with_custom_transport(transport, Some(address), BOLLARD_TIMEOUT, version)
    }
}

/// The future of a response.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Error>> + Send>>;

/// A function that sends requests to an engine.
type Transport = Box<dyn Fn(BollardRequest) -> Answer + Send + Sync>;

/// Sends requests over connections that are kept, and calls `told` with each response.
fn transport<C>(
    connector: C,
    told: impl Fn(&Response<Incoming>) + Send + Sync + 'static,
) -> Transport
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(KEEP)
        .pool_max_idle_per_host(IDLE)
        .build(connector);
    let told = Arc::new(told);
    Box::new(move |request| {
        let answer = client.request(request);
        let told = Arc::clone(&told);
        Box::pin(async move {
            let answer = answer.await?;
            told(&answer);
            Ok(answer)
        })
    })
}

/// The first of these sockets that this process may use, else the first that is there.
fn existing(paths: &[String]) -> Option<&String> {
    let there = || paths.iter().filter(|path| Path::new(path).exists());
    there()
        .find(|path| may_use(path))
        .or_else(|| there().next())
}

#[cfg(target_os = "linux")]
fn may_use(path: &str) -> bool {
    use rustix::fs::{Access, access};
    access(path, Access::READ_OK | Access::WRITE_OK).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn may_use(_: &str) -> bool {
    true
}

fn hex(path: &Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    path.as_os_str()
        .as_bytes()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

impl Default for DockerHost {
    fn default() -> Self {
        Self(Address::Unix("/var/run/docker.sock".to_owned()))
    }
}

impl FromStr for DockerHost {
    type Err = InvalidDockerHost;

    fn from_str(host: &str) -> Result<Self, InvalidDockerHost> {
        let invalid = |why: &str| InvalidDockerHost {
            host: host.to_owned(),
            why: why.to_owned(),
        };
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {
                Ok(Self(Address::Unix(path.to_owned())))
            }
            Some(("unix", _)) => Err(invalid("unix:// takes an absolute path")),
            Some(("tcp" | "http", address)) if !address.is_empty() => {
                Ok(Self(Address::Tcp(address.trim_end_matches('/').to_owned())))
            }
            Some(("https", address)) if !address.is_empty() => {
                let address = address.trim_end_matches('/').to_owned();
                Ok(Self(Address::Tls(address, None)))
            }
            Some(("ssh", _)) => Err(invalid(
                "ssh:// is not supported: forward the engine's socket (ssh -L) and name that",
            )),
            _ => Err(invalid("it should be unix:///PATH or tcp://HOST:PORT")),
        }
    }
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Unix(path) => write!(f, "unix://{path}"),
            Address::Usual(_) => {
                let path = self.socket().unwrap_or_default();
                write!(f, "unix://{}", path.display())
            }
            Address::Tcp(address) => write!(f, "tcp://{address}"),
            Address::Tls(address, _) => write!(f, "https://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        for good in [
            "unix:///run/docker.sock",
            "tcp://127.0.0.1:2375",
            "https://h:2376",
        ] {
            assert_eq!(good.parse::<DockerHost>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "docker.sock",
            "unix://docker.sock",
            "ssh://host",
            "https://",
            "tcp://",
        ] {
            assert!(bad.parse::<DockerHost>().is_err(), "{bad}");
        }
    }
}
