//! The task that follows one node for all its clients. It takes inputs and executes commands; what
//! follows from the one and leads to the other is decided in `handle.rs`, `evaluate.rs` and `plan.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    clients::Clients,
    context::{Caller, Context},
    feed::Subscription,
    plan::Plan,
    probe_set::SetId,
    publish::StatusPublisher,
    queries::Queries,
    state::{Command, Input, NodeState},
};
use crate::{environment::after, node::NodeName};

/// Lets the node go, unless somebody has come for it; true if it did.
pub(super) type Release = Box<dyn Fn() -> bool + Send>;

/// Follows one node.
pub(super) struct NodeActor {
    // What it works with.
    context: Arc<Context>,
    clients: Arc<Clients>,
    events: Subscription,
    linger: Duration,
    release: Release,

    // What it decides by, where that goes, and what is asked.
    state: NodeState,
    publishers: BTreeMap<SetId, StatusPublisher>,
    queries: Queries,
}

impl NodeActor {
    pub(super) fn new(
        context: Arc<Context>,
        caller: Caller,
        node: NodeName,
        clients: Arc<Clients>,
        events: Subscription,
        linger: Duration,
        release: Release,
    ) -> Self {
        let environment = &context.environment;
        let state = NodeState::new(
            node.clone(),
            context.settings.labels.clone(),
            context.settings.journal,
            context.settings.profile,
            environment.seed(),
            environment.now(),
        );
        let inbox = Arc::clone(&clients.inbox);
        let queries = Queries::new(Arc::clone(&context), caller, node, inbox);
        Self {
            context,
            clients,
            events,
            linger,
            release,
            state,
            publishers: BTreeMap::new(),
            queries,
        }
    }

    pub(super) async fn run(&mut self) {
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
                input = self.queries.next() => self.handle(input),
                () = self.clients.inbox.arrived() => {}
                () = timer => {}
            }
        }
    }

    fn now(&self) -> Instant {
        self.context.environment.now()
    }

    fn handle(&mut self, input: Input) {
        tracing::debug!("input: {input}");
        self.state.handle(input, self.now());
    }

    fn take_inbox(&mut self) {
        let live = Input::EventsLive(self.events.is_live());
        self.state.handle(live, self.now());
        let pending = self.clients.inbox.take();
        if pending.clients {
            self.follow_clients();
        }
        if pending.is_empty() {
            // Its number still counts.
            self.state.handle(Input::Inbox(pending), self.now());
        } else {
            self.handle(Input::Inbox(pending));
        }
    }

    /// Publishes for each set that is wanted now.
    fn follow_clients(&mut self) {
        let wanted = self.clients.wanted();
        let mut before = std::mem::take(&mut self.publishers);
        for set in &wanted {
            let new = || StatusPublisher::new(set.channel.clone());
            let publisher = before.remove(&set.id).unwrap_or_else(new);
            self.publishers.insert(set.id, publisher);
        }
        self.handle(Input::Wanted(wanted));
    }

    /// Evaluates, publishes, and executes what follows; tells when to do so again.
    fn turn(&mut self) -> Option<Instant> {
        let now = self.now();
        let evaluations = self.state.evaluate_all(now);
        let Plan { commands, wake } = self.state.plan(&evaluations, now);
        self.events.note_absent(self.state.is_absent());
        for (id, evaluation) in evaluations {
            let (facts, wall) = (self.state.facts(), self.context.environment.wall());
            if let Some(publisher) = self.publishers.get_mut(&id)
                && publisher.publish(evaluation, facts, wall)
            {
                self.state.handle(Input::News, now);
            }
        }
        for command in commands {
            tracing::debug!("command: {command}");
            self.execute(command, now);
        }
        wake
    }

    fn execute(&mut self, command: Command, now: Instant) {
        match command {
            Command::EndSession => self.queries.end_session(),
            Command::StartSession(container) => self.queries.start_session(container),
            Command::RenewLink => self.queries.renew_link(),
            Command::DistrustEvents => self.events.distrust(),
            Command::Inspect => self.queries.inspect(now),
            Command::QuerySystemd(question) => self.queries.query_systemd(question, now),
            Command::QueryProbe(probe, query, unit, newer_than) => {
                self.queries
                    .query_probe(probe, query, unit, newer_than, now);
            }
            Command::AwaitTurn(key, passes) => self.queries.await_turn(key, passes),
            Command::Watch(key, query, watch, pacing) => {
                self.queries.watch(key, query, watch, pacing);
            }
        }
    }

    /// Stays for a while after the last client, and asks the node nothing; true if nobody came.
    async fn linger(&mut self) -> bool {
        let environment = self.context.environment.clone();
        self.queries.cancel();
        self.handle(Input::Idle);
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
            if environment.now() >= end && (self.release)() {
                return true;
            }
        }
    }
}
