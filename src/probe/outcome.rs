//! The outcomes of probes, and the findings that need a second look.

use std::{fmt, time::Duration};

use crate::{
    container::Run,
    engine::EngineError,
    text::{Detail, Reason, chain},
    unit::Unit,
};

/// The outcome of a probe. A probe that could not look has no outcome, but a [`ProbeError`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The condition of the probe holds. The reason, if there is one, is worth knowing all the
    /// same.
    Passed(Option<Reason>),
    /// The condition does not hold, and trying again may help.
    Failed(Reason),
    /// The condition does not hold, and trying again cannot help.
    Terminal(Reason),
}

impl Outcome {
    /// Returns a passed outcome without a reason.
    #[must_use]
    pub fn passed() -> Self {
        Self::Passed(None)
    }

    /// Returns a failed outcome with this reason. [`Reason::new`] describes how it changes the
    /// text.
    pub fn failed(reason: impl AsRef<str>) -> Self {
        Self::Failed(Reason::new(reason))
    }

    /// Returns a terminal outcome with this reason. [`Reason::new`] describes how it changes the
    /// text.
    pub fn terminal(reason: impl AsRef<str>) -> Self {
        Self::Terminal(Reason::new(reason))
    }

    /// Returns whether the outcome is passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }

    /// Returns the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Passed(reason) => reason.as_ref(),
            Self::Failed(reason) | Self::Terminal(reason) => Some(reason),
        }
    }
}

/// The reason why a probe could not run. It says nothing about the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Reason);

impl ProbeError {
    /// Creates an error with this reason. [`Reason::new`] describes how it changes the text.
    pub fn new(reason: impl AsRef<str>) -> Self {
        Self(Reason::new(reason))
    }
}

impl From<EngineError> for ProbeError {
    fn from(error: EngineError) -> Self {
        Self::new(chain(&error))
    }
}

/// The finding of one look. Some findings need a second look before they become an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The finding is an outcome already.
    Clear(Outcome),
    /// The unit is active, which proves nothing yet.
    Unproven {
        /// The state that a second look has to find unchanged.
        proof: UnitProof,
        /// How long the unit has been active at least, as the node itself reports it.
        age: Option<Duration>,
        /// The reason until the second look.
        reason: Reason,
    },
    /// The unit or the container has failed. This is terminal if a second look finds the same.
    Dead {
        /// The state that a second look has to find unchanged.
        proof: Proof,
        /// The reason of the failure.
        reason: Reason,
        /// Text of more than one line: the end of a unit's journal.
        detail: Detail,
    },
}

/// The state that is equal in two looks if nothing has happened between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// A unit in one state.
    Unit(UnitProof),
    /// A run of a container that has ended.
    Run(Run),
}

/// The state of a unit that is equal in two looks if nothing has happened to the unit between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnitProof {
    /// The unit's real name.
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

impl fmt::Display for UnitProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            unit,
            invocation,
            main_pid,
            changed,
        } = self;
        write!(f, "{unit} {invocation} {main_pid} {changed}")
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
