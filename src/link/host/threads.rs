//! Threads for work that may block, and for work after which a thread must not be reused.
//!
//! A path in a container may lead to a dead mount, and then its thread hangs for ever. A thread
//! that has entered a container's network must never run anything else. So each job has a thread of
//! its own, the number of threads is bounded, and no node has more than a few.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Instant,
};

use super::super::{LinkError, Target};
use crate::{container::ContainerId, quota::Quota};

/// How many threads may be at work on the paths of containers at once.
const PATHS: usize = 32;

/// A thread that works on a path for longer than this hangs, and costs little more than its stack. It
/// gives its place back, so that dead mounts in some containers do not keep readyd from the paths of
/// all others.
const AT_WORK: Duration = Duration::from_secs(1);

/// How many threads may hang, or be at work, on the paths of all containers, and of one.
const PATHS_IN_ALL: usize = 1024;
const PATHS_PER_NODE: usize = 2;

/// How many threads may be in the networks of containers at once. Threads do not hang there.
const NETWORKS: usize = 64;

/// The threads that run now.
#[derive(Debug)]
pub(in super::super) struct Threads {
    paths: Arc<Semaphore>,
    paths_in_all: Arc<Semaphore>,
    paths_per_node: Quota<ContainerId>,
    networks: Arc<Semaphore>,
}

impl Default for Threads {
    fn default() -> Self {
        Self {
            paths: Arc::new(Semaphore::new(PATHS)),
            paths_in_all: Arc::new(Semaphore::new(PATHS_IN_ALL)),
            paths_per_node: Quota::new(PATHS_PER_NODE),
            networks: Arc::new(Semaphore::new(NETWORKS)),
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
        let of_node = self
            .paths_per_node
            .take(&target.container.id)
            .ok_or_else(|| hang("threads that look at its paths hang"))?;
        let of_all = Arc::clone(&self.paths_in_all)
            .try_acquire_owned()
            .map_err(|_| hang("threads that look at the paths of other nodes hang"))?;
        let place = permit(target, &self.paths, by)
            .await
            .ok_or_else(|| hang("too many paths of other nodes are looked at"))?;
        let done = spawn((of_node, of_all), work);
        tokio::pin!(done);
        tokio::select! {
            biased;
            done = &mut done => return done,
            () = target.environment.sleep(AT_WORK) => drop(place),
        }
        done.await
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

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

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
        while !threads.paths_per_node.is_untouched() {
            tokio::task::yield_now().await;
        }
        assert!(threads.among_paths(&hung, soon(), || ()).await.is_ok());
    }

    #[tokio::test]
    async fn threads_that_hang_keep_nobody_from_the_paths_of_other_nodes() {
        let threads = Arc::new(Threads::default());
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let by = Instant::now() + Duration::from_secs(60);
        let mut hung = Vec::new();
        for node in 0..PATHS / PATHS_PER_NODE {
            for _ in 0..PATHS_PER_NODE {
                let (threads, wait) = (Arc::clone(&threads), Arc::clone(&wait));
                hung.push(tokio::spawn(async move {
                    let work = move || wait.lock().unwrap().recv().is_ok();
                    threads.among_paths(&target(node), by, work).await
                }));
            }
        }
        while threads.paths.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let other = target(PATHS);
        let found = threads.among_paths(&other, by, || 7).await;
        assert_eq!(found.unwrap(), 7);
        drop(release);
        for hung in hung {
            assert!(!hung.await.unwrap().unwrap());
        }
        assert!(threads.paths_per_node.is_untouched());
    }
}
