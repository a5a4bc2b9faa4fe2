//! Threads for what may block, and for what a thread must not come back from.
//!
//! A path in a container may lead to a dead mount, and then its thread hangs for ever; a thread that
//! has entered a container's network must never run anything else. So each job has a thread of its
//! own, their number is bounded, and no node has more than a few.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::oneshot;

use super::super::LinkError;
use crate::runtime::ContainerId;

/// How many threads there are at most, hung ones included.
const THREADS: usize = 64;

/// How many of them one node may have.
const PER_NODE: usize = 4;

/// The threads that run now, by the node that they run for.
#[derive(Debug, Default)]
pub(in super::super) struct Threads(Mutex<HashMap<ContainerId, usize>>);

impl Threads {
    /// Runs work on a thread of its own. The thread is not waited for when this is dropped, but it
    /// counts until it ends.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        node: &ContainerId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LinkError> {
        let busy = |why| LinkError::Busy {
            what: "the node".to_owned(),
            why,
        };
        let running = Running::start(self, node).map_err(busy)?;
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("readyd-node".to_owned());
        let spawned = thread.spawn(move || {
            let _running = running;
            // Nobody may wait for it any more.
            let _ = sender.send(work());
        });
        spawned.map_err(|_| busy("no thread could be started"))?;
        receiver.await.map_err(|_| busy("its thread has panicked"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ContainerId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread's place, given back when it ends.
struct Running {
    threads: Arc<Threads>,
    node: ContainerId,
}

impl Running {
    fn start(threads: &Arc<Threads>, node: &ContainerId) -> Result<Self, &'static str> {
        let mut running = threads.lock();
        if running.values().sum::<usize>() >= THREADS {
            return Err("too many threads hang in other nodes");
        }
        let of_node = running.entry(node.clone()).or_default();
        if *of_node >= PER_NODE {
            return Err("too many threads hang in it");
        }
        *of_node += 1;
        drop(running);
        Ok(Self {
            threads: Arc::clone(threads),
            node: node.clone(),
        })
    }
}

impl Drop for Running {
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
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_node_that_hangs_has_few_threads_and_takes_none_of_anothers() {
        let threads = Arc::new(Threads::default());
        let hung = ContainerId("hung".to_owned());
        let (release, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..PER_NODE {
            let (threads, hung, wait) = (Arc::clone(&threads), hung.clone(), Arc::clone(&wait));
            let mut run = Box::pin(async move {
                let work = move || wait.lock().unwrap().recv().is_ok();
                threads.run(&hung, work).await
            });
            // Started, and then nobody waits for it.
            assert!(futures_util::poll!(&mut run).is_pending());
        }
        let error = threads.run(&hung, || ()).await.unwrap_err();
        assert!(
            error.to_string().contains("too many threads hang in it"),
            "{error}"
        );
        let other = ContainerId("other".to_owned());
        assert_eq!(threads.run(&other, || 7).await.unwrap(), 7);

        drop(release);
        while !threads.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(threads.run(&hung, || ()).await.is_ok());
    }
}
