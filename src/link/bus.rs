//! The connection to a node's system bus, made with the first look and kept.

use std::{
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

/// How long systemd, or the way to it, may take to answer.
pub(super) const BUS_LIMIT: Duration = Duration::from_secs(5);

/// A target for a connection.
#[derive(Debug, Default)]
pub(super) struct BusSlot {
    kept: Mutex<Option<Arc<Bus>>>,
    /// Held by who makes one: whoever comes second finds it there.
    connecting: tokio::sync::Mutex<()>,
}

impl BusSlot {
    /// Looks, over the connection that there is, else over a new one. A look that fails takes its
    /// connection along: an answer that comes too late would be in the way of the next.
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
        let bus = Arc::new(connect().await?);
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
