//! What a probe found, and what had to be left open.

use std::time::Duration;

use crate::{
    container::Run,
    engine::EngineError,
    text::{Detail, Reason},
    unit::Unit,
};

/// What a probe found. Not having been able to look is no outcome: that is [`ProbeError`].
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

/// Why a probe could not be run, which says nothing about the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Reason);

impl ProbeError {
    /// For this reason; see [`Reason::new`] for what becomes of the text.
    pub fn new(reason: impl AsRef<str>) -> Self {
        Self(Reason::new(reason))
    }
}

impl From<EngineError> for ProbeError {
    fn from(error: EngineError) -> Self {
        Self::new(error.to_string())
    }
}

/// What one look says. Some findings need a second look before they are an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing is left open.
    Clear(Outcome),
    /// The unit is active, which proves nothing yet.
    Unproven {
        /// What a second look has to find again.
        proof: UnitProof,
        /// For how long the node itself says that it has been so.
        age: Option<Duration>,
        /// What the reason is until then.
        reason: Reason,
    },
    /// It has failed, and is terminal if it still has at a second look.
    Dead {
        /// What a second look has to find again.
        proof: Proof,
        /// Why it is dead.
        reason: Reason,
        /// More than a line: the end of a unit's journal.
        detail: Detail,
    },
}

/// What has to be equal in two looks for nothing to have happened in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A unit in one state.
    Unit(UnitProof),
    /// A run of a container that has ended.
    Run(Run),
}

/// What is equal in two looks at a unit if nothing has happened to it in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitProof {
    /// Its real name.
    pub(crate) unit: String,
    pub(crate) invocation: String,
    pub(crate) main_pid: u32,
    pub(crate) changed: u64,
}

impl UnitProof {
    pub(crate) fn of(unit: &Unit) -> Self {
        Self {
            unit: unit.id.clone(),
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
