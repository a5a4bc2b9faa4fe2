//! What an engine tells of its containers: plain types.

use std::{fmt, time::SystemTime};

use crate::container::ContainerId;

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
