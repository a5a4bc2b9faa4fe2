//! Converts the monitor's types to the proto's, and back.

use std::time::{Duration, SystemTime};

use super::budget;
use crate::{
    cluster::ListedNode,
    monitor::{
        Cause, ClusterReport, NodeReport, NodeState, Snapshot, Verdict, WaitEvent, WaitResult,
        WatchEvent,
    },
    node::{NodeName, Profile, Role},
    pb,
    probe::{Level, Outcome, Probe},
    reason::{Reason, ReasonCode},
    report::{ProbeReport, ProbeResult, Trigger},
    text::Line,
};

pub(super) fn profile_of(profile: pb::Profile) -> Option<Profile> {
    match profile {
        pb::Profile::Unspecified => None,
        pb::Profile::Systemd => Some(Profile::Systemd),
        pb::Profile::Process => Some(Profile::Process),
    }
}

/// Returns the number that stands for a profile on the wire.
pub(crate) fn profile_number(profile: Option<Profile>) -> i32 {
    let profile = match profile {
        None => pb::Profile::Unspecified,
        Some(Profile::Systemd) => pb::Profile::Systemd,
        Some(Profile::Process) => pb::Profile::Process,
    };
    profile.into()
}

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

fn text(reason: Option<&str>) -> String {
    reason.unwrap_or_default().to_owned()
}

/// Returns the code of a reason as it is on the wire.
fn reason_code(code: ReasonCode) -> pb::ReasonCode {
    match code {
        ReasonCode::ContainerMissing => pb::ReasonCode::ContainerMissing,
        ReasonCode::ContainerNotStarted => pb::ReasonCode::ContainerNotStarted,
        ReasonCode::ContainerPaused => pb::ReasonCode::ContainerPaused,
        ReasonCode::ContainerRestarting => pb::ReasonCode::ContainerRestarting,
        ReasonCode::ContainerEnded => pb::ReasonCode::ContainerEnded,
        ReasonCode::ContainerUnhealthy => pb::ReasonCode::ContainerUnhealthy,
        ReasonCode::RoleInvalid => pb::ReasonCode::RoleInvalid,
        ReasonCode::Booting => pb::ReasonCode::Booting,
        ReasonCode::BusUnavailable => pb::ReasonCode::BusUnavailable,
        ReasonCode::UnitMissing => pb::ReasonCode::UnitMissing,
        ReasonCode::UnitMasked => pb::ReasonCode::UnitMasked,
        ReasonCode::UnitInactive => pb::ReasonCode::UnitInactive,
        ReasonCode::UnitActivating => pb::ReasonCode::UnitActivating,
        ReasonCode::UnitFailed => pb::ReasonCode::UnitFailed,
        ReasonCode::Unproven => pb::ReasonCode::Unproven,
        ReasonCode::PortClosed => pb::ReasonCode::PortClosed,
        ReasonCode::NoAnswer => pb::ReasonCode::NoAnswer,
        ReasonCode::WrongAnswer => pb::ReasonCode::WrongAnswer,
        ReasonCode::RpcDown => pb::ReasonCode::RpcDown,
        ReasonCode::NotRegistered => pb::ReasonCode::NotRegistered,
        ReasonCode::NodeUnusable => pb::ReasonCode::NodeUnusable,
        ReasonCode::ProcessMissing => pb::ReasonCode::ProcessMissing,
        ReasonCode::CommandFailed => pb::ReasonCode::CommandFailed,
        ReasonCode::Confirming => pb::ReasonCode::Confirming,
        ReasonCode::EngineUnreachable => pb::ReasonCode::EngineUnreachable,
        ReasonCode::EngineSlow => pb::ReasonCode::EngineSlow,
        ReasonCode::NotAnsweredYet => pb::ReasonCode::NotAnsweredYet,
        ReasonCode::ClusterIncomplete => pb::ReasonCode::ClusterIncomplete,
        ReasonCode::ProfileInvalid => pb::ReasonCode::ProfileInvalid,
        ReasonCode::AuthFailed => pb::ReasonCode::AuthFailed,
        ReasonCode::JobFailed => pb::ReasonCode::JobFailed,
    }
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
        detail: report.evidence.detail.as_str().to_owned(),
        via: report.via.to_owned(),
        since: Some(timestamp(report.since)),
        code: report
            .result
            .code()
            .map_or(0, |code| reason_code(code).into()),
        slurm_state: text(report.evidence.slurm_state.as_ref().map(Line::as_str)),
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
        WaitEvent::Removed(node) => (SystemTime::now(), Event::Removed(node.to_string())),
        WaitEvent::Cluster(report) => (report.observed, Event::Cluster(cluster_report(report))),
        WaitEvent::Result(result) => (result.observed, Event::Result(wait_result(result))),
    };
    pb::WaitReadyResponse {
        observe_time: Some(timestamp(observed)),
        event: Some(event),
    }
}

