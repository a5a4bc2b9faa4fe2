//! Plain types for the engine's events about containers.

use std::{collections::HashMap, fmt, time::SystemTime};

use crate::{
    container::ContainerId,
    node::{NodeName, SHORT_ID},
};

/// An event of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container's id.
    pub id: ContainerId,
    /// The container's name since the event.
    pub name: String,
    /// The container's name before the event, if the event changed the name.
    pub former_name: Option<String>,
    /// The action that happened.
    pub action: Action,
    /// When the event happened, by the engine's clock; `None` if that is not known.
    pub at: Option<SystemTime>,
}

/// An action that happened to a container, as the engine names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The container was created.
    Create,
    /// The container was started.
    Start,
    /// The container's first process ended.
    Die,
    /// The kernel killed a process of the container for lack of memory.
    Oom,
    /// The container's processes were frozen.
    Pause,
    /// The container's processes go on.
    Unpause,
    /// The container was ended and started again.
    Restart,
    /// The container got another name.
    Rename,
    /// The container was removed.
    Destroy,
    /// The result of the container's health check changed.
    Health,
}

impl Action {
    /// All actions.
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

    /// Returns the action, as the engine writes it.
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

    /// Returns the action that an engine's word names: Docker's, or Podman's own. `health_status: healthy`
    /// names one, too.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let word = word.split(':').next().unwrap_or_default();
        let mut all = Self::ALL.into_iter();
        all.find(|action| action.words().any(|own| own == word))
    }

    /// The words that engines have for the action. Podman selects by its own words and tells some as Docker
    /// does.
    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        let podman = match self {
            Self::Die => Some("died"),
            Self::Destroy => Some("remove"),
            _ => None,
        };
        [self.as_str()].into_iter().chain(podman)
    }

    /// Returns whether the action may undo a probe that has passed.
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

/// Values by the names of nodes, to be found by events. An event costs the same, however many there are.
#[derive(Debug)]
pub(crate) struct NodeIndex<V>(HashMap<NodeName, Vec<V>>);

impl<V> Default for NodeIndex<V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<V> NodeIndex<V> {
    pub(crate) fn insert(&mut self, node: NodeName, value: V) {
        self.0.entry(node).or_default().push(value);
    }

    pub(crate) fn remove(&mut self, node: &NodeName, is_it: impl Fn(&V) -> bool) {
        if let Some(values) = self.0.get_mut(node) {
            values.retain(|value| !is_it(value));
            if values.is_empty() {
                self.0.remove(node);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flatten()
    }

    /// Returns the values of the nodes that an event is about: those of its container's name, of its
    /// name before, and of all forms of its id that name it ([`NodeName::names`]).
    pub(crate) fn about(&self, event: &ContainerEvent) -> impl Iterator<Item = &V> {
        let former = event.former_name.as_deref();
        let former = former.filter(|former| *former != event.name);
        let former = former.and_then(|former| self.0.get(former));
        self.of(&event.id, &event.name)
            .chain(former.into_iter().flatten())
    }

    /// Returns the values of the nodes that this container is.
    pub(crate) fn of(&self, id: &ContainerId, name: &str) -> impl Iterator<Item = &V> {
        let ids = (SHORT_ID..=id.0.len()).filter_map(|length| id.0.get(..length));
        let ids = ids.filter_map(|id| self.0.get(id));
        self.0.get(name).into_iter().chain(ids).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, former_name: Option<&str>) -> ContainerEvent {
        ContainerEvent {
            id: ContainerId("ab".repeat(32)),
            name: name.to_owned(),
            former_name: former_name.map(str::to_owned),
            action: Action::Rename,
            at: None,
        }
    }

    #[test]
    fn an_event_is_about_a_name_an_id_or_a_former_name() {
        let whole = "ab".repeat(32);
        let names = ["old", "new", "abababababab", &whole, "ab", "ol", "other"];
        let mut index = NodeIndex::default();
        for name in names {
            index.insert(name.parse().unwrap(), name);
        }
        let mut about: Vec<_> = index.about(&event("new", Some("old"))).copied().collect();
        about.sort_unstable();
        assert_eq!(about, ["abababababab", &whole, "new", "old"]);
        // One whose name did not change is told once.
        assert_eq!(index.about(&event("new", Some("new"))).count(), 3);
    }

    #[test]
    fn what_is_taken_out_is_found_no_more() {
        let mut index = NodeIndex::default();
        let name: NodeName = "a".parse().unwrap();
        index.insert(name.clone(), 1);
        index.insert(name.clone(), 2);
        index.remove(&name, |value| *value == 1);
        assert_eq!(index.about(&event("a", None)).collect::<Vec<_>>(), [&2]);
        index.remove(&name, |value| *value == 2);
        assert!(index.is_empty() && index.values().next().is_none());
    }

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
}
