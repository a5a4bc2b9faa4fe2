//! What a probe found, and what had to be left open.

use std::time::Duration;

use crate::{
    runtime::RuntimeError,
    text::{Detail, Reason},
    unit::Unit,
};

/// What a probe found. Not having been able to look is no outcome: that is [`CouldNotLook`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What the probe asks for holds; the reason tells what is worth knowing all the same.
    Passed(Option<Reason>),
    /// It does not hold; trying again may help.
    Failed(Reason),
    /// It does not hold; trying again cannot help.
    Terminal(Reason),
}

impl Outcome {
    /// Passed, with nothing to add.
    #[must_use]
    pub fn passed() -> Self {
        Self::Passed(None)
    }

    /// Failed, for this reason; see [`Reason::new`] for what becomes of the text.
    pub fn failed(reason: impl AsRef<str>) -> Self {
        Self::Failed(Reason::new(reason))
    }

    /// Terminal, for this reason; see [`Reason::new`] for what becomes of the text.
    pub fn terminal(reason: impl AsRef<str>) -> Self {
        Self::Terminal(Reason::new(reason))
    }

    /// Whether it is passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }

    /// The reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Passed(reason) => reason.as_ref(),
            Self::Failed(reason) | Self::Terminal(reason) => Some(reason),
        }
    }
}

/// It could not be looked at, which says nothing about the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CouldNotLook(pub Reason);

impl CouldNotLook {
    /// For this reason; see [`Reason::new`] for what becomes of the text.
    pub fn new(reason: impl AsRef<str>) -> Self {
        Self(Reason::new(reason))
    }
}

impl From<RuntimeError> for CouldNotLook {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.to_string())
    }
}

/// What one look says, before time has had its say: some findings need a second look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing is left open.
    Clear(Outcome),
    /// The unit is active, which proves nothing yet.
    Unproven {
        /// What a second look has to find again.
        proof: Proof,
        /// For how long the node itself says that it has been so.
        age: Option<Duration>,
        /// What the reason is until then.
        reason: Reason,
    },
    /// The unit has failed: terminal if it still has at a second look.
    Dead {
        /// What a second look has to find again.
        proof: Proof,
        /// Why it is dead.
        reason: Reason,
        /// The end of its journal.
        detail: Detail,
    },
}

/// What has to be equal in two looks for nothing to have happened in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) invocation: String,
    pub(crate) main_pid: u32,
    pub(crate) changed: u64,
}

impl Proof {
    pub(crate) fn of(unit: &Unit) -> Self {
        Self {
            invocation: unit.invocation.clone(),
            main_pid: unit.main_pid,
            changed: unit.changed,
        }
    }
}

impl Finding {
    pub(crate) fn passed() -> Self {
        Self::Clear(Outcome::passed())
    }

    pub(crate) fn failed(reason: impl AsRef<str>) -> Self {
        Self::Clear(Outcome::failed(reason))
    }
}
