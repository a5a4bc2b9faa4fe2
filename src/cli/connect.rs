//! Connects to a server: a remote one, or one embedded in this process.

use std::{io, time::Duration};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::{ClientArguments, InvalidValue, Usage};
use crate::{
    client::ReadinessServiceClient,
    grpc::{Drainer, Limits, Readiness, Server},
    monitor::Monitor,
};

/// How long a remote server has to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How often the client sends a keepalive ping to a silent server, and how long the server has to
/// reply. The client detects at the latest after these two times that a server's machine has gone.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The address of a server: `http://HOST:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerUrl(String);

pub(super) fn server(url: &str) -> Result<ServerUrl, InvalidValue> {
    let http = url.strip_prefix("http://");
    let unix = url
        .strip_prefix("unix:")
        .map(|path| path.strip_prefix("//").unwrap_or(path));
    let named = http.or(unix).is_some_and(|rest| !rest.is_empty());
    if named && (unix.is_some() || url.parse::<Uri>().is_ok()) {
        return Ok(ServerUrl(url.to_owned()));
    }
    Err(InvalidValue(
        "it should be http://HOST:PORT or unix:PATH".to_owned(),
    ))
}

/// A client, with the drainer that keeps an embedded server alive.
pub(super) struct Client {
    pub(super) service: ReadinessServiceClient<Channel>,
    _embedded: Option<Drainer>,
}

/// Connects to the server that the arguments name, or else to an embedded server.
pub(super) async fn connect(arguments: ClientArguments) -> anyhow::Result<Client> {
    let ClientArguments {
        server,
        output: _,
        monitor,
    } = arguments;
    let variable = || match super::variable("READYD_SERVER") {
        Some(url) => self::server(&url)
            .map(Some)
            .map_err(|error| Usage(format!("READYD_SERVER is {url:?}: {error}"))),
        None => Ok(None),
    };
    let server = match server {
        Some(url) => Some(url),
        None => variable()?,
    };
    match server {
        Some(url) => Ok(Client {
            service: remote(url).await?,
            _embedded: None,
        }),
        None => embedded(monitor.monitor()?, monitor.allow_jobs).await,
    }
}

async fn remote(url: ServerUrl) -> anyhow::Result<ReadinessServiceClient<Channel>> {
    let ServerUrl(url) = url;
    let endpoint = Endpoint::from_shared(url.clone())?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    let channel = endpoint.connect().await;
    let channel = channel.with_context(|| format!("connecting to the server at {url}"))?;
    Ok(ReadinessServiceClient::new(channel))
}

/// Serves the same service as a remote server, over a connection that never leaves the process.
async fn embedded(monitor: Monitor, jobs: bool) -> anyhow::Result<Client> {
    const BUFFER: usize = 64 * 1024;
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (drainer, drain) = Drainer::new();
    // The only client is the person who runs this command, and may wait for as long as a request
    // allows.
    let limits = Limits {
        longest_wait: Duration::from_secs(24 * 60 * 60),
        ..Limits::default()
    };
    let readiness = Readiness::new(monitor, limits, drain).allow_jobs(jobs);
    let server = Server::new(readiness);
    tokio::spawn(server.serve_duplex(theirs));

    let mut ours = Some(ours);
    let connect = service_fn(move |_: Uri| {
        // The embedded server ends with its connection, so there is no second one.
        let connection = ours.take().ok_or(io::ErrorKind::NotConnected);
        async move { Ok::<_, io::Error>(TokioIo::new(connection?)) }
    });
    // This address is never resolved.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await
        .context("connecting to the embedded server")?;
    Ok(Client {
        service: ReadinessServiceClient::new(channel),
        _embedded: Some(drainer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_url() {
        for good in ["http://h:1", "unix:/a", "unix:///a", "unix:a"] {
            assert_eq!(server(good), Ok(ServerUrl(good.to_owned())));
        }
        for bad in ["", "h:1", "unix:", "http://", "https://h", "http://a b"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
