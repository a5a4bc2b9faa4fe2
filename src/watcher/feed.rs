//! What the engine tells of its containers, for all who follow one: a single subscription for as long
//! as anybody does.
//!
//! ```text
//! subscribe ─▶ live ─▶ events, each to whom it is about ─▶ lost ─▶ wait, longer each time ─┐
//!     ▲          └ everyone looks again          everyone looks again ┘                     │
//!     └────────────────────────── with the time of the last event ──────────────────────────┘
//! ```
//!
//! Events are hints: an engine drops them for slow readers, and a stream may be cut. So whoever reads
//! never waits, and whatever may have been missed is looked at.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::schedule::{EVENTS_BACKOFF, RESYNC};
use crate::{
    container::ContainerId,
    engine::{CALL_LIMIT, ContainerEngine, EventStream, ListedContainer},
    environment::{Environment, Task},
    event::{Action, ContainerEvent, NodeIndex},
    inbox::Inbox,
    node::NodeName,
};

/// How many events are remembered, so that none that is told again is taken for another: as many as
/// an engine keeps (`eventsLimit` in moby's daemon/events).
const RECENT: usize = 256;

/// The engine's events. A clone shares them.
#[derive(Clone)]
pub(crate) struct Feed(Arc<Hub>);

struct Hub {
    engine: Arc<dyn ContainerEngine>,
    environment: Environment,
    /// Whether events are wanted at all.
    wanted: bool,
    /// The number of the subscription that is live; zero if none is. A task that is being ended may
    /// still set its own number, which counts no longer.
    live: AtomicU64,
    /// The number of the newest task.
    generation: AtomicU64,
    /// Somebody has seen what no event told.
    distrusted: Notify,
    readers: Mutex<Readers>,
}

#[derive(Default)]
struct Readers {
    nodes: NodeIndex<Arc<Reader>>,
    /// Who wants to know that another container may be there, or another name or state.
    lists: Vec<Arc<Notify>>,
    /// Reads for as long as there are readers.
    task: Option<Task>,
}

impl Readers {
    /// Another container may be there, or another name or state.
    fn list_changes(&self) {
        self.lists.iter().for_each(|changed| changed.notify_one());
    }
}

/// Somebody who follows a node.
struct Reader {
    inbox: Arc<Inbox>,
    /// Whether the last look found no such container. Then only events tell that it has come.
    is_absent: AtomicBool,
}

/// The share of somebody who lists the containers; ends when this is dropped.
pub(crate) struct ListSubscription {
    hub: Arc<Hub>,
    changed: Arc<Notify>,
}

impl ListSubscription {
    /// Completes once the list of the containers may have changed since this completed last.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether every change is told.
    pub(crate) fn is_live(&self) -> bool {
        self.hub.is_live()
    }
}

impl Drop for ListSubscription {
    fn drop(&mut self) {
        let mut readers = self.hub.readers();
        readers
            .lists
            .retain(|changed| !Arc::ptr_eq(changed, &self.changed));
        self.hub.end_without_readers(&mut readers);
    }
}

/// One node's share in the events; ends when this is dropped.
pub(super) struct Subscription {
    hub: Arc<Hub>,
    node: NodeName,
    reader: Arc<Reader>,
}

impl Feed {
    pub(crate) fn new(
        engine: Arc<dyn ContainerEngine>,
        environment: Environment,
        wanted: bool,
    ) -> Self {
        Self(Arc::new(Hub {
            engine,
            environment,
            wanted,
            live: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            distrusted: Notify::new(),
            readers: Mutex::default(),
        }))
    }

    /// Puts what happens to the container of that name or id into this inbox.
    pub(super) fn subscribe(&self, node: NodeName, inbox: Arc<Inbox>) -> Subscription {
        let hub = &self.0;
        let mut readers = hub.readers();
        let reader = Arc::new(Reader {
            inbox,
            is_absent: AtomicBool::new(false),
        });
        readers.nodes.insert(node.clone(), Arc::clone(&reader));
        self.read_for(&mut readers);
        Subscription {
            hub: Arc::clone(hub),
            node,
            reader,
        }
    }

    /// Tells when another container may be there, or another name.
    pub(crate) fn subscribe_to_list(&self) -> ListSubscription {
        let hub = &self.0;
        let mut readers = hub.readers();
        let changed = Arc::new(Notify::new());
        readers.lists.push(Arc::clone(&changed));
        self.read_for(&mut readers);
        ListSubscription {
            hub: Arc::clone(hub),
            changed,
        }
    }

    fn read_for(&self, readers: &mut Readers) {
        let hub = &self.0;
        if hub.wanted && readers.task.is_none() {
            let reading = Arc::clone(hub);
            let generation = hub.generation.fetch_add(1, Ordering::SeqCst) + 1;
            let read = async move { reading.read(generation).await };
            readers.task = Some(hub.environment.spawn(read));
        }
    }
}

impl Subscription {
    /// Whether whatever happens is told. It is for as long as nothing else is: losing it is told.
    pub(super) fn is_live(&self) -> bool {
        self.hub.is_live()
    }

    /// Notes whether there is no such container.
    pub(super) fn note_absent(&self, is_absent: bool) {
        self.reader.is_absent.store(is_absent, Ordering::Relaxed);
    }

