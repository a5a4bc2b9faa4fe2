//! The target of a link, and the parts that every link needs to reach it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    LinkError,
    bus::BusConnections,
    gate::{ExecGate, Pass, Refused},
    greetings::Greetings,
};
use crate::{
    container::Container,
    engine::{ContainerEngine, EngineError},
    environment::Environment,
    reason::ReasonCode,
    systemd::signals::SignalCounter,
};

/// For how long after a container's start it is checked without exec first: an exec before systemd
/// has set up its cgroups can break the node's boot (kind#2409).
const YOUNG: Duration = Duration::from_secs(5);

/// One run of one container, and the engine that runs it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(super) engine: Arc<dyn ContainerEngine>,
    pub(super) gate: Arc<ExecGate>,
    pub(super) environment: Environment,
    pub(super) container: Container,
    /// When readyd made this, which is not before it first saw the run.
    pub(super) seen: Instant,
    pub(super) greetings: Arc<Greetings>,
    /// Numbers the signals of all nodes.
    pub(super) signals: SignalCounter,
    /// Whether systemd was seen to be up in this run. It stays true, because systemd starts once in
    /// a run.
    pub(super) up: Arc<AtomicBool>,
    /// The connections to the node's bus of late.
    pub(super) bus_connections: Arc<BusConnections>,
}

impl Target {
    /// Whether the container has only just been started. Anything that is missing may still appear.
    pub(super) fn is_young(&self) -> bool {
        let Some(start) = self.container.started_at else {
            return false;
        };
        // A start in the future comes from a clock that differs from readyd's.
        let age = self.environment.wall().duration_since(start);
        let age = age.unwrap_or_else(|_| self.environment.now() - self.seen);
        age < YOUNG
    }

    /// Waits for work until `limit` has passed, but not past `by`.
    pub(super) async fn within<T>(
        &self,
        what: &str,
        limit: Duration,
        by: Instant,
        work: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let due = self.environment.now() + limit;
        tokio::select! {
            // If the work and the limit are due at the same instant, the work's result counts.
            biased;
            done = work => done,
            () = self.environment.sleep_until(due.min(by)) => Err(LinkError::Slow {
                what: what.to_owned(),
                limit: (due <= by).then_some(limit),
            }),
        }
    }

    /// The right to start an exec in the node.
    pub(super) async fn pass(&self, what: &str, by: Instant) -> Result<Pass, LinkError> {
        let refused = |refused| LinkError::Busy {
            what: what.to_owned(),
            why: match refused {
                Refused::Node => "another command in the node has not ended yet",
                Refused::Budget => "too many commands are running in other nodes",
            },
        };
        self.gate
            .pass(&self.container.id, by)
            .await
            .map_err(refused)
    }

    /// Records that systemd was seen to be up.
    pub(super) fn is_up(&self) {
        self.up.store(true, Ordering::Relaxed);
    }

    /// Keeps execs out of a container whose systemd has only just started. systemd starts its first
    /// process only once its cgroups are made.
    pub(super) async fn settled(&self, by: Instant) -> Result<(), LinkError> {
        if self.up.load(Ordering::Relaxed) || !self.is_young() {
            return Ok(());
        }
        match self.engine.processes(&self.container.id, by).await {
            Ok(0) | Err(EngineError::NotRunning { .. }) => Err(LinkError::NotRunning),
            Ok(1) => Err(LinkError::node(
                ReasonCode::Booting,
                "systemd is only starting: no other process runs in the container yet",
            )),
            Ok(_) => {
                self.is_up();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
pub(in crate::link) mod tests {
    use std::time::SystemTime;

    use async_trait::async_trait;

    use super::*;
    use crate::container::{ContainerId, Network, State};
    use crate::engine::{Exec, ListedContainer, RunningExec};

    /// An engine that receives no calls.
    pub(in crate::link) struct Silent;

    #[async_trait]
    impl ContainerEngine for Silent {
        async fn list(&self, _: Instant) -> Result<Vec<ListedContainer>, EngineError> {
            unreachable!()
        }

        async fn inspect(&self, _: &str, _: Instant) -> Result<Option<Container>, EngineError> {
            unreachable!()
        }

        async fn processes(&self, _: &ContainerId, _: Instant) -> Result<usize, EngineError> {
            unreachable!()
        }

        async fn exec(
            &self,
            _: &ContainerId,
            _: Exec,
            _: Instant,
        ) -> Result<Box<dyn RunningExec>, EngineError> {
            unreachable!()
        }
    }

    pub(in crate::link) fn container(n: usize, pid: u32) -> Container {
        Container {
            id: ContainerId(format!("{n:064}")),
            name: n.to_string(),
            labels: [].into(),
            state: State::Running,
            restarts: false,
            started_at: None,
            pid: Some(pid),
            network: Network::Own,
            health: None,
            last_words: crate::text::Detail::default(),
        }
    }

    pub(in crate::link) fn target(n: usize) -> Target {
        let environment = Environment::tokio();
        Target {
            engine: Arc::new(Silent),
            gate: Arc::new(ExecGate::new(environment.clone())),
            environment,
            container: container(n, 1),
            seen: Instant::now(),
            greetings: Arc::default(),
            signals: SignalCounter::default(),
            up: Arc::default(),
            bus_connections: Arc::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_young_for_a_while_whatever_the_engines_clock_says() {
        let started = |start: Option<SystemTime>| {
            let mut target = target(1);
            target.container.started_at = start;
            target
        };
        let now = SystemTime::now();
        assert!(!started(None).is_young());
        assert!(started(Some(now)).is_young());
        assert!(!started(Some(now - YOUNG)).is_young());
        let ahead = started(Some(now + Duration::from_secs(3600)));
        assert!(ahead.is_young());
        tokio::time::advance(YOUNG).await;
        assert!(!ahead.is_young());
    }
}
