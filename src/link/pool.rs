//! The links to all nodes: each is kept for the next look for a while, and then closed.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

#[cfg(target_os = "linux")]
use super::host::Threads;
use super::{LinkChoice, Place, gate::ExecGate, node::NodeLink};
use crate::{
    environment::{Environment, Task},
    runtime::{Container, ContainerId, Runtime},
};

/// How many links may be idle at once. Each has three open files, or two processes in its node.
const IDLE: usize = 256;

/// The links to all nodes. A clone shares them.
#[derive(Clone)]
pub(crate) struct Links(Arc<Pool>);

struct Pool {
    runtime: Arc<dyn Runtime>,
    gate: Arc<ExecGate>,
    environment: Environment,
    choice: LinkChoice,
    /// For how long an idle link is kept.
    keep: Duration,
    #[cfg(target_os = "linux")]
    threads: Arc<Threads>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    links: HashMap<ContainerId, Entry>,
    /// Closes what has been idle for long enough; runs while anything is.
    closer: Option<Task>,
}

struct Entry {
    container: Container,
    link: Arc<NodeLink>,
    users: usize,
    idle_since: Instant,
}

/// A link in use. Once nobody uses it any more, it is idle.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    id: ContainerId,
    link: Arc<NodeLink>,
}

impl Links {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        environment: Environment,
        choice: LinkChoice,
        keep: Duration,
    ) -> Self {
        Self(Arc::new(Pool {
            runtime,
            gate: Arc::new(ExecGate::new(environment.clone())),
            environment,
            choice,
            keep,
            #[cfg(target_os = "linux")]
            threads: Arc::default(),
            kept: Mutex::default(),
        }))
    }

    /// The link into this run of this container, which was looked at just now. A link is never used
    /// for another: not for one of the same name, nor for the same one started again.
    pub(crate) fn lease(&self, container: &Container) -> Lease {
        let pool = &self.0;
        let mut kept = pool.kept();
        let entry = kept.links.entry(container.id.clone());
        let entry = entry.or_insert_with(|| pool.entry(container));
        if !entry.container.is_same_run(container) || entry.container.pid != container.pid {
            *entry = pool.entry(container);
        }
        entry.users += 1;
        Lease {
            pool: Arc::clone(pool),
            id: container.id.clone(),
            link: Arc::clone(&entry.link),
        }
    }
}

impl Pool {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A std lock: it is never held across an await.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, container: &Container) -> Entry {
        let place = Place {
            runtime: Arc::clone(&self.runtime),
            gate: Arc::clone(&self.gate),
            environment: self.environment.clone(),
            container: container.clone(),
            up: Arc::default(),
        };
        Entry {
            container: container.clone(),
            link: Arc::new(NodeLink::new(
                place,
                self.choice,
                #[cfg(target_os = "linux")]
                Arc::clone(&self.threads),
            )),
            users: 0,
            idle_since: self.environment.now(),
        }
    }

    fn give_back(self: &Arc<Self>, id: &ContainerId, link: &Arc<NodeLink>) {
        let now = self.environment.now();
        let mut kept = self.kept();
        // A link that was replaced in the meantime ends with its last user.
        let Some(entry) = kept.links.get_mut(id) else {
            return;
        };
        if !Arc::ptr_eq(&entry.link, link) {
            return;
        }
        entry.users -= 1;
        entry.idle_since = now;
        if entry.users > 0 {
            return;
        }
        let idle = kept.links.iter().filter(|(_, entry)| entry.users == 0);
        if idle.clone().count() > IDLE {
            let longest = idle.min_by_key(|(_, entry)| entry.idle_since);
            if let Some(id) = longest.map(|(id, _)| id.clone()) {
                kept.links.remove(&id);
            }
        }
        if kept.closer.is_none() {
            let pool = Arc::downgrade(self);
            let environment = self.environment.clone();
            let closer = self
                .environment
                .spawn(async move { close(pool, environment).await });
            kept.closer = Some(closer);
        }
    }

    /// Closes what has been idle for long enough; tells when the next will have been.
    fn close_idle(&self) -> Option<Instant> {
        let now = self.environment.now();
        let mut kept = self.kept();
        kept.links
            .retain(|_, entry| entry.users > 0 || now < entry.idle_since + self.keep);
        let idle = kept.links.values().filter(|entry| entry.users == 0);
        let next = idle.map(|entry| entry.idle_since + self.keep).min();
        if next.is_none() {
            // The task ends by itself; letting it go is the last that it does.
            kept.closer = None;
        }
        next
    }
}

async fn close(pool: Weak<Pool>, environment: Environment) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.close_idle()) {
        environment.sleep_until(next).await;
    }
}

impl Deref for Lease {
    type Target = NodeLink;

    fn deref(&self) -> &NodeLink {
        &self.link
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.give_back(&self.id, &self.link);
    }
}