    /// Something was seen that should have been told: the events are subscribed to anew.
    pub(super) fn distrust(&self) {
        self.hub.distrusted.notify_one();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut readers = self.hub.readers();
        let is_it = |reader: &Arc<Reader>| Arc::ptr_eq(reader, &self.reader);
        readers.nodes.remove(&self.node, is_it);
        self.hub.end_without_readers(&mut readers);
    }
}

impl Hub {
    fn is_live(&self) -> bool {
        let live = self.live.load(Ordering::SeqCst);
        live != 0 && live == self.generation.load(Ordering::SeqCst)
    }

    fn end_without_readers(&self, readers: &mut Readers) {
        if readers.nodes.is_empty() && readers.lists.is_empty() {
            readers.task = None;
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn read(&self, generation: u64) {
        let mut recent = Recent::default();
        let mut backoff = EVENTS_BACKOFF.0;
        loop {
            let by = self.environment.now() + CALL_LIMIT;
            let start = self.environment.now();
            match self.engine.events(recent.newest, by).await {
                Ok(events) => {
                    tracing::debug!("the engine's events are live");
                    // In this order: whoever looks from now on may go by what is told.
                    self.live.fetch_max(generation, Ordering::SeqCst);
                    self.everyone_looks();
                    self.follow(events, &mut recent).await;
                    let lost = self.live.compare_exchange(
                        generation,
                        0,
                        Ordering::SeqCst,
                        Ordering::SeqCst,
                    );
                    if lost.is_err() {
                        return;
                    }
                    self.everyone_looks();
                }
                Err(error) => tracing::debug!(%error, again_in = ?backoff, "no events"),
            }
            // One that stood for a while was no failure.
            if self.environment.now() > start + EVENTS_BACKOFF.1 {
                backoff = EVENTS_BACKOFF.0;
            }
            self.environment
                .sleep(self.environment.jitter(backoff))
                .await;
            backoff = (backoff * 2).min(EVENTS_BACKOFF.1);
        }
    }

    /// Passes events on, until there may have been some that did not come.
    async fn follow(&self, mut events: EventStream, recent: &mut Recent) {
        let backup = self.look_for_absent();
        tokio::pin!(backup);
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = &mut backup => continue,
                () = self.distrusted.notified() => {
                    tracing::warn!("an engine's events have told less than was seen: subscribing anew");
                    return;
                }
            };
            match event {
                Some(Ok(event)) => {
                    if recent.is_new(&event) {
                        self.deliver(&event);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the engine's events were lost");
                    return;
                }
                None => {
                    tracing::debug!("the engine's events have ended");
                    return;
                }
            }
        }
    }

    /// Backs the events up for containers that do not exist, with one list for all of them: an event
    /// may have been lost without a word.
    async fn look_for_absent(&self) {
        loop {
            self.environment
                .sleep(self.environment.jitter(RESYNC))
                .await;
            if !self
                .readers()
                .nodes
                .values()
                .any(|reader| reader.is_absent.load(Ordering::Relaxed))
            {
                continue;
            }
            match self.engine.list(self.environment.now() + CALL_LIMIT).await {
                Ok(listed) => {
                    let readers = self.readers();
                    for ListedContainer { id, name, .. } in &listed {
                        for reader in readers.nodes.of(id, name) {
                            if reader.is_absent.load(Ordering::Relaxed) {
                                tracing::debug!(
                                    container = name,
                                    "it has come, which no event told"
                                );
                                reader.inbox.events_missed();
                            }
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "no list of the containers"),
            }
        }
    }

    fn deliver(&self, event: &ContainerEvent) {
        tracing::debug!(container = %event.id, name = event.name, action = %event.action, "event");
        let readers = self.readers();
        for reader in readers.nodes.about(event) {
            reader.inbox.container_event(event.action);
        }
        if event.action.undoes() {
            readers.list_changes();
        }
    }

    fn everyone_looks(&self) {
        let readers = self.readers();
        for reader in readers.nodes.values() {
            reader.inbox.events_missed();
        }
        readers.list_changes();
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        // A std lock: it is never held across an await.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of late.
#[derive(Default)]
struct Recent {
    events: VecDeque<(SystemTime, ContainerId, Action)>,
    /// The time of the newest.
    newest: Option<SystemTime>,
}

impl Recent {
    /// Whether the event was not told before; one without a time always is.
    fn is_new(&mut self, event: &ContainerEvent) -> bool {
        let Some(at) = event.at else {
            return true;
        };
        let event = (at, event.id.clone(), event.action);
        if self.events.contains(&event) {
            return false;
        }
        if self.events.len() == RECENT {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.newest = self.newest.max(Some(at));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event(name: &str, action: Action, at: u64) -> ContainerEvent {
        ContainerEvent {
            id: ContainerId("ab".repeat(32)),
            name: name.to_owned(),
            former_name: None,
            action,
            at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
        }
    }

    #[test]
    fn an_event_that_is_told_again_is_dropped() {
        let mut recent = Recent::default();
        assert!(recent.is_new(&event("a", Action::Die, 1)));
        assert!(!recent.is_new(&event("a", Action::Die, 1)));
        assert!(recent.is_new(&event("a", Action::Start, 1)));
        assert!(recent.is_new(&event("a", Action::Die, 2)));
        for at in 10..2000 {
            recent.is_new(&event("a", Action::Die, at));
        }
        assert_eq!(recent.events.len(), RECENT);
        let newest = SystemTime::UNIX_EPOCH + Duration::from_secs(1999);
        assert_eq!(recent.newest, Some(newest));
    }
}
