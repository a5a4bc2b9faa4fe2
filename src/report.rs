//! The reports about a node: one report per probe, and the trigger of the look.

use std::time::{Duration, SystemTime};

use crate::{
    probe::{Evidence, Outcome},
    reason::{Reason, ReasonCode},
    text::Line,
};

/// The report of a probe: its result, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeReport {
    /// The probe's name.
    pub probe: String,
    /// The probe's result.
    pub result: ProbeResult,
    /// What there is to show beside the result.
    pub evidence: Evidence,
    /// How the node was reached; empty if it was not reached.
    pub via: &'static str,
    /// How long the probe took.
    pub elapsed: Duration,
    /// When this outcome began, as far as readyd has seen it.
    pub since: SystemTime,
}

/// An outcome, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeResult {
    /// The probe has looked, with this outcome.
    Looked(Outcome),
    /// The probe could not look, or has no reply yet.
    Unknown(Reason),
    /// The probe has not looked, because an earlier probe did not pass.
    Skipped(Line),
}

impl ProbeResult {
    /// Returns whether the newest look passed.
    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Looked(outcome) if outcome.is_passed())
    }

    /// Returns whether trying again cannot help.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Looked(Outcome::Terminal(_)))
    }

    /// Returns the text of the reason. Only a passed probe may have none.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Looked(outcome) => outcome.reason(),
            Self::Unknown(reason) => Some(reason.as_str()),
            Self::Skipped(text) => Some(text.as_str()),
        }
    }

    /// Returns the code of the reason. Only a passed or skipped probe has none.
    #[must_use]
    pub fn code(&self) -> Option<ReasonCode> {
        match self {
            Self::Looked(outcome) => outcome.code(),
            Self::Unknown(reason) => Some(reason.code()),
            Self::Skipped(_) => None,
        }
    }

    /// Returns why the probe keeps its node from being ready, if it does.
    pub(crate) fn blocking(&self) -> Option<Reason> {
        match self {
            Self::Looked(Outcome::Passed(_)) => None,
            Self::Looked(Outcome::Failed(reason) | Outcome::Terminal(reason))
            | Self::Unknown(reason) => Some(reason.clone()),
            Self::Skipped(text) => Some(Reason::new(ReasonCode::NotAnsweredYet, text.as_str())),
        }
    }

    /// Returns whether both are the same kind of outcome, whatever their reasons.
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
    /// Returns whether both reports say the same to a client, so that it needs no new one.
    /// `elapsed` and `since` do not count.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.probe == other.probe
            && self.result == other.result
            && self.evidence == other.evidence
            && self.via == other.via
    }
}

/// The reason why readyd looked at a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trigger {
    /// It was the first look.
    Initial,
    /// The poll interval was over, or a finding had to be confirmed.
    Poll,
    /// The engine sent an event about the container.
    ContainerEvent,
    /// systemd sent a signal about a unit, or about itself.
    UnitEvent,
}
