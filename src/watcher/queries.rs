//! The queries of one node in flight: commands start them, and they end as inputs.

use std::sync::Arc;

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    context::{Caller, Context},
    schedule::QUERY_LIMIT,
    session::NodeSession,
    span::Span,
    state::Input,
};
use crate::{
    container::Container,
    inbox::Inbox,
    node::NodeName,
    probe::Probe,
    unit::{Unit, UnitQuestion},
};

/// A query in flight, which gives an input.
type Query = BoxFuture<'static, Input>;

/// The session with a node, and the queries in flight: one inspection, one of systemd's, and one for
/// each probe at most.
pub(super) struct Queries {
    context: Arc<Context>,
    caller: Caller,
    node: NodeName,
    inbox: Arc<Inbox>,
    session: Option<Arc<NodeSession>>,
    inspection: Option<Query>,
    systemd: Option<Query>,
    probes: FuturesUnordered<Query>,
}

impl Queries {
    pub(super) fn new(
        context: Arc<Context>,
        caller: Caller,
        node: NodeName,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            context,
            caller,
            node,
            inbox,
            session: None,
            inspection: None,
            systemd: None,
            probes: FuturesUnordered::new(),
        }
    }

    /// Completes with the input of a query that has ended; never, if none is in flight.
    ///
    /// Inspections come first: what the container is decides what the rest is worth.
    pub(super) async fn next(&mut self) -> Input {
        tokio::select! {
            biased;
            input = next(&mut self.inspection) => input,
            input = next(&mut self.systemd) => input,
            Some(input) = self.probes.next(), if !self.probes.is_empty() => input,
        }
    }

    pub(super) fn start_session(&mut self, container: Container) {
        let (context, caller) = (Arc::clone(&self.context), self.caller.clone());
        let session = NodeSession::new(context, caller, self.node.clone(), container);
        self.session = Some(Arc::new(session));
    }

    /// Drops the session, and every query in it.
    pub(super) fn end_session(&mut self) {
        self.session = None;
        self.systemd = None;
        self.probes = FuturesUnordered::new();
    }

    /// Drops every query, and keeps the session.
    pub(super) fn cancel(&mut self) {
        self.inspection = None;
        self.systemd = None;
        self.probes = FuturesUnordered::new();
    }

    pub(super) fn renew_link(&self) {
        if let Some(session) = &self.session {
            session.renew_link();
        }
    }

    pub(super) fn inspect(&mut self, now: Instant) {
        let context = Arc::clone(&self.context);
        let (caller, node) = (self.caller.clone(), self.node.clone());
        self.inspection = Some(Box::pin(async move {
            let by = now + QUERY_LIMIT;
            let (asked, inspected) = context.container(&caller, &node, by).await;
            Input::Inspected(inspected, Span::new(asked, context.environment.now()))
        }));
    }

    pub(super) fn query_systemd(&mut self, question: UnitQuestion, now: Instant) {
        let Some(session) = self.session.clone() else {
            return;
        };
        let inbox = Arc::clone(&self.inbox);
        self.systemd = Some(Box::pin(async move {
            let by = now + QUERY_LIMIT;
            Input::Systemd(session.systemd(&question, Some(&inbox), by).await)
        }));
    }

    pub(super) fn query_probe(
        &mut self,
        probe: Probe,
        query: u64,
        unit: Option<Unit>,
        newer_than: Option<Instant>,
        now: Instant,
    ) {
        let Some(session) = self.session.clone() else {
            return;
        };
        self.probes.push(Box::pin(async move {
            let by = now + QUERY_LIMIT;
            let reply = session.probe(&probe, unit.as_ref(), newer_than, by).await;
            Input::Probe(probe.key(), query, reply)
        }));
    }
}

/// Completes with the input of a query; never, if it is not in flight.
async fn next(query: &mut Option<Query>) -> Input {
    let Some(in_flight) = query else {
        return std::future::pending().await;
    };
    let input = in_flight.await;
    *query = None;
    input
}
