//! What is reported of a node: one report a probe, and what made readyd look.

use std::time::{Duration, SystemTime};

use crate::{
    probe::Outcome,
    text::{Detail, Reason},
};

/// What a probe found, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The probe's name.
    pub probe: String,
    /// What it found.
    pub result: ProbeResult,
    /// More than a line, where there is more to say: the end of a failed unit's journal.
    pub detail: Detail,
    /// How the node was reached; empty if it was not.
    pub via: &'static str,
    /// How long the probe took.
    pub elapsed: Duration,
    /// When this outcome began, as far as was seen.
    pub since: SystemTime,
}

/// An outcome, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeResult {
    /// It was looked at.
    Looked(Outcome),
    /// It could not be looked at, or has not answered yet.
    Unknown(Reason),
    /// It was not looked at, because an earlier probe did not pass.
    Skipped(Reason),
}

impl ProbeResult {
    /// Whether the newest look passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Looked(outcome) if outcome.is_passed())
    }

    /// Whether trying again cannot help.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Looked(Outcome::Terminal(_)))
    }

    /// Why it is so; only what passed may have nothing to say.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Looked(outcome) => outcome.reason(),
            Self::Unknown(reason) | Self::Skipped(reason) => Some(reason),
        }
    }

    /// Whether both are the same kind of outcome, whatever their reasons.
    pub(crate) fn is_same_kind(&self, other: &Self) -> bool {
        let kind = |result: &Self| match result {
            Self::Looked(Outcome::Passed(_)) => 0,
            Self::Looked(Outcome::Failed(_)) => 1,
            Self::Looked(Outcome::Terminal(_)) => 2,
            Self::Unknown(_) => 3,
            Self::Skipped(_) => 4,
        };
        kind(self) == kind(other)
    }
}

impl ProbeReport {
    /// Whether a client has to be told of the difference: not of another `elapsed` or `since`.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.probe == other.probe
            && self.result == other.result
            && self.detail == other.detail
            && self.via == other.via
    }
}

/// What made readyd look at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// It was the first look.
    Initial,
    /// The poll interval was over, or a finding had to be confirmed.
    Poll,
    /// The engine told of the container.
    ContainerEvent,
    /// systemd told of a unit, or of itself.
    UnitEvent,
}
