//! The gate that limits execs: at most one at a time in a node, and a budget over all nodes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{container::ContainerId, environment::Environment};

/// How many execs may be at work at once. Each keeps the engine and a core busy for tens of
/// milliseconds, so more of them would only queue elsewhere.
const BUDGET: usize = 8;

/// An exec that runs for longer than this waits for something and costs nothing. It gives its
/// permit back to the budget, so that hung nodes do not use the budget up.
const AT_WORK: Duration = Duration::from_secs(1);

/// Every exec passes this gate.
#[derive(Debug)]
pub(crate) struct ExecGate {
    environment: Environment,
    budget: Arc<Semaphore>,
    nodes: Mutex<HashMap<ContainerId, Weak<tokio::sync::Mutex<()>>>>,
}

/// The right to run one exec. Dropping it gives the right back.
pub(crate) struct Pass {
    _node: OwnedMutexGuard<()>,
    permit: Option<OwnedSemaphorePermit>,
    spent: Instant,
}

/// The reason why an exec was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another exec runs in the same node.
    Node,
    /// The budget over all nodes is used up.
    Budget,
}

impl ExecGate {
    pub(crate) fn new(environment: Environment) -> Self {
        Self {
            environment,
            budget: Arc::new(Semaphore::new(BUDGET)),
            nodes: Mutex::default(),
        }
    }

    /// Waits for a turn, first in the node and then in the budget, so that a node's queue never
    /// holds a permit that another node could use.
    pub(crate) async fn pass(&self, id: &ContainerId, by: Instant) -> Result<Pass, Refused> {
        let node = self.node(id);
        let node = tokio::select! {
            guard = node.lock_owned() => guard,
            () = self.environment.sleep_until(by) => {
                tracing::debug!(container = %id, "no permit: another command runs in the node");
                return Err(Refused::Node);
            }
        };
        let permit = tokio::select! {
            // The semaphore is never closed. If it were, running without a permit would do less
            // harm.
            permit = Arc::clone(&self.budget).acquire_owned() => permit.ok(),
            () = self.environment.sleep_until(by) => {
                tracing::debug!(container = %id, "no permit: commands in other nodes use the budget up");
                return Err(Refused::Budget);
            }
        };
        Ok(Pass {
            _node: node,
            permit,
            spent: self.environment.now() + AT_WORK,
        })
    }

    /// Drives the exec, and gives its permit back to the budget once it is clear that the exec only
    /// waits.
    pub(crate) async fn drive<T>(&self, pass: &mut Pass, exec: impl Future<Output = T>) -> T {
        tokio::pin!(exec);
        let first = tokio::select! {
            biased;
            done = &mut exec => Some(done),
            () = self.environment.sleep_until(pass.spent) => None,
        };
        if let Some(done) = first {
            done
        } else {
            pass.permit.take();
            exec.await
        }
    }

    fn node(&self, id: &ContainerId) -> Arc<tokio::sync::Mutex<()>> {
        // A std lock suffices: it is never held across an await.
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(id).and_then(Weak::upgrade) {
            return node;
        }
        nodes.retain(|_, node| node.strong_count() > 0);
        let node = Arc::default();
        nodes.insert(id.clone(), Arc::downgrade(&node));
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ContainerId {
        ContainerId(format!("{n:064}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_runs_one_exec_at_a_time() {
        let environment = Environment::tokio();
        let gate = ExecGate::new(environment.clone());
        let soon = || environment.now() + Duration::from_millis(10);
        let first = gate.pass(&id(1), soon()).await.ok();
        assert!(first.is_some());
        assert_eq!(gate.pass(&id(1), soon()).await.err(), Some(Refused::Node));
        assert!(gate.pass(&id(2), soon()).await.is_ok());
        drop(first);
        assert!(gate.pass(&id(1), soon()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn hung_nodes_do_not_use_the_budget_up() {
        let environment = Environment::tokio();
        let gate = Arc::new(ExecGate::new(environment.clone()));
        let soon = || environment.now() + Duration::from_millis(10);
        let mut hung = Vec::new();
        for n in 0..BUDGET {
            let mut pass = gate.pass(&id(n), soon()).await.ok().unwrap();
            let gate = Arc::clone(&gate);
            hung.push(tokio::spawn(async move {
                gate.drive(&mut pass, std::future::pending::<()>()).await;
            }));
        }
        assert_eq!(
            gate.pass(&id(99), soon()).await.err(),
            Some(Refused::Budget)
        );
        environment.sleep(AT_WORK).await;
        assert!(gate.pass(&id(99), soon()).await.is_ok());
        for task in hung {
            task.abort();
        }
    }
}
