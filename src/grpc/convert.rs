//! Converts the monitor's types to the proto's, and back.

use std::time::{Duration, SystemTime};

use super::budget;
use crate::{
    monitor::{NodeReport, NodeState, Snapshot, Verdict, WaitEvent, WaitResult},
    node::Role,
    pb,
    probe::Outcome,
    report::{ProbeReport, ProbeResult, Trigger},
    text::Reason,
};

pub(super) fn role_of(role: pb::Role) -> Option<Role> {
    match role {
        pb::Role::Unspecified => None,
        pb::Role::Controller => Some(Role::Controller),
        pb::Role::Submitter => Some(Role::Submitter),
        pb::Role::Worker => Some(Role::Worker),
        pb::Role::Db => Some(Role::Db),
        pb::Role::Api => Some(Role::Api),
    }
}

/// Returns the number that stands for a role on the wire.
pub(crate) fn role_number(role: Option<Role>) -> i32 {
    let role = match role {
        None => pb::Role::Unspecified,
        Some(Role::Controller) => pb::Role::Controller,
        Some(Role::Submitter) => pb::Role::Submitter,
        Some(Role::Worker) => pb::Role::Worker,
        Some(Role::Db) => pb::Role::Db,
        Some(Role::Api) => pb::Role::Api,
    };
    role.into()
}

/// Converts a duration. One that is too long for the proto's type becomes the longest that the type
/// can hold.
fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    time.into()
}

fn text(reason: Option<&Reason>) -> String {
    reason.map_or_else(String::new, |reason| reason.as_str().to_owned())
}

pub(super) fn probe_report(report: &ProbeReport) -> pb::ProbeReport {
    let outcome = match &report.result {
        ProbeResult::Looked(Outcome::Passed(_)) => pb::Outcome::Passed,
        ProbeResult::Looked(Outcome::Failed(_)) => pb::Outcome::Failed,
        ProbeResult::Looked(Outcome::Terminal(_)) => pb::Outcome::Terminal,
        ProbeResult::Skipped(_) => pb::Outcome::Skipped,
        ProbeResult::Unknown(_) => pb::Outcome::Unknown,
    };
    pb::ProbeReport {
        probe: report.probe.clone(),
        outcome: outcome.into(),
        reason: text(report.result.reason()),
        elapsed: Some(duration(report.elapsed)),
        detail: report.detail.as_str().to_owned(),
        via: report.via.to_owned(),
        since: Some(timestamp(report.since)),
    }
}

pub(super) fn snapshot(snapshot: &Snapshot) -> pb::SnapshotResponse {
    pb::SnapshotResponse {
        node: snapshot.node.to_string(),
        role: role_number(snapshot.role),
        ready: snapshot.ready,
        services: snapshot
            .services
            .iter()
            .map(|(service, up)| (service.to_string(), *up))
            .collect(),
        probes: snapshot.probes.iter().map(probe_report).collect(),
        observe_time: Some(timestamp(snapshot.observed)),
    }
}

pub(super) fn wait_event(event: &WaitEvent) -> pb::WaitReadyResponse {
    use pb::wait_ready_response::Event;

    let (observed, event) = match event {
        WaitEvent::Node(report) => (report.observed, Event::Node(node_report(report))),
        WaitEvent::Result(result) => (result.observed, Event::Result(wait_result(result))),
    };
    pb::WaitReadyResponse {
        observe_time: Some(timestamp(observed)),
        event: Some(event),
    }
}

fn node_report(report: &NodeReport) -> pb::NodeReport {
    let (state, reason) = match &report.state {
        NodeState::Waiting(reason) => (pb::NodeState::Waiting, Some(reason)),
        NodeState::Ready => (pb::NodeState::Ready, None),
        NodeState::Terminal(reason) => (pb::NodeState::Terminal, Some(reason)),
    };
    let trigger = match report.trigger {
        Trigger::Initial => pb::Trigger::Initial,
        Trigger::Poll => pb::Trigger::Poll,
        Trigger::ContainerEvent => pb::Trigger::ContainerEvent,
        Trigger::UnitEvent => pb::Trigger::UnitEvent,
    };
    pb::NodeReport {
        node: report.node.to_string(),
        role: role_number(report.role),
        state: state.into(),
        probes: report.probes.iter().map(probe_report).collect(),
        trigger: trigger.into(),
        trigger_detail: report.trigger_detail.to_string(),
        round: report.round,
        reason: text(reason),
    }
}

fn wait_result(result: &WaitResult) -> pb::WaitResult {
    let verdict = match result.verdict {
        Verdict::Ready => pb::Verdict::Ready,
        Verdict::Terminal => pb::Verdict::Terminal,
        Verdict::TimedOut => pb::Verdict::TimedOut,
    };
    let mut result = pb::WaitResult {
        verdict: verdict.into(),
        message: result.message.clone(),
        elapsed: Some(duration(result.elapsed)),
        nodes: result
            .nodes
            .iter()
            .map(|report| node_report(report))
            .collect(),
    };
    budget::fit(&mut result);
    result
}
