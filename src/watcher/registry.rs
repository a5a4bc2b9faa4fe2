//! Which nodes are followed: an actor for each that somebody waits for, started with its first client
//! and ended some time after its last.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{
    actor::{NodeActor, Release},
    cached::Freshness,
    clients::{ClientGuard, Clients},
    context::{Caller, Context, NodeKey},
    feed::Feed,
    probe_set::ProbeSet,
    schedule::AFTER_A_PANIC,
    status::NodeStatus,
};
use crate::{
    environment::Task,
    event::ContainerEvent,
    node::{Identity, NodeName},
};

/// All nodes that are followed. A clone shares them.
#[derive(Clone)]
pub(crate) struct Watchers(Arc<Registry>);

struct Registry {
    context: Arc<Context>,
    feed: Feed,
    linger: Duration,
    nodes: Mutex<HashMap<NodeKey, Entry>>,
}

struct Entry {
    clients: Arc<Clients>,
    _actor: Task,
}

/// A node that is being followed for one client. Dropping this ends that.
#[derive(Debug)]
pub(crate) struct Watcher {
    statuses: watch::Receiver<Arc<NodeStatus>>,
    client: ClientGuard,
    /// Keeps the actors of this node and of others going.
    _registry: Arc<Registry>,
}

impl Watchers {
    /// Follows nodes; each for that long after its last client has gone.
    /// What all nodes share.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    pub(crate) fn new(context: Arc<Context>, events: bool, linger: Duration) -> Self {
        let feed = Feed::new(
            Arc::clone(&context.engine),
            context.environment.clone(),
            events,
        );
        Self(Arc::new(Registry {
            context,
            feed,
            linger,
            nodes: Mutex::default(),
        }))
    }

    /// What the engine tells of its containers.
    pub(crate) fn feed(&self) -> &Feed {
        &self.0.feed
    }

    /// Follows a node for a client that polls it at that interval, where it has to be polled.
    pub(crate) fn follow(
        &self,
        caller: &Caller,
        node: &NodeName,
        probes: ProbeSet,
        interval: Duration,
    ) -> Watcher {
        let registry = &self.0;
        let key = NodeKey {
            identity: caller.identity.clone(),
            node: node.clone(),
        };
        // Held until the client has joined: an actor ends only under this lock, and never with clients.
        let mut nodes = registry.nodes();
        let entry = nodes
            .entry(key.clone())
            .or_insert_with(|| registry.start(key, caller));
        tracing::debug!(%node, ?interval, "a client comes");
        let environment = &registry.context.environment;
        let (client, statuses) = entry.clients.join(probes, interval, environment);
        Watcher {
            statuses,
            client,
            _registry: Arc::clone(registry),
        }
    }

    /// How many nodes would be followed, if these were as well.
    pub(crate) fn followed_with<'a>(
        &self,
        identity: &Identity,
        nodes: impl IntoIterator<Item = &'a NodeName>,
    ) -> usize {
        let followed = self.0.nodes();
        let is_new = |node: &&NodeName| {
            let key = NodeKey {
                identity: identity.clone(),
                node: (*node).clone(),
            };
            !followed.contains_key(&key)
        };
        followed.len() + nodes.into_iter().filter(is_new).count()
    }
}

impl Registry {
    fn start(self: &Arc<Self>, key: NodeKey, caller: &Caller) -> Entry {
        let clients = Arc::new(Clients::new());
        let span = tracing::debug_span!("node", node = %key.node);
        let following = Following {
            context: Arc::clone(&self.context),
            feed: self.feed.clone(),
            linger: self.linger,
            caller: caller.clone(),
            key,
            clients: Arc::clone(&clients),
            registry: Arc::downgrade(self),
        };
        let run = async move { following.run().await };
        let actor = self.context.environment.spawn(run.instrument(span));
        Entry {
            clients,
            _actor: actor,
        }
    }

    /// Lets a node go, unless somebody has come for it.
    fn remove(&self, key: &NodeKey, clients: &Arc<Clients>) -> bool {
        let mut nodes = self.nodes();
        if !clients.is_empty() {
            return false;
        }
        // The actor ends by itself; letting it go is the last that it does.
        take_out(&mut nodes, key, clients);
        true
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeKey, Entry>> {
        // A std lock: it is never held across an await.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes out these clients' entry, unless it is another's by now.
fn take_out(nodes: &mut HashMap<NodeKey, Entry>, key: &NodeKey, clients: &Arc<Clients>) {
    let is_theirs = |entry: &Entry| Arc::ptr_eq(&entry.clients, clients);
    if nodes.get(key).is_some_and(is_theirs) {
        nodes.remove(key);
    }
}

/// What an actor is made of.
struct Following {
    context: Arc<Context>,
    feed: Feed,
    linger: Duration,
    caller: Caller,
    key: NodeKey,
    clients: Arc<Clients>,
    registry: Weak<Registry>,
}

impl Following {
    /// Follows the node until its last client has gone, also after a fault of readyd's own: that must
    /// leave nobody waiting for nothing.
    async fn run(self) {
        let environment = self.context.environment.clone();
        loop {
            let mut actor = self.actor();
            if AssertUnwindSafe(actor.run()).catch_unwind().await.is_ok() {
                return;
            }
            let NodeKey { node, .. } = &self.key;
            tracing::error!(%node, "following has ended in a panic, which is a fault of readyd: it begins anew");
            self.clients.abandon();
            environment.sleep(AFTER_A_PANIC).await;
            self.clients.resume();
        }
    }

    fn actor(&self) -> NodeActor {
        let NodeKey { node, .. } = &self.key;
        let inbox = Arc::clone(&self.clients.inbox);
        NodeActor::new(
            Arc::clone(&self.context),
            self.caller.clone(),
            node.clone(),
            Arc::clone(&self.clients),
            self.feed.subscribe(node.clone(), inbox),
            self.linger,
            self.release(),
        )
    }

    /// Lets an actor end by itself, without keeping the registry.
    fn release(&self) -> Release {
        let registry = Weak::clone(&self.registry);
        let (key, clients) = (self.key.clone(), Arc::clone(&self.clients));
        Box::new(move || {
            let registry = registry.upgrade();
            registry.is_none_or(|registry| registry.remove(&key, &clients))
        })
    }
}

impl Watcher {
    /// The newest status.
    pub(crate) fn status(&self) -> Arc<NodeStatus> {
        Arc::clone(&self.statuses.borrow())
    }

    /// Where statuses arrive, for who waits for them. Only news wakes.
    pub(crate) fn statuses(&self) -> watch::Receiver<Arc<NodeStatus>> {
        self.statuses.clone()
    }

    /// Asks for another look, now.
    pub(crate) fn refresh(&self) {
        self.client.inbox().refresh();
    }

    /// Takes an event of this node from somebody else than the engine.
    pub(crate) fn take(&self, event: &ContainerEvent) {
        self.client.inbox().container_event(event.action);
    }

    /// Whether a status is the newest there can be, and nothing has happened that may have changed what
    /// it says.
    pub(crate) fn is_current(&self, status: &NodeStatus) -> bool {
        status.freshness == Freshness::Valid && status.sequence == self.client.inbox().sequence()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
