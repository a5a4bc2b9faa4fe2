//! What an evaluation gives.

use tokio::time::Instant;

use super::{cached::Freshness, report_builder::EvaluatedProbe, status::BlockedBy};
use crate::{
    node::NodeKind,
    probe::{Probe, ProbeKey},
};

/// What an evaluation comes to.
#[derive(Debug)]
pub(crate) struct Evaluation {
    pub(super) progress: Progress,
    pub(crate) kind: NodeKind,
    /// A report for every probe of the set.
    pub(crate) reports: Vec<EvaluatedProbe>,
    /// Since when the set has passed; none if it has not.
    pub(super) passed_since: Option<Instant>,
    /// What keeps the node from being ready.
    pub(super) blocked_by: Option<BlockedBy>,
    pub(super) needs: Needs,
    /// No reply that this was made of was asked for earlier than then, but a banner that stands.
    pub(super) started: Instant,
    /// The worst of what it was made of.
    pub(super) freshness: Freshness,
    /// Whether there is no such container.
    pub(super) is_absent: bool,
    /// Whether the container was there at the last inspection.
    pub(super) is_present: bool,
    /// From when on a second look settles what is open.
    pub(crate) confirm_at: Option<Instant>,
}

/// How far a set has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody has looked at the container yet.
    NotLooked,
    /// A probe has not replied yet.
    Open,
    /// A probe has not passed.
    Blocked,
    /// Every probe has passed; that it is so at one moment has to be confirmed.
    Confirming,
    /// Every probe has passed.
    Passed,
}

/// What has to be asked.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) container: bool,
    pub(super) systemd: bool,
    pub(super) probes: Vec<Probe>,
    /// What counts, and is wanted once more all the same.
    pub(super) refresh: Vec<Subject>,
    /// When something will have to be asked for again.
    pub(super) due: Vec<(Subject, Instant)>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Container,
    Systemd,
    Probe(ProbeKey),
}
