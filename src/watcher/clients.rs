//! Who wants to know what of one node. Clients that want the same share a probe set, and with it one
//! status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    probe_set::{ProbeSet, SetId},
    status::NodeStatus,
};
use crate::{environment::Environment, inbox::Inbox};

/// A probe set, as the node's actor sees it.
#[derive(Debug, Clone)]
pub(super) struct WantedSet {
    pub(super) id: SetId,
    pub(super) probes: ProbeSet,
    /// The shortest interval that one of its clients polls at.
    pub(super) interval: Duration,
    pub(super) channel: watch::Sender<Arc<NodeStatus>>,
}

/// The clients of one node.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) inbox: Arc<Inbox>,
    sets: Mutex<Sets>,
}

#[derive(Debug, Default)]
struct Sets {
    next: u64,
    shared: BTreeMap<SetId, SharedSet>,
}

#[derive(Debug)]
struct SharedSet {
    probes: ProbeSet,
    channel: watch::Sender<Arc<NodeStatus>>,
    /// How many clients poll at which interval.
    intervals: BTreeMap<Duration, usize>,
}

/// Keeps a client among those of its node. Dropping it lets the client leave.
#[derive(Debug)]
pub(crate) struct ClientGuard {
    clients: Arc<Clients>,
    set: SetId,
    interval: Duration,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self {
            inbox: Arc::default(),
            sets: Mutex::default(),
        }
    }

    /// Takes a client in. Everything is asked for once more for it, since what was seen before it came
    /// does not count for it.
    pub(super) fn join(
        self: &Arc<Self>,
        probes: ProbeSet,
        interval: Duration,
        environment: &Environment,
    ) -> (ClientGuard, watch::Receiver<Arc<NodeStatus>>) {
        let mut sets = self.sets();
        let same = sets
            .shared
            .iter()
            .find(|(_, set)| set.probes.is_same(&probes));
        let same = same.map(|(id, _)| *id);
        let id = same.unwrap_or(SetId::new(sets.next));
        let set = sets.shared.entry(id).or_insert_with(|| {
            let status = NodeStatus::unanswered(&probes, environment);
            SharedSet {
                probes,
                channel: watch::Sender::new(Arc::new(status)),
                intervals: BTreeMap::new(),
            }
        });
        *set.intervals.entry(interval).or_default() += 1;
        let receiver = set.channel.subscribe();
        if same.is_none() {
            sets.next += 1;
        }
        drop(sets);
        tracing::debug!(
            ?interval,
            new = same.is_none(),
            "a client joins a probe set"
        );
        self.inbox.clients_changed();
        self.inbox.refresh();
        let guard = ClientGuard {
            clients: Arc::clone(self),
            set: id,
            interval,
        };
        (guard, receiver)
    }

    /// The node's actor has gone wrong: whoever waits is told so, in place of waiting for ever.
    pub(super) fn abandon(&self) {
        for set in self.sets().shared.values() {
            let left = set.channel.borrow().abandoned();
            set.channel.send_replace(Arc::new(left));
        }
    }

    /// Has another actor take over, which knows nothing yet.
    pub(super) fn resume(&self) {
        self.inbox.clients_changed();
        self.inbox.events_missed();
    }

    /// All probe sets that somebody wants.
    pub(super) fn wanted(&self) -> Vec<WantedSet> {
        let sets = self.sets();
        let wanted = |(id, set): (&SetId, &SharedSet)| {
            // A set without clients is removed together with its last one.
            let (interval, _) = set.intervals.first_key_value()?;
            Some(WantedSet {
                id: *id,
                probes: set.probes.clone(),
                interval: *interval,
                channel: set.channel.clone(),
            })
        };
        sets.shared.iter().filter_map(wanted).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets().shared.is_empty()
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        // A std lock: it is never held across an await.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientGuard {
    pub(super) fn inbox(&self) -> &Inbox {
        &self.clients.inbox
    }
}

impl Drop for ClientGuard {
    fn drop(&mut self) {
        let mut sets = self.clients.sets();
        if let Some(set) = sets.shared.get_mut(&self.set) {
            if let Some(count) = set.intervals.get_mut(&self.interval) {
                *count -= 1;
                if *count == 0 {
                    set.intervals.remove(&self.interval);
                }
            }
            if set.intervals.is_empty() {
                sets.shared.remove(&self.set);
            }
        }
        drop(sets);
        self.clients.inbox.clients_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{node::Role, probe::Probe};

    const MS: Duration = Duration::from_millis(1);

    fn probe(name: &str) -> Probe {
        Probe::named(name).unwrap()
    }

    fn join(clients: &Arc<Clients>, set: ProbeSet, interval: Duration) -> ClientGuard {
        clients.join(set, interval, &Environment::tokio()).0
    }

    #[test]
    fn clients_that_want_the_same_share_a_set_and_its_shortest_interval() {
        let clients = Arc::new(Clients::new());
        let set = || ProbeSet::wait(None, vec![]);
        let slow = join(&clients, set(), 500 * MS);
        let fast = join(&clients, set(), 10 * MS);
        let intervals = || -> Vec<_> {
            let wanted = clients.wanted();
            wanted.iter().map(|set| set.interval).collect()
        };
        assert_eq!(intervals(), [10 * MS]);
        drop(fast);
        assert_eq!(intervals(), [500 * MS]);
        drop(slow);
        assert!(clients.is_empty() && clients.wanted().is_empty());
    }

    #[test]
    fn roles_modes_and_probes_tell_sets_apart_and_the_order_of_probes_does_not() {
        let clients = Arc::new(Clients::new());
        let sets = [
            ProbeSet::wait(None, vec![]),
            ProbeSet::wait(Some(Role::Worker), vec![]),
            ProbeSet::wait(None, vec![probe("munge"), probe("sshd")]),
            ProbeSet::wait(None, vec![probe("sshd"), probe("munge")]),
            ProbeSet::check(None, probe("munge")),
            ProbeSet::wait(None, vec![probe("munge")]),
        ];
        let guards = sets.map(|set| join(&clients, set, MS));
        assert_eq!(clients.wanted().len(), 5);
        drop(guards);
        assert!(clients.is_empty());
    }

    #[test]
    fn a_client_that_joins_has_everything_asked_for_once_more() {
        let clients = Arc::new(Clients::new());
        let guard = join(&clients, ProbeSet::wait(None, vec![]), MS);
        let pending = clients.inbox.take();
        assert!(pending.refresh && pending.clients);
        assert_eq!(pending.sequence, 0, "which invalidates nothing");
        drop(guard);
        let pending = clients.inbox.take();
        assert!(!pending.refresh && pending.clients);
    }

    #[test]
    fn a_set_that_comes_back_is_another_one() {
        let clients = Arc::new(Clients::new());
        let set = || ProbeSet::wait(None, vec![]);
        let first = join(&clients, set(), MS);
        let id = clients.wanted()[0].id;
        drop(first);
        let _second = join(&clients, set(), MS);
        assert_ne!(clients.wanted()[0].id, id);
    }
}
