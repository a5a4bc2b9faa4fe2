//! Following nodes: one task for each node that somebody waits for, whatever the number of those who
//! wait.
//!
//! ```text
//! client ─┐                       ┌─ Feed: the engine's events, one subscription for all
//! client ─┼─▶ Desk ─▶ Life ◀──────┤
//! client ─┘    ▲       │ publish  └─ Link: systemd's signals, one connection a node
//!    ▲         └ plans ┘
//!    └────── a watch channel for each plan, newest wins
//! ```
//!
//! Clients that want the same share a plan, and all of a node share its life. A reader that is slow
//! misses states, never the last.

mod fact;
pub(crate) mod feed;
mod life;
pub(crate) mod look;
mod plan;
mod round;
pub(crate) mod second;
mod sight;
pub(crate) mod step;
mod subject;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::sync::watch;

pub(crate) use look::{Depth, Look};
pub(crate) use plan::{Published, Seen, Wanted};
pub(crate) use sight::Sight;

use crate::{
    environment::Task,
    event::ContainerEvent,
    node::{Identity, NodeName},
};
use feed::Feed;
use life::Life;
use plan::{Desk, Place};

/// Whom to follow: what one identity sees of a node, another may not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    identity: Identity,
    node: NodeName,
}

/// All nodes that are followed. A clone shares them.
#[derive(Clone)]
pub(crate) struct Watchers(Arc<Registry>);

struct Registry {
    sight: Arc<Sight>,
    feed: Feed,
    linger: Duration,
    nodes: Mutex<HashMap<Key, Followed>>,
}

struct Followed {
    desk: Arc<Desk>,
    _task: Task,
}

/// A node that is being followed for one client; dropping this ends that.
pub(crate) struct Watcher {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    node: NodeName,
    place: Place,
    /// Keeps the other nodes' lives, and this one's, going.
    _registry: Arc<Registry>,
}

impl Watchers {
    /// Follows nodes; each for that long after its last client has gone.
    pub(crate) fn new(sight: Arc<Sight>, events: bool, linger: Duration) -> Self {
        let feed = Feed::new(
            Arc::clone(&sight.runtime),
            sight.environment.clone(),
            events,
        );
        Self(Arc::new(Registry {
            sight,
            feed,
            linger,
            nodes: Mutex::default(),
        }))
    }

    /// Follows a node for a client that polls it at that interval, where it has to be polled.
    pub(crate) fn follow(
        &self,
        identity: &Identity,
        node: &NodeName,
        wanted: Wanted,
        interval: Duration,
    ) -> Watcher {
        let registry = &self.0;
        let key = Key {
            identity: identity.clone(),
            node: node.clone(),
        };
        // Held until the client has joined: a life ends only under this lock, and never with clients.
        let mut nodes = registry.nodes();
        let followed = nodes
            .entry(key.clone())
            .or_insert_with(|| registry.start(key));
        let environment = &registry.sight.environment;
        let place = followed.desk.join(wanted, interval, environment);
        Watcher {
            published: place.published(),
            node: node.clone(),
            place,
            _registry: Arc::clone(registry),
        }
    }
}

impl Registry {
    fn start(self: &Arc<Self>, key: Key) -> Followed {
        let desk = Arc::new(Desk::new());
        let feed = self
            .feed
            .subscribe(key.node.clone(), Arc::clone(&desk.doubts));
        let life = Life::new(
            Arc::clone(&self.sight),
            Arc::downgrade(self),
            key,
            Arc::clone(&desk),
            feed,
            self.linger,
        );
        let run = {
            let (registry, desk) = (Arc::downgrade(self), Arc::clone(&desk));
            async move {
                if AssertUnwindSafe(life.run()).catch_unwind().await.is_err() {
                    // A fault of ours must not leave anybody waiting for nothing.
                    desk.abandon();
                    if let Some(registry) = registry.upgrade() {
                        registry.forget(&desk);
                    }
                }
            }
        };
        let task = self.sight.environment.spawn(run);
        Followed { desk, _task: task }
    }

    /// Lets a node go, unless somebody has come for it.
    fn remove(&self, desk: &Arc<Desk>) -> bool {
        let mut nodes = self.nodes();
        if !desk.is_empty() {
            return false;
        }
        // The task ends by itself; letting it go is the last that it does.
        nodes.retain(|_, followed| !Arc::ptr_eq(&followed.desk, desk));
        true
    }

    /// Lets a node go that nobody looks at any more: who comes next begins anew.
    fn forget(&self, desk: &Arc<Desk>) {
        let mut nodes = self.nodes();
        nodes.retain(|_, followed| !Arc::ptr_eq(&followed.desk, desk));
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Key, Followed>> {
        // A std lock: it is never held across an await.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher {
    /// Asks for another look, now.
    pub(crate) fn nudge(&self) {
        self.place.doubts().ask();
    }

    /// Takes an event that somebody else than the engine tells of; one of another container is
    /// ignored.
    pub(crate) fn take(&self, event: &ContainerEvent) {
        if feed::is_about(event, &self.node) {
            self.place.doubts().container(event.action);
        }
    }

    /// Whether something has happened to the node that is not in its newest state yet.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.published.borrow().doubtful || self.place.doubts().are_untaken()
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}
