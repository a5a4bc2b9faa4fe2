//! Serves the service on its sockets, from the first connection to the end of the drain.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tonic::service::Routes;

use super::{
    connection::Connections,
    drain::Drain,
    listen::Listener,
    service::{Limits, Readiness},
};
use crate::pb::{self, readiness_service_server::ReadinessServiceServer};

/// The service, with reflection (v1 and v1alpha). It can be served on any number of sockets.
#[derive(Clone)]
pub struct Server {
    routes: Routes,
    drain: Drain,
    handshake: Duration,
    /// The connections that there may be at once on all sockets.
    places: Arc<Semaphore>,
}

impl Server {
    /// Creates a server of this service.
    #[must_use]
    pub fn new(service: Readiness) -> Self {
        let Limits {
            connections,
            handshake,
            ..
        } = *service.limits();
        let drain = service.drain().clone();
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
            routes: routes.routes().prepare(),
            drain,
            handshake,
            places: Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Serves on these sockets until the drain has started and open calls have ended. Silent peers
    /// can delay the end, so the caller has to limit it with [`super::DRAIN_LIMIT`].
    pub async fn serve(self, listeners: Vec<Listener>) {
        let accepting = listeners
            .into_iter()
            .map(|listener| self.connections().accept(listener));
        join_all(accepting).await;
    }

    /// Serves one connection within this process, until its other end is dropped.
    pub async fn serve_duplex(self, connection: tokio::io::DuplexStream) {
        self.connections().serve(connection, None).await;
    }

    fn connections(&self) -> Connections {
        Connections {
            routes: self.routes.clone(),
            drain: self.drain.clone(),
            handshake: self.handshake,
            places: Arc::clone(&self.places),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}
