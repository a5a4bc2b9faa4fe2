//! Serves the service on its sockets, from the first connection to the end of the drain.

use std::{fmt, io, time::Duration};

use futures_util::future::try_join_all;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    service::Routes,
    transport::{self, server::TcpIncoming},
};

use super::{drain::Drain, listen::Listener, service::Readiness};
use crate::pb::{self, readiness_service_server::ReadinessServiceServer};

/// How often the server sends a keepalive ping to a silent client, and how long the client has to
/// reply. If a client's machine has gone, its wait ends at the latest after these two times.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How many calls one connection carries at once.
const STREAMS: u32 = 10_000;

/// The error of a server that ended other than by a drain.
#[derive(Debug, thiserror::Error)]
#[error("serving: {0}")]
pub struct ServeError(#[source] transport::Error);

/// The service, with reflection (v1 and v1alpha). It can be served on any number of sockets.
#[derive(Clone)]
pub struct Server {
    routes: Routes,
}

impl Server {
    /// Creates a server of this service.
    #[must_use]
    pub fn new(service: Readiness) -> Self {
        let mut routes = Routes::builder();
        routes.add_service(ReadinessServiceServer::new(service));
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
        };
        // The descriptors come from readyd's own build. If they were unreadable, the service would
        // still work.
        match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(v1), Ok(v1alpha)) => {
                routes.add_service(v1).add_service(v1alpha);
            }
            (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "reflection is off"),
        }
        Self {
            routes: routes.routes(),
        }
    }

    /// Serves on these sockets until the drain has started and open calls have ended. Silent peers
    /// can delay the end, so the caller has to limit it with [`super::DRAIN_LIMIT`].
    pub async fn serve(self, listeners: Vec<Listener>, drain: Drain) -> Result<(), ServeError> {
        let serving = listeners
            .into_iter()
            .map(|listener| self.clone().serve_one(listener, drain.clone()));
        try_join_all(serving).await.map(|_| ()).map_err(ServeError)
    }

    async fn serve_one(self, listener: Listener, mut drain: Drain) -> Result<(), transport::Error> {
        let router = transport_builder().add_routes(self.routes);
        let drained = async move { drain.started().await };
        match listener {
            Listener::Tcp(listener) => {
                // A message is small and has to leave at once.
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                router.serve_with_incoming_shutdown(incoming, drained).await
            }
            Listener::Unix(listener, file) => {
                let incoming = UnixListenerStream::new(listener);
                let served = router.serve_with_incoming_shutdown(incoming, drained).await;
                drop(file);
                served
            }
        }
    }

    /// Serves one connection within this process, until its other end is dropped.
    pub async fn serve_duplex(self, connection: tokio::io::DuplexStream) -> Result<(), ServeError> {
        let incoming = tokio_stream::once(Ok::<_, io::Error>(connection));
        let router = transport_builder().add_routes(self.routes);
        router
            .serve_with_incoming(incoming)
            .await
            .map_err(ServeError)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

fn transport_builder() -> transport::Server {
    transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .max_concurrent_streams(Some(STREAMS))
}
