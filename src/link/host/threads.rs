//! Threads for work that may block, and for work after which a thread must not be reused.
//!
//! A path in a container may lead to a dead mount, and then its thread hangs for ever. A thread
//! that has entered a container's network must never run anything else. So each job has a thread of
//! its own, the number of threads is bounded, and no node has more than a few.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::super::{LinkError, Target};
use crate::container::ContainerId;

/// How many threads may work on the paths of containers at once, including hung threads.
const PATHS: usize = 32;

/// How many of these threads one node may have.
const PATHS_PER_NODE: usize = 2;

/// How many threads may be in the networks of containers at once. Threads do not hang there.
const NETWORKS: usize = 64;

/// The threads that run now.
#[derive(Debug)]
pub(in super::super) struct Threads {
    paths: Arc<Semaphore>,
    networks: Arc<Semaphore>,
    of_node: Mutex<HashMap<ContainerId, usize>>,
}

impl Default for Threads {
    fn default() -> Self {
        Self {
            paths: Arc::new(Semaphore::new(PATHS)),
            networks: Arc::new(Semaphore::new(NETWORKS)),
            of_node: Mutex::default(),
        }
    }
}

impl Threads {
    /// Runs work that may hang on a path in a node. Dropping the future does not wait for the
    /// thread, but the thread counts until it ends.
    pub(super) async fn among_paths<T: Send + 'static>(
        self: &Arc<Self>,
        target: &Target,
        by: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let hang = |whose| LinkError::Unusable(format!("not from outside: {whose}"));
        let of_node = OfNode::start(self, &target.container.id)
            .ok_or_else(|| hang("threads that look at its paths hang"))?;
        let permit = permit(target, &self.paths, by)
            .await
            .ok_or_else(|| hang("threads that look at the paths of other nodes hang"))?;
        spawn((of_node, permit), work).await
    }

    /// Runs work that enters a node's network.
    pub(super) async fn in_network<T: Send + 'static>(
        &self,
        target: &Target,
        by: Instant,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let permit = permit(target, &self.networks, by)
            .await
            .ok_or_else(|| busy("too many ports are dialled in other nodes"))?;
        spawn(permit, work).await
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerId, usize>> {
        self.of_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn permit(
    target: &Target,
    semaphore: &Arc<Semaphore>,
    by: Instant,
) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        biased;
        permit = Arc::clone(semaphore).acquire_owned() => permit.ok(),
        () = target.environment.sleep_until(by) => None,
    }
}

async fn spawn<T: Send + 'static>(
    counts: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LinkError> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("readyd-node".to_owned());
    let spawned = thread.spawn(move || {
        let done = work();
        drop(counts);
        // The caller may not wait for the result any more.
        let _ = sender.send(done);
    });
    spawned.map_err(|_| busy("no thread could be started"))?;
    receiver.await.map_err(|_| busy("its thread has panicked"))
}

fn busy(why: &'static str) -> LinkError {
    LinkError::Busy {
        what: "the node".to_owned(),
        why,
    }
}

/// A permit for one of a node's threads. It is given back when the thread ends.
struct OfNode {
    threads: Arc<Threads>,
    node: ContainerId,
}

impl OfNode {
    fn start(threads: &Arc<Threads>, node: &ContainerId) -> Option<Self> {
        let mut running = threads.lock();
        let of_node = running.entry(node.clone()).or_default();
        if *of_node >= PATHS_PER_NODE {
            return None;
        }
        *of_node += 1;
        drop(running);
        Some(Self {
            threads: Arc::clone(threads),
            node: node.clone(),
        })
    }
}

impl Drop for OfNode {
    fn drop(&mut self) {
        let mut running = self.threads.lock();
        if let Some(count) = running.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::link::target::tests::target;

    #[tokio::test]
    async fn a_node_that_hangs_has_few_threads_and_takes_none_of_anothers() {
        let threads = Arc::new(Threads::default());
        let (hung, other) = (target(1), target(2));
        let soon = || Instant::now() + Duration::from_secs(10);
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..PATHS_PER_NODE {
            let wait = Arc::clone(&wait);
            let work = move || wait.lock().unwrap().recv().is_ok();
            let mut run = Box::pin(threads.among_paths(&hung, soon(), work));
            // The thread has started, and then nobody waits for it.
            assert!(futures_util::poll!(&mut run).is_pending());
        }
        let error = threads.among_paths(&hung, soon(), || ()).await.unwrap_err();
        assert!(matches!(error, LinkError::Unusable(_)), "{error}");
        let found = threads.among_paths(&other, soon(), || 7).await;
        assert_eq!(found.unwrap(), 7);
        let found = threads.in_network(&hung, soon(), || 8).await;
        assert_eq!(found.unwrap(), 8);

        drop(release);
        while !threads.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(threads.among_paths(&hung, soon(), || ()).await.is_ok());
    }
}
