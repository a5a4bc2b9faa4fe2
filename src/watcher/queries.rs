//! The queries of one node in flight: commands start them, and they end as inputs.

use std::{future::poll_fn, sync::Arc, task::Poll};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    context::{Caller, Context},
    schedule::QUERY_LIMIT,
    session::NodeSession,
    span::Span,
    state::{Input, Pacing},
    watch::Watch,
};
use crate::{
    container::Container,
    inbox::Inbox,
    node::NodeName,
    probe::{Probe, ProbeKey},
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
    /// The turns that are awaited.
    turns: FuturesUnordered<Query>,
    /// What is awaited that would change a reply, one for each probe.
    watches: Vec<(ProbeKey, Query)>,
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
            turns: FuturesUnordered::new(),
            watches: Vec::new(),
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
            Some(input) = self.turns.next(), if !self.turns.is_empty() => input,
            input = first(&mut self.watches) => input,
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
        self.turns = FuturesUnordered::new();
        self.watches.clear();
    }

    /// Drops every query, and keeps the session.
    pub(super) fn cancel(&mut self) {
        self.inspection = None;
        self.systemd = None;
        self.probes = FuturesUnordered::new();
        self.turns = FuturesUnordered::new();
        self.watches.clear();
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
        // What is known is asked for anew, so nothing has to be awaited for it.
        self.watches.retain(|(key, _)| *key != probe.key());
        self.probes.push(Box::pin(async move {
            let by = now + QUERY_LIMIT;
            let reply = session.probe(&probe, unit.as_ref(), newer_than, by).await;
            Input::Probe(probe.key(), query, reply)
        }));
    }

    /// Awaits the turn of a probe's own query among those of all nodes.
    pub(super) fn await_turn(&mut self, key: ProbeKey, passes: bool) {
        let environment = self.context.environment.clone();
        let turn = self.context.turn(&self.caller, passes);
        self.turns.push(Box::pin(async move {
            environment.sleep_until(turn).await;
            Input::Turn(key)
        }));
    }

    /// Awaits what would change the reply to a probe's own query, in place of what was awaited before.
    pub(super) fn watch(&mut self, key: ProbeKey, query: u64, watch: Watch, pacing: Pacing) {
        let Some(session) = self.session.clone() else {
            return;
        };
        self.watches.retain(|(other, _)| *other != key);
        let awaited = key.clone();
        let watching = Box::pin(async move {
            let Pacing { quiet_since, poll } = pacing;
            let environment = &session.context.environment;
            watch
                .changed(&session.link, environment, quiet_since, poll)
                .await;
            Input::Changed(key, query)
        });
        self.watches.push((awaited, watching));
    }
}

/// Completes with the input of the first watch that ends; never, if there is none.
async fn first(watches: &mut Vec<(ProbeKey, Query)>) -> Input {
    poll_fn(|context| {
        let ended = watches.iter_mut().enumerate().find_map(|(at, (_, watch))| {
            match watch.poll_unpin(context) {
                Poll::Ready(input) => Some((at, input)),
                Poll::Pending => None,
            }
        });
        let Some((at, input)) = ended else {
            return Poll::Pending;
        };
        drop(watches.swap_remove(at));
        Poll::Ready(input)
    })
    .await
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