fn cluster_report(report: &ClusterReport) -> pb::ClusterReport {
    let code = report
        .reason
        .as_ref()
        .map(|reason| reason_code(reason.code()));
    pb::ClusterReport {
        present: report.present,
        ready: report.ready,
        min_nodes: report.min_nodes,
        code: code.unwrap_or_default().into(),
        reason: text(report.reason.as_ref().map(Reason::as_str)),
    }
}

pub(super) fn heartbeat() -> pb::WaitReadyResponse {
    use pb::wait_ready_response::Event;

    pb::WaitReadyResponse {
        observe_time: Some(timestamp(SystemTime::now())),
        event: Some(Event::Heartbeat(pb::Heartbeat {})),
    }
}

pub(super) fn watch_event(event: &WatchEvent) -> pb::WatchNodesResponse {
    use pb::watch_nodes_response::Event;

    let now = SystemTime::now;
    let (observed, event) = match event {
        WatchEvent::Node { node: of, report } => {
            (report.observed, Event::Node(node(of, Some(report))))
        }
        WatchEvent::Removed(node) => (now(), Event::Removed(node.to_string())),
        WatchEvent::Synced => (now(), Event::Synced(pb::Synced {})),
    };
    pb::WatchNodesResponse {
        observe_time: Some(timestamp(observed)),
        event: Some(event),
    }
}

pub(super) fn watch_heartbeat() -> pb::WatchNodesResponse {
    use pb::watch_nodes_response::Event;

    pb::WatchNodesResponse {
        observe_time: Some(timestamp(SystemTime::now())),
        event: Some(Event::Heartbeat(pb::Heartbeat {})),
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
        reason: text(reason.map(Reason::as_str)),
        level: level(report.level).into(),
    }
}

/// Returns the level that a number stands for.
pub(super) fn level_of(level: pb::Level) -> Level {
    match level {
        pb::Level::Booted => Level::Booted,
        pb::Level::Unspecified | pb::Level::Services => Level::Services,
        pb::Level::Rpc => Level::Rpc,
        pb::Level::Registered => Level::Registered,
        pb::Level::Jobs => Level::Jobs,
    }
}

fn level(level: Option<Level>) -> pb::Level {
    match level {
        None => pb::Level::Unspecified,
        Some(Level::Booted) => pb::Level::Booted,
        Some(Level::Services) => pb::Level::Services,
        Some(Level::Rpc) => pb::Level::Rpc,
        Some(Level::Registered) => pb::Level::Registered,
        Some(Level::Jobs) => pb::Level::Jobs,
    }
}

pub(super) fn node(node: &ListedNode, report: Option<&NodeReport>) -> pb::Node {
    pb::Node {
        node: node.name.to_string(),
        container_id: node.id.0.clone(),
        realm: node.realm.clone(),
        cluster: node.cluster.clone(),
        role: role_number(node.role),
        profile: profile_number(node.profile),
        container_state: node.state.clone(),
        address: node.address.clone(),
        report: report.map(node_report),
    }
}

/// Converts a page of nodes, and shortens it to what fits.
pub(super) fn page(nodes: Vec<pb::Node>, next_page_token: String) -> pb::ListNodesResponse {
    let mut page = pb::ListNodesResponse {
        nodes,
        next_page_token,
    };
    budget::fit_page(&mut page);
    page
}

pub(super) fn probe(probe: &Probe) -> pb::Probe {
    let own = probe.own();
    let roles = probe.roles();
    pb::Probe {
        name: probe.name().to_owned(),
        description: probe.description().to_owned(),
        roles: roles.iter().map(|role| role_number(Some(*role))).collect(),
        on_request: probe.is_on_request(),
        built_in: own.is_none(),
        kind: own.map_or("", |own| own.check.kind()).to_owned(),
        optional: own.is_some_and(|own| own.optional),
    }
}

fn cause(cause: &Cause) -> pb::Cause {
    pb::Cause {
        node: cause
            .node
            .as_ref()
            .map(NodeName::to_string)
            .unwrap_or_default(),
        probe: cause.probe.clone(),
        code: reason_code(cause.reason.code()).into(),
        reason: cause.reason.to_string(),
        detail: cause.detail.as_str().to_owned(),
        affected: cause.affected.iter().map(NodeName::to_string).collect(),
        affected_count: u32::try_from(cause.affected_count).unwrap_or(u32::MAX),
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
        causes: result.causes.iter().map(cause).collect(),
    };
    budget::fit(&mut result);
    result
}
