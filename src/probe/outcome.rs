//! The outcomes of probes, and the findings that need a second look.

use std::{fmt, time::Duration};

use super::job::SlurmNode;
use crate::{
    container::Run,
    engine::EngineError,
    reason::{Reason, ReasonCode},
    text::{Detail, Line, chain},
    unit::Unit,
};

/// The outcome of a probe. A probe that could not look has no outcome, but a [`ProbeError`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The condition of the probe holds. The text, if there is one, is worth knowing all the same.
    Passed(Option<Line>),
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

    /// Returns a passed outcome with something to know. [`Line::new`] describes how it changes the
    /// text.
    pub fn passed_with(text: impl AsRef<str>) -> Self {
        Self::Passed(Some(Line::new(text)))
    }

    /// Returns a failed outcome with this reason. [`Line::new`] describes how it changes the text.
    pub fn failed(code: ReasonCode, text: impl AsRef<str>) -> Self {
        Self::Failed(Reason::new(code, text))
    }

    /// Returns a terminal outcome with this reason. [`Line::new`] describes how it changes the text.
    pub fn terminal(code: ReasonCode, text: impl AsRef<str>) -> Self {
        Self::Terminal(Reason::new(code, text))
    }

    /// Returns whether the outcome is passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }

    /// Returns the text of the reason, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed(text) => text.as_ref().map(Line::as_str),
            Self::Failed(reason) | Self::Terminal(reason) => Some(reason.as_str()),
        }
    }

    /// Returns the code of the reason. Only a passed outcome has none.
    #[must_use]
    pub fn code(&self) -> Option<ReasonCode> {
        match self {
            Self::Passed(_) => None,
            Self::Failed(reason) | Self::Terminal(reason) => Some(reason.code()),
        }
    }
}

/// The reason why a probe could not run. It says nothing about the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub Reason);

impl ProbeError {
    /// Creates an error with this reason. [`Line::new`] describes how it changes the text.
    pub fn new(code: ReasonCode, text: impl AsRef<str>) -> Self {
        Self(Reason::new(code, text))
    }
}

impl From<EngineError> for ProbeError {
    fn from(error: EngineError) -> Self {
        Self::new(error.code(), chain(&error))
    }
}

/// What a report shows beside its outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// Text of more than one line, if there is any: the end of a failed unit's journal.
    pub detail: Detail,
    /// The state of the node as Slurm prints it (`State=` of `scontrol show node`), where that was asked
    /// for.
    pub slurm_state: Option<Line>,
    /// The node as Slurm knows it, for jobs on it; where that was asked for.
    pub(crate) slurm_node: Option<Box<SlurmNode>>,
    /// Whether a daemon that has not passed runs and listens all the same: what it lacks is an answer.
    pub is_up: bool,
}

impl Evidence {
    pub(crate) fn detail(detail: Detail) -> Self {
        Self {
            detail,
            ..Self::default()
        }
    }
}

/// The finding of one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) judgement: Judgement,
    pub(crate) evidence: Evidence,
}

/// What one look means. Some looks need a second one before they become an outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The look gives an outcome already.
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
        Outcome::passed().into()
    }

    pub(crate) fn failed(code: ReasonCode, text: impl AsRef<str>) -> Self {
        Outcome::failed(code, text).into()
    }

    /// Whether the look has passed, and no second one is needed.
    pub(crate) fn has_passed(&self) -> bool {
        matches!(&self.judgement, Judgement::Clear(outcome) if outcome.is_passed())
    }
}

impl From<Outcome> for Finding {
    fn from(outcome: Outcome) -> Self {
        Judgement::Clear(outcome).into()
    }
}

impl From<Judgement> for Finding {
    fn from(judgement: Judgement) -> Self {
        let evidence = Evidence::default();
        Self {
            judgement,
            evidence,
        }
    }
}
