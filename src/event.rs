//! Plain types for the engine's events about containers.

use std::{fmt, time::SystemTime};

use crate::container::ContainerId;

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
    /// The result of the container's health check changed. No probe depends on it.
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

    /// Returns the action that an engine's word names. `health_status: healthy` names one, too.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        let word = word.split(':').next().unwrap_or_default();
        Self::ALL.into_iter().find(|action| action.as_str() == word)
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
}
