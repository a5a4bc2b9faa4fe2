//! Why a wait is not over: the first cause of each failure, and the nodes that wait for it.
//!
//! ```text
//! registered ──▶ slurmctld ──▶ slurmdbd ──▶ mariadb
//!      any of these, on another node ──▶ that node's container, systemd and munge
//! ```
//!
//! A probe depends on others in its own node, too, but there the first that has not passed is all that was
//! looked at. Nothing is guessed: what says by its own reason why it fails is its own cause, and what depends
//! on several nodes, of which one is enough, does not wait while one of them has passed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::wait::{NodeReport, NodeState};
use crate::{
    engine::seconds,
    node::{NodeName, Role},
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult},
    text::Detail,
};

/// How many nodes a cause names at most that wait for it.
const NAMED: usize = 64;

/// How many causes are told at most, and of how many the details are.
const TOLD: (usize, usize) = (64, 16);

/// A cause that keeps nodes from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cause {
    /// The node, as the request named it; none where the cluster lacks nodes.
    pub node: Option<NodeName>,
    /// Its place among the nodes of the result.
    pub place: Option<usize>,
    /// The probe that has not passed; empty where the cluster lacks nodes.
    pub probe: String,
    /// Why it has not.
    pub reason: Reason,
    /// What there is to show beside the reason.
    pub detail: Detail,
    /// The other nodes that wait for it, 64 at most.
    pub affected: Vec<NodeName>,
    /// How many they are in all.
    pub affected_count: usize,
}

impl Cause {
    /// The cause that a cluster lacks nodes, or that nobody can tell which it has.
    pub(super) fn of_cluster(reason: Reason) -> Self {
        Self {
            node: None,
            place: None,
            probe: String::new(),
            reason,
            detail: Detail::default(),
            affected: Vec::new(),
            affected_count: 0,
        }
    }

    /// The cause in a line: the node, the probe, the reason.
    pub(super) fn line(&self) -> String {
        let Self {
            node,
            probe,
            reason,
            ..
        } = self;
        match node {
            Some(node) => format!("{node}: {probe}: {reason}"),
            None => reason.to_string(),
        }
    }

    /// How many wait for it, in words; empty if none does.
    pub(super) fn waiting(&self) -> String {
        match self.affected_count {
            0 => String::new(),
            1 => "; 1 node waits for it".to_owned(),
            count => format!("; {count} nodes wait for it"),
        }
    }
}

/// Why a wait has not ended ready.
#[derive(Debug, Default)]
pub(super) struct Why {
    pub(super) message: String,
    /// The node that the message is about, by its place.
    pub(super) about: Option<usize>,
    pub(super) causes: Vec<Cause>,
}

impl Why {
    /// Why a wait has ended because of the node in that place.
    pub(super) fn of_terminal(nodes: &[Arc<NodeReport>], place: Option<usize>) -> Self {
        let (mut causes, roots) = causes(nodes);
        let Some(place) = place else {
            return Self::default();
        };
        let node = &nodes[place];
        let why = match &node.state {
            NodeState::Waiting(reason) | NodeState::Terminal(reason) => reason.as_str(),
            NodeState::Ready => "",
        };
        let mut message = format!("{}: {why}", node.node);
        // The one that has ended the wait comes first.
        if let Some(at) = causes
            .iter()
            .position(|cause| cause.place == Some(roots[place]))
        {
            causes[..=at].rotate_right(1);
            if roots[place] == place {
                message.push_str(&causes[0].waiting());
            } else {
                message = format!("{message}; the first cause: {}", causes[0].line());
            }
        }
        Self {
            message,
            about: Some(place),
            causes,
        }
    }

    /// Why the nodes, or the cluster itself, have not become ready within the limit.
    pub(super) fn of_timeout(
        nodes: &[Arc<NodeReport>],
        cluster: Option<Reason>,
        limit: Option<Duration>,
    ) -> Self {
        let (mut causes, _) = causes(nodes);
        // Of a cluster without all of its nodes, those that are missing come first.
        if let Some(reason) = cluster {
            causes.insert(0, Cause::of_cluster(reason));
        }
        let limit = limit.map_or_else(String::new, seconds);
        let mut message = format!("not ready within {limit}: ");
        let mut about = None;
        match (causes.first(), nodes.first()) {
            (Some(first), _) => {
                about = first.place;
                message = format!("{message}{}{}", first.line(), first.waiting());
            }
            // All nodes ready, but not yet seen so in the same moment: the first stands for all.
            (None, Some(node)) => {
                let why = "ready, but the nodes were not seen ready at the same moment";
                let probe = node.probes.last().map_or("", |report| &report.probe[..]);
                about = Some(0);
                message = format!("{message}{}: {why}", node.node);
                causes.push(Cause {
                    node: Some(node.node.clone()),
                    place: about,
                    probe: probe.to_owned(),
                    ..Cause::of_cluster(Reason::new(ReasonCode::Confirming, why))
                });
            }
            (None, None) => {}
        }
        Self {
            message,
            about,
            causes,
        }
    }
}

/// A probe, and what it takes on nodes of another role, of which one is enough.
struct Dependency {
    probe: &'static str,
    role: Role,
    /// The probe of that role that has to pass, and those before it that keep it from being looked at.
    on: &'static [&'static str],
}

