//! What one probe has come to, from the reply to the report.

use tokio::time::Instant;

use super::span::Span;
use crate::{
    probe::{Evidence, Outcome},
    report::ProbeResult,
};

/// What one probe has come to, and how the node was reached for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) result: ProbeResult,
    pub(crate) evidence: Evidence,
    pub(crate) via: &'static str,
    /// When it was so: earlier than the probe ran, where systemd had been asked before. None where
    /// nobody was asked.
    pub(crate) span: Option<Span>,
    /// From when on a look settles what this one leaves open.
    pub(crate) confirm_at: Option<Instant>,
}

impl Found {
    /// An outcome that nothing is left open of.
    pub(super) fn settled(outcome: Outcome, via: &'static str, span: Span) -> Self {
        Self {
            result: ProbeResult::Looked(outcome),
            evidence: Evidence::default(),
            via,
            span: Some(span),
            confirm_at: None,
        }
    }

    /// A result for which nobody was asked.
    pub(super) fn unasked(result: ProbeResult) -> Self {
        Self {
            result,
            evidence: Evidence::default(),
            via: "",
            span: None,
            confirm_at: None,
        }
    }

    pub(super) fn passes(&self) -> bool {
        self.result.is_passed()
    }
}
