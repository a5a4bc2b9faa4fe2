//! Subscribes to the changes of units, and of systemd as a whole.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::{try_join, try_join_all};

use super::{BUS, BUS_PATH, Bus, DbusError, MANAGER, ROOT};
use crate::{
    inbox::Inbox,
    systemd::signals::{MANAGER_RULES, unit_rule},
};

/// How many units one connection is subscribed to. A node decides what its units' real names are, so it
/// could add names without an end.
const UNITS_HEARD: usize = 64;

impl Bus {
    pub(super) async fn hears(&self, units: &[String]) -> bool {
        let heard = self.heard.lock().await;
        let heard = heard.as_ref();
        heard.is_some_and(|heard| units.iter().all(|unit| heard.contains(unit)))
    }

    /// Subscribes to changes of these units and of systemd as a whole. Returns false if the node
    /// refuses.
    pub(super) async fn listen(
        &self,
        listener: &Arc<Inbox>,
        units: Vec<String>,
    ) -> Result<bool, DbusError> {
        self.listeners.add(listener);
        let mut heard = self.heard.lock().await;
        let new: Vec<_> = units
            .into_iter()
            .filter(|unit| !heard.as_ref().is_some_and(|heard| heard.contains(unit)))
            .collect();
        if heard.is_some() && new.is_empty() {
            return Ok(true);
        }
        if heard.as_ref().map_or(0, BTreeSet::len) + new.len() > UNITS_HEARD {
            tracing::debug!("too many names of units: they are polled");
            return Ok(false);
        }
        let first = heard.is_none();
        let rules = MANAGER_RULES.iter().map(|rule| (*rule).to_owned());
        let rules = rules
            .filter(|_| first)
            .chain(new.iter().map(|unit| unit_rule(unit)));
        let matched = try_join_all(rules.map(|rule| async move {
            self.call_at::<()>(BUS, BUS_PATH, BUS, "AddMatch", &(rule,))
                .await
        }));
        // systemd sends no signals until a client has subscribed.
        let subscribed = async {
            if !first {
                return Ok(());
            }
            self.call::<()>(ROOT, MANAGER, "Subscribe", &()).await
        };
        match try_join(matched, subscribed).await {
            Ok(_) => tracing::debug!(units = ?new, "subscribed to changes of units"),
            // There are too many rules, say. The state has to be polled then.
            Err(DbusError::Said(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        heard.get_or_insert_default().extend(new);
        Ok(true)
    }
}
