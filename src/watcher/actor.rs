//! The task that follows one node for all its clients. It takes inputs and executes commands; what
//! follows from the one and leads to the other is decided in `state.rs` and `evaluate.rs`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    clients::{Clients, SetId},
    context::Context,
    feed::Subscription,
    publish::StatusPublisher,
    registry::{Key, Registry},
    schedule::QUERY_LIMIT,
    session::NodeSession,
    span::Span,
    state::{Command, Input, NodeState, Plan},
};
use crate::environment::after;

/// A query in flight, which gives an input.
type Query = BoxFuture<'static, Input>;

/// Follows one node.
pub(super) struct NodeActor {
    // What it works with.
    context: Arc<Context>,
    registry: Weak<Registry>,
    key: Key,
    clients: Arc<Clients>,
    events: Subscription,
    linger: Duration,

    // What it decides by, and where that goes.
    state: NodeState,
    publishers: BTreeMap<SetId, StatusPublisher>,

    // What it executes.
    session: Option<Arc<NodeSession>>,
    inspection: Option<Query>,
    systemd: Option<Query>,
    probes: FuturesUnordered<Query>,
}

impl NodeActor {
    pub(super) fn new(
        context: Arc<Context>,
        registry: Weak<Registry>,
        key: Key,
        clients: Arc<Clients>,
        events: Subscription,
        linger: Duration,
    ) -> Self {
        let environment = &context.environment;
        let state = NodeState::new(
            key.node.clone(),
            context.labels.clone(),
            context.journal,
            environment.seed(),
            environment.now(),
        );
        Self {
            context,
            registry,
            key,
            clients,
            events,
            linger,
            state,
            publishers: BTreeMap::new(),
            session: None,
            inspection: None,
            systemd: None,
            probes: FuturesUnordered::new(),
        }
    }

    pub(super) async fn run(mut self) {
        tracing::debug!("following begins");
        let environment = self.context.environment.clone();
        loop {
            self.take_inbox();
            if self.publishers.is_empty() {
                if self.linger().await {
                    tracing::debug!("following ends");
                    return;
                }
                continue;
            }
            let wake = self.turn();
            let timer = async {
                match wake {
                    Some(at) => environment.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                input = next(&mut self.inspection) => self.handle(input),
                input = next(&mut self.systemd) => self.handle(input),
                Some(input) = self.probes.next(), if !self.probes.is_empty() => self.handle(input),
                () = self.clients.inbox.arrived() => {}
                () = timer => {}
            }
        }
    }

    fn now(&self) -> Instant {
        self.context.environment.now()
    }

    fn handle(&mut self, input: Input) {
        tracing::debug!(?input);
        self.state.handle(input, self.now());
    }

    fn take_inbox(&mut self) {
        let now = self.now();
        let live = Input::EventsLive(self.events.is_live());
        self.state.handle(live, now);
        let pending = self.clients.inbox.take();
        if pending.clients {
            let wanted = self.clients.wanted();
            let mut before = std::mem::take(&mut self.publishers);
            for set in &wanted {
                let new = || StatusPublisher::new(set.channel.clone());
                let publisher = before.remove(&set.id).unwrap_or_else(new);
                self.publishers.insert(set.id, publisher);
            }
            tracing::debug!(sets = wanted.len(), "clients have come or gone");
            self.state.handle(Input::Wanted(wanted), now);
        }
        if pending.cause.is_some() || pending.container.is_some() || pending.systemd {
            tracing::debug!(?pending, "inbox");
        }
        self.state.handle(Input::Inbox(pending), now);
    }

    /// Evaluates, publishes, and executes what follows; tells when to do so again.
    fn turn(&mut self) -> Option<Instant> {
        let now = self.now();
        let evaluations = self.state.evaluate_all(now);
        let Plan { commands, wake } = self.state.plan(&evaluations, now);
        for (id, evaluation) in evaluations {
            let (facts, wall) = (self.state.facts(), self.context.environment.wall());
            if let Some(publisher) = self.publishers.get_mut(&id)
                && publisher.publish(evaluation, facts, wall)
            {
                self.state.handle(Input::News, now);
            }
        }
        for command in commands {
            tracing::debug!(?command);
            self.execute(command, now);
        }
        wake
    }

    fn execute(&mut self, command: Command, now: Instant) {
        let by = now + QUERY_LIMIT;
        match command {
            Command::EndSession => self.end_session(),
            Command::StartSession(container) => {
                let Key { identity, node } = self.key.clone();
                let context = Arc::clone(&self.context);
                let session = NodeSession::new(context, identity, node, container);
                self.session = Some(Arc::new(session));
            }
            Command::RenewLink => self.session.iter().for_each(|session| session.renew_link()),
            Command::DistrustEvents => self.events.distrust(),
            Command::Inspect => {
                let context = Arc::clone(&self.context);
                let Key { identity, node } = self.key.clone();
                self.inspection = Some(Box::pin(async move {
                    let inspected = context.container(&identity, &node, by).await;
                    Input::Inspected(inspected, Span::new(now, context.environment.now()))
                }));
            }
            Command::QuerySystemd(question) => {
                let inbox = Arc::clone(&self.clients.inbox);
                self.systemd = self.session.clone().map(|session| -> Query {
                    Box::pin(async move {
                        Input::Systemd(session.systemd(&question, Some(&inbox), by).await)
                    })
                });
            }
            Command::QueryProbe(probe, query, unit) => {
                self.probes
                    .extend(self.session.clone().map(|session| -> Query {
                        Box::pin(async move {
                            let reply = session.probe(&probe, unit.as_ref(), by).await;
                            Input::Probe(probe.key(), query, reply)
                        })
                    }));
            }
        }
    }

    fn end_session(&mut self) {
        self.session = None;
        self.systemd = None;
        self.probes = FuturesUnordered::new();
    }

    /// Stays for a while after the last client, and asks the node nothing; true if nobody came.
    async fn linger(&mut self) -> bool {
        let environment = self.context.environment.clone();
        self.inspection = None;
        self.systemd = None;
        self.probes = FuturesUnordered::new();
        self.state.handle(Input::Idle, environment.now());
        let end = after(environment.now(), self.linger);
        loop {
            tokio::select! {
                biased;
                () = self.clients.inbox.arrived() => self.take_inbox(),
                () = environment.sleep_until(end) => {}
            }
            if !self.clients.is_empty() {
                return false;
            }
            if environment.now() >= end {
                let registry = self.registry.upgrade();
                if registry.is_none_or(|registry| registry.remove(&self.key, &self.clients)) {
                    return true;
                }
            }
        }
    }
}

/// Completes with the input of a query; never, if none is in flight.
async fn next(query: &mut Option<Query>) -> Input {
    let Some(in_flight) = query else {
        return std::future::pending().await;
    };
    let input = in_flight.await;
    *query = None;
    input
}
