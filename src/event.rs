//! What happens to nodes, and what it puts in doubt: plain types.
//!
//! An event wakes whoever follows a node; it decides nothing. What it may have undone is looked at
//! again, and the look decides.

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures_util::Stream;
use tokio::sync::Notify;

use crate::{
    report::Trigger,
    runtime::{ContainerId, RuntimeError},
};

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Which container.
    pub id: ContainerId,
    /// Its name, as it is since.
    pub name: String,
    /// Its name before, if this is what has changed.
    pub former_name: Option<String>,
    /// What happened.
    pub action: Action,
    /// When, by the engine's clock; none if that is not known.
    pub at: Option<SystemTime>,
}

/// What happened to a container, in the engine's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It was made.
    Create,
    /// It was started.
    Start,
    /// Its first process ended.
    Die,
    /// The kernel killed a process of it for want of memory.
    Oom,
    /// Its processes were frozen.
    Pause,
    /// They go on.
    Unpause,
    /// It was ended and started again.
    Restart,
    /// It has another name.
    Rename,
    /// It was removed.
    Destroy,
    /// Its health check says something else than before. No probe depends on it.
    Health,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Start,
        Self::Die,
        Self::Oom,
        Self::Pause,
        Self::Unpause,
        Self::Restart,
        Self::Rename,
        Self::Destroy,
        Self::Health,
    ];

    /// The action, as the engine writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Start => "start",
            Self::Die => "die",
            Self::Oom => "oom",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Restart => "restart",
            Self::Rename => "rename",
            Self::Destroy => "destroy",
            Self::Health => "health_status",
        }
    }

    /// The action of an engine's word; `health_status: healthy` is one, too.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let word = word.split(':').next().unwrap_or_default();
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// Whether a probe that has passed may have been undone by it.
    #[must_use]
    pub fn undoes(self) -> bool {
        self != Self::Health
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Events as they come. An error, or the end, means that some may have been missed since.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<ContainerEvent, RuntimeError>> + Send>>;

/// How many units are told apart; of more, all are in doubt.
const UNITS: usize = 64;

/// What has happened to one node since it was last looked at, for the one who follows it.
///
/// Whoever tells of something never waits, and what is told is never more than this: a storm of
/// events is one doubt.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    doubt: Mutex<Doubt>,
    told: Notify,
}

/// How many signals have been heard, of whatever node: a number that only grows tells what came before
/// what.
static HEARD: AtomicU64 = AtomicU64::new(0);

/// The number of the signal that was heard last.
pub(crate) fn heard() -> u64 {
    HEARD.load(Ordering::SeqCst)
}

/// The number of a signal that is heard now.
pub(crate) fn next() -> u64 {
    HEARD.fetch_add(1, Ordering::SeqCst) + 1
}

/// What may no longer be as it was seen.
#[allow(clippy::struct_excessive_bools, reason = "each is told by itself")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// The container: its state, or which one it is.
    pub(crate) container: bool,
    /// The container may have been in another state meanwhile, whatever it is in now.
    pub(crate) undone: bool,
    /// The state of systemd as a whole.
    pub(crate) systemd: bool,
    /// Every unit.
    pub(crate) every_unit: bool,
    /// These units, by their real names, each with the number of the last signal of it.
    pub(crate) units: BTreeMap<String, u64>,
    /// Somebody wants everything looked at once more.
    pub(crate) asked: bool,
    /// Whoever follows has other clients than before.
    pub(crate) clients: bool,
    /// What happened last.
    pub(crate) cause: Option<(Trigger, String)>,
}

impl Doubt {
    /// The number of the last signal of a unit of one of these names; zero if there was none.
    pub(crate) fn of_units<'a>(&self, units: impl Iterator<Item = &'a str>) -> u64 {
        let numbers = units.filter_map(|unit| self.units.get(unit));
        numbers.max().copied().unwrap_or(0)
    }
}

impl Doubts {
    /// Something happened to the container.
    pub(crate) fn container(&self, action: Action) {
        self.tell(|doubt| {
            doubt.container = true;
            doubt.undone |= action.undoes();
            doubt.cause = Some((Trigger::ContainerEvent, action.to_string()));
        });
    }

    /// Something may have happened to the container that no event tells of.
    pub(crate) fn gap(&self) {
        self.tell(|doubt| doubt.container = true);
    }

    /// A unit has changed.
    pub(crate) fn unit(&self, name: &str) {
        let number = next();
        self.tell(|doubt| {
            if doubt.units.len() < UNITS || doubt.units.contains_key(name) {
                doubt.units.insert(name.to_owned(), number);
            } else {
                doubt.every_unit = true;
            }
            doubt.cause = Some((Trigger::UnitEvent, name.to_owned()));
        });
    }

    /// systemd itself has.
    pub(crate) fn systemd(&self, every_unit: bool) {
        self.tell(|doubt| {
            doubt.systemd = true;
            doubt.every_unit |= every_unit;
            doubt.cause = Some((Trigger::UnitEvent, "systemd".to_owned()));
        });
    }

    /// Changes of units are no longer told.
    pub(crate) fn deaf(&self) {
        self.tell(|doubt| (doubt.systemd, doubt.every_unit) = (true, true));
    }

    /// Everything is wanted to be looked at once more.
    pub(crate) fn ask(&self) {
        self.tell(|doubt| doubt.asked = true);
    }

    /// Clients have come or gone, which puts nothing in doubt.
    pub(crate) fn clients(&self) {
        self.tell(|doubt| doubt.clients = true);
    }

    fn tell(&self, what: impl FnOnce(&mut Doubt)) {
        what(&mut self.lock());
        self.told.notify_one();
    }

    /// What was told since the last time.
    pub(crate) fn take(&self) -> Doubt {
        std::mem::take(&mut self.lock())
    }

    /// Completes when there is something to take; for one taker only.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Whether something has happened that was not taken yet.
    pub(crate) fn are_untaken(&self) -> bool {
        let doubt = self.lock();
        doubt.container || doubt.systemd || doubt.every_unit || !doubt.units.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Doubt> {
        // A std lock: it is never held across an await.
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_words_are_actions() {
        assert_eq!(Action::named("die"), Some(Action::Die));
        assert_eq!(
            Action::named("health_status: healthy"),
            Some(Action::Health)
        );
        assert_eq!(Action::named("exec_create: ls"), None);
        assert_eq!(Action::named(""), None);
    }

    #[test]
    fn a_storm_is_one_doubt_and_stays_small() {
        let doubts = Doubts::default();
        for n in 0..1000 {
            doubts.unit(&format!("{n}.service"));
        }
        let doubt = doubts.take();
        assert_eq!(doubt.units.len(), UNITS);
        assert!(doubt.every_unit);
        let numbers = ["0.service", "1.service"].map(|unit| doubt.of_units([unit].into_iter()));
        assert!(0 < numbers[0] && numbers[0] < numbers[1] && numbers[1] < heard());
        assert_eq!(doubt.of_units(["x.service"].into_iter()), 0);
        assert_eq!(doubts.take(), Doubt::default());
    }

    #[test]
    fn only_what_has_happened_is_a_doubt() {
        let doubts = Doubts::default();
        doubts.ask();
        doubts.clients();
        assert!(!doubts.are_untaken());
        doubts.container(Action::Die);
        assert!(doubts.are_untaken());
        let taken = doubts.take();
        assert!(taken.container && taken.undone && taken.asked && taken.clients);
        assert!(!doubts.are_untaken());
    }
}