static DEPENDENCIES: [Dependency; 3] = [
    Dependency {
        probe: "registered",
        role: Role::Controller,
        on: &["slurmctld", "munge", "systemd", "container"],
    },
    Dependency {
        probe: "slurmctld",
        role: Role::Db,
        on: &["slurmdbd", "mariadb", "munge", "systemd", "container"],
    },
    Dependency {
        probe: "slurmdbd",
        role: Role::Db,
        on: &["mariadb", "systemd", "container"],
    },
];

/// The causes of all nodes that are not ready: those of who fails before those of who has yet to prove that it
/// stays so, the one that most wait for first; of equals, in the order of the nodes. And for each node, the place of the one whose failure is the first cause of its own.
fn causes(nodes: &[Arc<NodeReport>]) -> (Vec<Cause>, Vec<usize>) {
    let blocked: Vec<_> = nodes.iter().map(|node| Blocked::of(node)).collect();
    let first = (0..nodes.len()).map(|place| root(place, nodes, &blocked));
    let first: Vec<_> = first.collect();
    let mut affected: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, root) in first.iter().enumerate() {
        if blocked[place].is_some() {
            let others = affected.entry(*root).or_default();
            if *root != place {
                others.push(place);
            }
        }
    }
    let mut roots: Vec<_> = affected.into_iter().collect();
    // Who fails comes before who passes, but not for long enough yet.
    let passes = |place: usize| {
        blocked[place]
            .as_ref()
            .is_some_and(|own| own.report.is_none())
    };
    roots.sort_by_key(|(place, others)| (passes(*place), std::cmp::Reverse(others.len()), *place));
    let cause = |(at, (place, others)): (usize, (usize, Vec<usize>))| {
        let blocked = blocked[place].as_ref()?;
        let named = others.iter().take(NAMED);
        Some(Cause {
            node: Some(nodes[place].node.clone()),
            place: Some(place),
            probe: blocked.probe.to_owned(),
            reason: blocked.reason.clone(),
            detail: match blocked.report {
                Some(report) if at < TOLD.1 => report.evidence.detail.clone(),
                _ => Detail::default(),
            },
            affected: named.map(|other| nodes[*other].node.clone()).collect(),
            affected_count: others.len(),
        })
    };
    let roots = roots.into_iter().take(TOLD.0).enumerate();
    (roots.filter_map(cause).collect(), first)
}

/// Why a node is not ready.
struct Blocked<'a> {
    probe: &'a str,
    reason: Reason,
    /// The report that says so; none where all probes have passed, but the node is not ready yet.
    report: Option<&'a ProbeReport>,
}

impl<'a> Blocked<'a> {
    fn of(node: &'a NodeReport) -> Option<Self> {
        if let Some(report) = node.failing() {
            // What was not looked at waits for something else, which has its own report.
            if matches!(report.result, ProbeResult::Skipped(_)) {
                return None;
            }
            return Some(Self {
                probe: &report.probe,
                reason: report.result.blocking()?,
                report: Some(report),
            });
        }
        let (NodeState::Waiting(reason) | NodeState::Terminal(reason)) = &node.state else {
            return None;
        };
        Some(Self {
            probe: node.probes.last().map_or("", |report| &report.probe[..]),
            reason: reason.clone(),
            report: None,
        })
    }

    /// Whether it may wait for that probe of another node: it does not say anything else.
    fn may_wait_for(&self, probe: &str) -> bool {
        let Some(report) = self.report else {
            return false;
        };
        let is_unknown = matches!(report.result, ProbeResult::Unknown(_));
        match self.reason.code() {
            ReasonCode::NotAnsweredYet => true,
            _ if is_unknown => false,
            ReasonCode::RpcDown | ReasonCode::NoAnswer | ReasonCode::UnitActivating => true,
            ReasonCode::AuthFailed => probe == "munge",
            // slurmdbd does not listen before its database lets it in.
            ReasonCode::Unproven => self.probe == "slurmdbd",
            // slurmctld gives up without its database, and says so.
            ReasonCode::UnitFailed => report.evidence.detail.as_str().contains("slurmdbd"),
            _ => false,
        }
    }
}

/// The place of the node whose failure is the first cause of that one's.
fn root(place: usize, nodes: &[Arc<NodeReport>], blocked: &[Option<Blocked<'_>>]) -> usize {
    let mut at = place;
    // Each step leads to another probe of the table, so there are no more steps than rows.
    for _ in 0..DEPENDENCIES.len() {
        match parent(at, nodes, blocked) {
            Some(parent) => at = parent,
            None => break,
        }
    }
    at
}

fn parent(
    place: usize,
    nodes: &[Arc<NodeReport>],
    blocked: &[Option<Blocked<'_>>],
) -> Option<usize> {
    let own = blocked[place].as_ref()?;
    let dependency = DEPENDENCIES.iter().find(|row| row.probe == own.probe)?;
    let others = || {
        let all = nodes.iter().enumerate();
        all.filter(|(other, node)| *other != place && node.role == Some(dependency.role))
    };
    let needed = dependency.on.first()?;
    let has_passed = |node: &NodeReport| {
        let mut reports = node.probes.iter();
        reports.any(|report| report.probe == **needed && report.result.is_passed())
    };
    if others().any(|(_, node)| has_passed(node)) {
        return None;
    }
    let keeps = |other: usize| {
        let failing = blocked[other].as_ref();
        failing.is_some_and(|failing| {
            dependency.on.contains(&failing.probe) && own.may_wait_for(failing.probe)
        })
    };
    others().map(|(other, _)| other).find(|other| keeps(*other))
}

#[cfg(test)]
mod tests;
