//! The containers that there are, now and from now on: one list for all who want to know, kept up to date for as
//! long as anybody does.
//!
//! Events say only that the list may have changed. Then it is asked for anew, once for as many events as come
//! meanwhile; where events are not live, it is asked for at an interval.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{Discovery, ListedNode, NodeSelector};
use crate::{
    engine::{CALL_LIMIT, ListedContainer},
    environment::Task,
    node::Identity,
    probe::ProbeError,
    watcher::{Context, EVENTS_BACKOFF, Feed, RESYNC},
};

/// How often the list is asked for where no event tells of changes.
const POLL: Duration = Duration::from_millis(500);

/// How soon it may be asked for again, however many events there are.
const PAUSE: Duration = Duration::from_millis(50);

/// The containers that there are. A clone shares them.
#[derive(Clone)]
pub(crate) struct Directory(Arc<Hub>);

struct Hub {
    context: Arc<Context>,
    feed: Feed,
    newest: watch::Sender<Arc<Listing>>,
    /// Somebody wants a list that is asked for from now on.
    wanted: Notify,
    readers: Mutex<Readers>,
}

#[derive(Default)]
struct Readers {
    count: usize,
    /// Lists for as long as there are readers.
    task: Option<Task>,
}

/// The newest list.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// When it was asked for; none if there is no list yet.
    pub(crate) asked: Option<Instant>,
    containers: Arc<[ListedContainer]>,
    /// Why there is no newer one. The last one stands.
    pub(crate) trouble: Option<ProbeError>,
}

/// Somebody who reads the list.
pub(crate) struct DirectoryReader {
    hub: Arc<Hub>,
    newest: watch::Receiver<Arc<Listing>>,
}

impl Directory {
    pub(crate) fn new(context: Arc<Context>, feed: Feed) -> Self {
        Self(Arc::new(Hub {
            context,
            feed,
            newest: watch::Sender::default(),
            wanted: Notify::new(),
            readers: Mutex::default(),
        }))
    }

    /// Reads the list. One that is asked for from now on comes soon.
    pub(crate) fn read(&self) -> DirectoryReader {
        let hub = &self.0;
        let mut readers = hub.readers();
        readers.count += 1;
        let newest = hub.newest.subscribe();
        if readers.task.is_some() {
            hub.wanted.notify_one();
        } else {
            // It begins with a list.
            let listing = Arc::clone(hub);
            let list = async move { listing.list().await };
            readers.task = Some(hub.context.environment.spawn(list));
        }
        DirectoryReader {
            hub: Arc::clone(hub),
            newest,
        }
    }
}

impl DirectoryReader {
    /// Completes once there is another list, or another trouble.
    pub(crate) async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The newest list.
    pub(crate) fn newest(&mut self) -> Arc<Listing> {
        Arc::clone(&self.newest.borrow_and_update())
    }

    /// Wants a list that is asked for from now on.
    pub(crate) fn refresh(&self) {
        self.hub.wanted.notify_one();
    }

    /// The nodes of a list that are meant, and that this identity may see.
    pub(crate) fn nodes(
        &self,
        listing: &Listing,
        identity: &Identity,
        selector: &NodeSelector,
    ) -> Vec<ListedNode> {
        Discovery::of(&self.hub.context).nodes(&listing.containers, identity, selector)
    }
}

impl Drop for DirectoryReader {
    fn drop(&mut self) {
        let mut readers = self.hub.readers();
        readers.count -= 1;
        if readers.count == 0 {
            readers.task = None;
        }
    }
}

impl Hub {
    async fn list(&self) {
        let environment = &self.context.environment;
        let subscription = self.feed.subscribe_to_list();
        let mut backoff = EVENTS_BACKOFF.0;
        loop {
            let asked = environment.now();
            let next = match self.context.engine.list(asked + CALL_LIMIT).await {
                Ok(containers) => {
                    backoff = EVENTS_BACKOFF.0;
                    tracing::debug!(containers = containers.len(), "listed");
                    self.newest.send_replace(Arc::new(Listing {
                        asked: Some(asked),
                        containers: containers.into(),
                        trouble: None,
                    }));
                    if subscription.is_live() { RESYNC } else { POLL }
                }
                Err(error) => {
                    tracing::debug!(%error, again_in = ?backoff, "no list of the containers");
                    self.newest.send_modify(|newest| {
                        *newest = Arc::new(Listing {
                            asked: newest.asked,
                            containers: Arc::clone(&newest.containers),
                            trouble: Some(error.into()),
                        });
                    });
                    let next = backoff;
                    backoff = (backoff * 2).min(EVENTS_BACKOFF.1);
                    next
                }
            };
            let due = environment.now() + environment.jitter(next);
            tokio::select! {
                biased;
                () = self.wanted.notified() => {}
                () = subscription.changed() => {}
                () = environment.sleep_until(due) => {}
            }
            environment.sleep_until(asked + PAUSE).await;
        }
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        // A std lock: it is never held across an await.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
