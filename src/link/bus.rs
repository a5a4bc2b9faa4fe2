//! The connection to a node's system bus, made with the first look and kept.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{LinkError, Place};
use crate::{
    systemd::dbus::{Bus, MonotonicNow},
    unit::{SystemdLook, UnitQuestion},
};

/// How long systemd, or the way to it, may take to answer.
pub(super) const BUS_LIMIT: Duration = Duration::from_secs(5);

/// A place for a connection.
#[derive(Debug, Default)]
pub(super) struct BusSlot(Mutex<Option<Arc<Bus>>>);

impl BusSlot {
    /// Looks, over the connection that there is, else over a new one. A look that fails takes its
    /// connection along: an answer that comes too late would be in the way of the next.
    pub(super) async fn look<C>(
        &self,
        place: &Place,
        question: &UnitQuestion,
        now: Option<MonotonicNow>,
        by: Instant,
        connect: impl FnOnce() -> C,
    ) -> Result<SystemdLook, LinkError>
    where
        C: Future<Output = Result<Bus, LinkError>>,
    {
        let connected = async {
            // Whoever comes second finds the connection that the first has made.
            let mut slot = self.0.lock().await;
            if let Some(bus) = slot.as_ref().filter(|bus| !bus.is_closed()) {
                return Ok(Arc::clone(bus));
            }
            let bus = Arc::new(connect().await?);
            *slot = Some(Arc::clone(&bus));
            Ok(bus)
        };
        let bus = place
            .within("systemd", 2 * BUS_LIMIT, by, connected)
            .await?;
        let look = async { Ok(bus.look(question, now).await?) };
        let looked = place.within("systemd", BUS_LIMIT, by, look).await;
        if looked.is_ok() {
            place.is_up();
        } else {
            let mut slot = self.0.lock().await;
            if slot.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &bus)) {
                *slot = None;
            }
        }
        looked
    }
}
