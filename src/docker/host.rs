//! The address of an engine.

use std::{fmt, path::Path, pin::Pin, str::FromStr, sync::Arc, time::Duration};

use bollard::{BollardRequest, ClientVersion, Docker, errors::Error};
use hyper::{Response, body::Incoming};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};

/// The address of an engine, as in `DOCKER_HOST`: `unix:///path`, `tcp://host:port` or
/// `http://host:port`. The default is `unix:///var/run/docker.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerHost(Address);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(String),
    Tcp(String),
}

/// The error for an engine's address that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Docker host {host:?} cannot be used: {why}")]
pub struct InvalidDockerHost {
    host: String,
    why: &'static str,
}

/// bollard's own timeout, in seconds. It never ends a call, because readyd's own limits are
/// shorter.
const BOLLARD_TIMEOUT: u64 = 120;

/// How many idle connections to an engine are kept, and for how long.
const IDLE: usize = 16;
const KEEP: Duration = Duration::from_secs(5);

/// The API version that readyd uses until the engine has reported its own: that of Docker 25. It
/// plays no part in the query for the version, which every engine answers.
const NEWEST: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 44,
};

impl DockerHost {
    /// Creates a client that keeps its connections for the next calls. Each call over a new one would
    /// cost the engine another thread, and both sides open files.
    pub(super) fn connect(&self) -> Result<Docker, Error> {
        // Without a socket, hyper's own error says less.
        if let Address::Unix(path) = &self.0
            && !Path::new(path).exists()
        {
            return Err(Error::SocketNotFoundError(path.clone()));
        }
        self.observed(&NEWEST, || ())
    }

    /// Creates a client that calls `told` when the headers of a response have arrived. bollard does
    /// not report that by itself.
    pub(super) fn observed(
        &self,
        version: &ClientVersion,
        told: impl Fn() + Send + Sync + 'static,
    ) -> Result<Docker, Error> {
        let (transport, address): (Transport, _) = match &self.0 {
            Address::Unix(path) => (
                transport(hyperlocal::UnixConnector, told),
                // The host of a URL cannot contain a path, so hyperlocal takes the path in
                // hexadecimal.
                format!("unix://{}", hex(path)),
            ),
            Address::Tcp(address) => (
                transport(HttpConnector::new(), told),
                format!("http://{address}"),
            ),
        };
        Docker::connect_with_custom_transport(transport, Some(address), BOLLARD_TIMEOUT, version)
    }
}

/// The future of a response.
type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Error>> + Send>>;

/// A function that sends requests to an engine.
type Transport = Box<dyn Fn(BollardRequest) -> Answer + Send + Sync>;

/// Sends requests over connections that are kept, and calls `told` for each response that is no error.
fn transport<C>(connector: C, told: impl Fn() + Send + Sync + 'static) -> Transport
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
            if answer.status().is_success() {
                told();
            }
            Ok(answer)
        })
    })
}

fn hex(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::new(), |mut hex, byte| {
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
        let invalid = |why| InvalidDockerHost {
            host: host.to_owned(),
            why,
        };
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => {
                Ok(Self(Address::Unix(path.to_owned())))
            }
            Some(("unix", _)) => Err(invalid("unix:// takes an absolute path")),
            Some(("tcp" | "http", address)) if !address.is_empty() => {
                Ok(Self(Address::Tcp(address.trim_end_matches('/').to_owned())))
            }
            Some(("https", _)) => Err(invalid("TLS to an engine is not supported yet")),
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
            Address::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        for good in ["unix:///run/docker.sock", "tcp://127.0.0.1:2375"] {
            assert_eq!(good.parse::<DockerHost>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "docker.sock",
            "unix://docker.sock",
            "ssh://host",
            "https://host",
            "tcp://",
        ] {
            assert!(bad.parse::<DockerHost>().is_err(), "{bad}");
        }
    }
}
