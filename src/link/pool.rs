//! The links to all nodes. Each link is kept for the next query for a while, and then closed.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::Instant;

#[cfg(target_os = "linux")]
use super::host::Threads;
use super::{LinkChoice, Target, gate::ExecGate, greetings::Greetings, node::NodeLink};
use crate::{
    container::{Container, ContainerId},
    engine::ContainerEngine,
    environment::{Environment, Task, after},
    systemd::signals::SignalCounter,
};

/// How many links may be idle at once. Each holds three open files, or two processes in its node.
const IDLE: usize = 256;

/// The links to all nodes. A clone shares them.
#[derive(Clone)]
pub(crate) struct Links(Arc<Pool>);

struct Pool {
    engine: Arc<dyn ContainerEngine>,
    gate: Arc<ExecGate>,
    environment: Environment,
    choice: LinkChoice,
    /// How long an idle link is kept.
    keep: Duration,
    greetings: Arc<Greetings>,
    signals: SignalCounter,
    #[cfg(target_os = "linux")]
    threads: Arc<Threads>,
    kept: Mutex<Kept>,
    #[cfg(test)]
    maker: Option<super::Maker>,
}

#[derive(Default)]
struct Kept {
    links: HashMap<ContainerId, Entry>,
    /// The links that nobody uses, by since when.
    idle: BTreeSet<(Instant, ContainerId)>,
    /// Closes links that have been idle for long enough. It runs while any link is idle.
    closer: Option<Task>,
}

struct Entry {
    container: Container,
    link: Arc<NodeLink>,
    users: usize,
    idle_since: Instant,
}

/// A link in use. The link is idle once nobody uses it any more.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    id: ContainerId,
    link: Arc<NodeLink>,
}

impl Links {
    pub(crate) fn new(
        engine: Arc<dyn ContainerEngine>,
        environment: Environment,
        choice: LinkChoice,
        keep: Duration,
    ) -> Self {
        Self(Arc::new(Pool {
            engine,
            gate: Arc::new(ExecGate::new(environment.clone())),
            environment,
            choice,
            keep,
            greetings: Arc::default(),
            signals: SignalCounter::default(),
            #[cfg(target_os = "linux")]
            threads: Arc::default(),
            kept: Mutex::default(),
            #[cfg(test)]
            maker: None,
        }))
    }

    /// Uses links that a test makes.
    #[cfg(test)]
    pub(crate) fn made_by(self, maker: super::Maker) -> Self {
        let mut pool = Arc::into_inner(self.0).unwrap();
        pool.maker = Some(maker);
        Self(Arc::new(pool))
    }

    /// The link into this run of this container, which was inspected just now. A link is never used
    /// for another run: neither for another container of the same name, nor for the same container
    /// started again.
    pub(crate) fn lease(&self, container: &Container) -> Lease {
        let pool = &self.0;
        let mut kept = pool.kept();
        let Kept { links, idle, .. } = &mut *kept;
        let entry = links.entry(container.id.clone());
        let entry = entry.or_insert_with(|| pool.entry(container));
        if entry.users == 0 {
            idle.remove(&(entry.idle_since, container.id.clone()));
        }
        if !entry.container.is_same_run(container) || entry.container.pid != container.pid {
            *entry = pool.entry(container);
        }
        entry.users += 1;
        tracing::debug!(container = %container.id, users = entry.users, "a link is leased");
        Lease {
            pool: Arc::clone(pool),
            id: container.id.clone(),
            link: Arc::clone(&entry.link),
        }
    }
}

impl Pool {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A std lock suffices: it is never held across an await.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, container: &Container) -> Entry {
        let target = Target {
            engine: Arc::clone(&self.engine),
            gate: Arc::clone(&self.gate),
            environment: self.environment.clone(),
            container: container.clone(),
            seen: self.environment.now(),
            greetings: Arc::clone(&self.greetings),
            signals: self.signals.clone(),
            up: Arc::default(),
            bus_connections: Arc::default(),
        };
        #[allow(unused_mut, reason = "a test has links of its own")]
        let mut link = NodeLink::new(
            target,
            self.choice,
            #[cfg(target_os = "linux")]
            Arc::clone(&self.threads),
        );
        #[cfg(test)]
        link.maker.clone_from(&self.maker);
        Entry {
            container: container.clone(),
            link: Arc::new(link),
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
        kept.idle.insert((now, id.clone()));
        if kept.idle.len() > IDLE
            && let Some((_, id)) = kept.idle.pop_first()
        {
            tracing::debug!(container = %id, "too many links are idle: the one idle longest is closed");
            kept.links.remove(&id);
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

    /// Closes links that have been idle for long enough, and returns when the next one is due.
    fn close_idle(&self) -> Option<Instant> {
        let now = self.environment.now();
        let mut kept = self.kept();
        let mut next = None;
        while let Some((since, id)) = kept.idle.pop_first() {
            let end = after(since, self.keep);
            if end > now {
                kept.idle.insert((since, id));
                next = Some(end);
                break;
            }
            kept.links.remove(&id);
        }
        if next.is_none() {
            // The task ends by itself; dropping its handle is the last thing that it does.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::target::tests::{Silent, container};

    const KEEP: Duration = Duration::from_secs(10);

    fn links() -> (Links, Environment) {
        let environment = Environment::tokio();
        let links = Links::new(
            Arc::new(Silent),
            environment.clone(),
            LinkChoice::Auto,
            KEEP,
        );
        (links, environment)
    }

    #[tokio::test(start_paused = true)]
    async fn idle_links_are_few_and_kept_for_a_while() {
        let (links, environment) = links();
        let leases: Vec<_> = (0..IDLE + 50)
            .map(|n| links.lease(&container(n, 1)))
            .collect();
        assert_eq!(environment.tasks(), 0, "all of them are in use");
        drop(leases);
        assert_eq!(links.0.kept().links.len(), IDLE);
        assert_eq!(environment.tasks(), 1);

        environment.sleep(KEEP / 2).await;
        let newest = container(IDLE + 49, 1);
        drop(links.lease(&newest));
        environment
            .sleep(KEEP / 2 + Duration::from_millis(10))
            .await;
        let left = links.0.kept().links.keys().cloned().collect::<Vec<_>>();
        assert_eq!(left, [newest.id], "it was used since");
        environment.sleep(KEEP).await;
        assert_eq!(links.0.kept().links.len(), 0);
        assert_eq!(environment.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn another_run_has_another_link_and_the_first_ends_with_its_users() {
        let (links, environment) = links();
        let first = links.lease(&container(1, 10));
        let again = links.lease(&container(1, 10));
        assert!(Arc::ptr_eq(&first.link, &again.link));
        let restarted = links.lease(&container(1, 11));
        assert!(!Arc::ptr_eq(&first.link, &restarted.link));
        let old = Arc::downgrade(&first.link);
        drop((first, again));
        assert!(old.upgrade().is_none());
        drop(restarted);
        environment.sleep(KEEP + Duration::from_millis(10)).await;
        assert_eq!(environment.tasks(), 0);
    }
}
