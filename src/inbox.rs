//! The messages about a node that have arrived since its actor last emptied its inbox.
//!
//! Putting a message in never waits, and the inbox never grows: a storm of events is one entry. An
//! event decides nothing. It only invalidates the cached values that it may have changed, which are
//! then queried again.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::Action, report::Trigger};

/// The inbox of one node's actor.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    contents: Mutex<Contents>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Contents {
    pending: Pending,
    sequence: u64,
}

/// What has arrived since the inbox was emptied last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The change that may have happened to the container.
    pub(crate) container: Option<ContainerChange>,
    /// Whether any part of systemd's state may have changed.
    pub(crate) systemd: bool,
    /// The number of the last signal of a unit; zero if there was none. A systemd reply that
    /// includes this signal is as good as a reply to a later query.
    pub(crate) signal: u64,
    /// Whether a client wants everything to be queried once more.
    pub(crate) refresh: bool,
    /// Whether clients have come or gone.
    pub(crate) clients: bool,
    /// The last of these messages that a report can name: the reason why readyd queried the node.
    pub(crate) cause: Option<(Trigger, String)>,
    /// The number of the last message that could have changed anything about the node.
    pub(crate) sequence: u64,
}

/// A change that may have happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContainerChange {
    /// The container may be in another state now, so its state has to be queried.
    Unknown,
    /// The container was in another state for a moment at least, whatever its state is now. Probes
    /// that had passed until then start anew.
    Undone,
}

impl Pending {
    /// Whether nothing has arrived.
    pub(crate) fn is_empty(&self) -> bool {
        let empty = Self {
            sequence: self.sequence,
            ..Self::default()
        };
        *self == empty
    }
}

impl fmt::Display for Pending {
    /// Formats the contents as an operator reads them in the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((trigger, cause)) = &self.cause {
            write!(f, "{trigger:?} {cause}; ")?;
        }
        match self.container {
            Some(ContainerChange::Undone) => f.write_str("the container was undone; ")?,
            Some(ContainerChange::Unknown) => f.write_str("the container may have changed; ")?,
            None => {}
        }
        for (flag, says) in [
            (self.systemd, "systemd may have changed; "),
            (self.signal > 0, "units have changed; "),
            (self.refresh, "a client wants a fresh look; "),
            (self.clients, "clients have come or gone; "),
        ] {
            f.write_str(if flag { says } else { "" })?;
        }
        write!(f, "sequence {}", self.sequence)
    }
}

impl Inbox {
    /// Records an event of the container.
    pub(crate) fn container_event(&self, action: Action) {
        let change = if action.undoes() {
            ContainerChange::Undone
        } else {
            ContainerChange::Unknown
        };
        self.change(|pending| {
            pending.container = pending.container.max(Some(change));
            pending.cause = Some((Trigger::ContainerEvent, action.to_string()));
        });
    }

    /// Records that events of the container may have been missed.
    pub(crate) fn events_missed(&self) {
        let unknown = Some(ContainerChange::Unknown);
        self.change(|pending| pending.container = pending.container.max(unknown));
    }

    /// Records a signal that a unit has changed. Later signals have greater numbers.
    pub(crate) fn unit_changed(&self, unit: &str, signal: u64) {
        self.change(|pending| {
            pending.signal = pending.signal.max(signal);
            pending.cause = Some((Trigger::UnitEvent, unit.to_owned()));
        });
    }

    /// Records a signal that systemd as a whole has changed.
    pub(crate) fn systemd_changed(&self) {
        self.change(|pending| {
            pending.systemd = true;
            pending.cause = Some((Trigger::UnitEvent, "systemd".to_owned()));
        });
    }

    /// Records that no more signals will arrive over the connection that carried them.
    pub(crate) fn signals_lost(&self) {
        self.change(|pending| pending.systemd = true);
    }

    /// Requests that everything is queried once more. This invalidates nothing.
    pub(crate) fn refresh(&self) {
        self.put(|contents| contents.pending.refresh = true);
    }

    /// Records that clients have come or gone. This invalidates nothing.
    pub(crate) fn clients_changed(&self) {
        self.put(|contents| contents.pending.clients = true);
    }

    fn change(&self, change: impl FnOnce(&mut Pending)) {
        self.put(|contents| {
            change(&mut contents.pending);
            contents.sequence += 1;
        });
    }

    fn put(&self, put: impl FnOnce(&mut Contents)) {
        put(&mut self.lock());
        // One permit is enough, because `take` takes everything.
        self.arrived.notify_one();
    }

    /// Empties the inbox.
    pub(crate) fn take(&self) -> Pending {
        let mut contents = self.lock();
        let mut pending = std::mem::take(&mut contents.pending);
        pending.sequence = contents.sequence;
        pending
    }

    /// The number of the last message that could have changed anything about the node, taken or
    /// not. A status that includes all messages up to this number is the newest there can be.
    pub(crate) fn sequence(&self) -> u64 {
        self.lock().sequence
    }

    /// Completes when there is something to take. Only one task may wait for this.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // A std lock suffices: it is never held across an await.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_signals_is_one_entry() {
        let inbox = Inbox::default();
        for n in 1..=1000 {
            inbox.unit_changed(&format!("{n}.service"), n);
        }
        let expected = Pending {
            signal: 1000,
            cause: Some((Trigger::UnitEvent, "1000.service".to_owned())),
            sequence: 1000,
            ..Pending::default()
        };
        assert_eq!(inbox.take(), expected);
        let emptied = Pending {
            sequence: 1000,
            ..Pending::default()
        };
        assert_eq!(inbox.take(), emptied);
    }

    #[test]
    fn signals_that_arrive_out_of_step_do_not_go_back() {
        let inbox = Inbox::default();
        inbox.unit_changed("a.service", 8);
        inbox.unit_changed("a.service", 3);
        assert_eq!(inbox.take().signal, 8);
    }

    #[test]
    fn only_what_may_have_changed_the_node_moves_the_sequence() {
        let inbox = Inbox::default();
        inbox.refresh();
        inbox.clients_changed();
        assert_eq!(inbox.sequence(), 0);
        inbox.container_event(Action::Die);
        assert_eq!(inbox.sequence(), 1);
        inbox.signals_lost();
        inbox.events_missed();
        let taken = inbox.take();
        assert!(taken.refresh && taken.clients && taken.systemd);
        assert_eq!(taken.sequence, 3);
        assert_eq!(inbox.sequence(), 3, "taking changes nothing about the node");
    }

    #[test]
    fn what_has_undone_a_pass_is_not_forgotten_for_what_may_not_have() {
        let inbox = Inbox::default();
        inbox.container_event(Action::Die);
        inbox.container_event(Action::Health);
        inbox.events_missed();
        assert_eq!(inbox.take().container, Some(ContainerChange::Undone));
        inbox.container_event(Action::Health);
        assert_eq!(inbox.take().container, Some(ContainerChange::Unknown));
    }

    #[test]
    fn the_cause_is_the_last_message_that_a_report_can_name() {
        let inbox = Inbox::default();
        inbox.container_event(Action::Pause);
        inbox.unit_changed("munge.service", 1);
        inbox.signals_lost();
        inbox.refresh();
        let named = Some((Trigger::UnitEvent, "munge.service".to_owned()));
        assert_eq!(inbox.take().cause, named);
    }
}
