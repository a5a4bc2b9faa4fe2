//! The connection to a node's system bus. The first query makes it, and later queries reuse it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{LinkError, Target};
use crate::{
    inbox::Inbox,
    systemd::dbus::{Bus, MonotonicNow},
    unit::{SystemdState, UnitQuestion},
};

/// How long systemd, or the connection to it, may take to reply.
pub(super) const BUS_LIMIT: Duration = Duration::from_secs(5);

/// How many connections to a node's bus are made within which time. Each may start a bus that has ended, and
/// systemd gives a service up that is started more than five times within 10 s (`DefaultStartLimitBurst` in
/// systemd-system.conf(5)).
const CONNECTIONS: usize = 3;
const CONNECTED_WITHIN: Duration = Duration::from_secs(10);

/// When connections to a node's bus were made, whichever link made them.
#[derive(Debug, Default)]
pub(super) struct BusConnections(Mutex<VecDeque<Instant>>);

impl BusConnections {
    /// Whether one more would be too many.
    fn are_too_many(&self, now: Instant) -> bool {
        let mut made = self.lock();
        while made.front().is_some_and(|at| *at + CONNECTED_WITHIN <= now) {
            made.pop_front();
        }
        made.len() >= CONNECTIONS
    }

    fn add(&self, now: Instant) {
        self.lock().push_back(now);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection to a node's bus, if there is one.
#[derive(Debug, Default)]
pub(super) struct BusSlot {
    kept: Mutex<Option<Arc<Bus>>>,
    /// Held by the caller that makes a connection. A second caller finds the connection already
    /// there.
    connecting: tokio::sync::Mutex<()>,
}

impl BusSlot {
    /// Queries systemd over the existing connection, else over a new one. A query that fails closes
    /// its connection, because a late reply would be in the way of the next query.
    pub(super) async fn look<C>(
        &self,
        target: &Target,
        question: &UnitQuestion,
        now: Option<MonotonicNow>,
        listener: Option<&Arc<Inbox>>,
        by: Instant,
        connect: impl FnOnce() -> C,
    ) -> Result<SystemdState, LinkError>
    where
        C: Future<Output = Result<Bus, LinkError>>,
    {
        let bus = self.connected(target, by, connect).await?;
        let look = async { Ok(bus.look(question, now, listener).await?) };
        let looked = target.within("systemd", BUS_LIMIT, by, look).await;
        if looked.is_ok() {
            target.is_up();
        } else {
            tracing::debug!(container = %target.container.id, "systemd did not reply: its connection is dropped");
            let mut kept = self.lock();
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &bus)) {
                *kept = None;
            }
        }
        looked
    }

    async fn connected<C>(
        &self,
        target: &Target,
        by: Instant,
        connect: impl FnOnce() -> C,
    ) -> Result<Arc<Bus>, LinkError>
    where
        C: Future<Output = Result<Bus, LinkError>>,
    {
        if let Some(bus) = self.kept() {
            return Ok(bus);
        }
        let _turn = tokio::select! {
            biased;
            turn = self.connecting.lock() => turn,
            () = target.environment.sleep_until(by) => return Err(LinkError::Busy {
                what: "systemd".to_owned(),
                why: "the way to it is still being made",
            }),
        };
        if let Some(bus) = self.kept() {
            return Ok(bus);
        }
        let connections = &target.bus_connections;
        if connections.are_too_many(target.environment.now()) {
            return Err(LinkError::NoBus {
                why: "its connections keep ending, and it is left alone for some seconds"
                    .to_owned(),
                reached_nobody: true,
            });
        }
        let connected = connect().await;
        if may_have_started_one(&connected) {
            connections.add(target.environment.now());
        }
        let bus = Arc::new(connected?);
        tracing::debug!(container = %target.container.id, "connected to the node's bus");
        *self.lock() = Some(Arc::clone(&bus));
        Ok(bus)
    }

    fn kept(&self) -> Option<Arc<Bus>> {
        self.lock().clone().filter(|bus| !bus.is_closed())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Bus>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the attempt to connect may have started a bus.
fn may_have_started_one(connected: &Result<Bus, LinkError>) -> bool {
    !matches!(
        connected,
        Err(LinkError::NotRunning
            | LinkError::NoBus {
                reached_nobody: true,
                ..
            })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_reached_nobody_has_started_no_bus() {
        let failed = |reached_nobody| {
            let why = "its socket".to_owned();
            Err(LinkError::NoBus {
                why,
                reached_nobody,
            })
        };
        assert!(!may_have_started_one(&failed(true)));
        assert!(may_have_started_one(&failed(false)));
        assert!(!may_have_started_one(&Err(LinkError::NotRunning)));
    }
}
