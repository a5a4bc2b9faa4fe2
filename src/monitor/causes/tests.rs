use std::time::SystemTime;

use super::*;
use crate::{
    probe::{Evidence, Level, Outcome, Probe},
    report::Trigger,
};

/// A node on which that probe fails with that code, or none.
fn node(name: &str, role: Role, failing: &str, code: ReasonCode) -> Arc<NodeReport> {
    let kind = crate::node::NodeKind {
        role: Some(role),
        ..crate::node::NodeKind::default()
    };
    let mut has_failed = false;
    let report = |probe: &Probe| {
        let result = if probe.name() == failing {
            has_failed = true;
            ProbeResult::Looked(Outcome::failed(code, "why"))
        } else if has_failed {
            ProbeResult::Skipped(crate::text::Line::new("not looked at"))
        } else {
            ProbeResult::Looked(Outcome::passed())
        };
        ProbeReport {
            probe: probe.name().to_owned(),
            result,
            evidence: Evidence::default(),
            via: "",
            elapsed: Duration::ZERO,
            since: SystemTime::UNIX_EPOCH,
        }
    };
    let probes: Arc<[_]> = Level::Registered
        .probes(kind, &[])
        .iter()
        .map(report)
        .collect();
    let blocked = probes.iter().find(|report| !report.result.is_passed());
    Arc::new(NodeReport {
        node: name.parse().unwrap(),
        role: Some(role),
        state: blocked.map_or(NodeState::Ready, NodeState::blocked_by),
        probes,
        trigger: Trigger::Initial,
        trigger_detail: "".into(),
        round: 0,
        level: None,
        listed: None,
        observed: SystemTime::UNIX_EPOCH,
    })
}

const NONE: ReasonCode = ReasonCode::NotAnsweredYet;

fn controller(failing: &str, code: ReasonCode) -> Arc<NodeReport> {
    node("controller", Role::Controller, failing, code)
}

fn worker(number: usize, failing: &str, code: ReasonCode) -> Arc<NodeReport> {
    node(&format!("worker-{number}"), Role::Worker, failing, code)
}

/// Each cause as `node probe <- those that wait for it`.
fn told(nodes: &[Arc<NodeReport>]) -> Vec<String> {
    let (causes, _) = causes(nodes);
    let told = |cause: &Cause| {
        let node = cause.node.as_ref().unwrap();
        let mut told = format!("{node} {}", cause.probe);
        if !cause.affected.is_empty() {
            let names: Vec<_> = cause.affected.iter().map(ToString::to_string).collect();
            told = format!("{told} <- {}", names.join(" "));
        }
        told
    };
    causes.iter().map(told).collect()
}

#[test]
fn the_first_cause_stands_for_all_that_wait_for_it() {
    use ReasonCode::{NoAnswer, RpcDown, UnitInactive};
    let nodes = [
        controller("slurmctld", NoAnswer),
        worker(0, "registered", RpcDown),
        worker(1, "registered", RpcDown),
        node("db", Role::Db, "mariadb", UnitInactive),
    ];
    assert_eq!(told(&nodes), ["db mariadb <- controller worker-0 worker-1"]);
    assert_eq!(
        Why::of_timeout(&nodes, None, Some(Duration::from_secs(9))).message,
        "not ready within 9s: db: mariadb: why; 3 nodes wait for it"
    );
    let without = [&nodes[..3], &[node("db", Role::Db, "", NONE)]].concat();
    assert_eq!(
        told(&without),
        ["controller slurmctld <- worker-0 worker-1"]
    );
    // The one that most wait for comes first, and of equals the first in order.
    let apart = [
        worker(2, "munge", UnitInactive),
        worker(3, "munge", UnitInactive),
        controller("slurmctld", NoAnswer),
        worker(0, "registered", RpcDown),
    ];
    let first = "controller slurmctld <- worker-0";
    assert_eq!(told(&apart), [first, "worker-2 munge", "worker-3 munge"]);
}

#[test]
fn no_cause_is_claimed_without_evidence() {
    use ReasonCode::{AuthFailed, NodeUnusable, NotRegistered, RpcDown, UnitInactive};
    let down = || controller("slurmctld", RpcDown);
    // The controller has answered.
    for code in [NotRegistered, NodeUnusable] {
        let nodes = [down(), worker(0, "registered", code)];
        assert_eq!(
            told(&nodes),
            ["controller slurmctld", "worker-0 registered"]
        );
    }
    // Keys that differ are no matter of the controller's slurmctld, but may be of its munge.
    let refused = || worker(0, "registered", AuthFailed);
    assert_eq!(told(&[down(), refused()]).len(), 2);
    let munge = controller("munge", UnitInactive);
    assert_eq!(told(&[munge, refused()]), ["controller munge <- worker-0"]);
    // Another controller is in control.
    let standby = node("controller-1", Role::Controller, "", NONE);
    let nodes = [down(), standby, worker(0, "registered", RpcDown)];
    assert_eq!(
        told(&nodes),
        ["controller slurmctld", "worker-0 registered"]
    );
    // A controller whose sshd is down has not been looked at any further.
    let sshd = controller("sshd", UnitInactive);
    assert_eq!(told(&[sshd, worker(0, "registered", RpcDown)]).len(), 2);
    // A unit that nobody has started waits for nothing.
    let nodes = [
        controller("slurmctld", UnitInactive),
        node("db", Role::Db, "mariadb", UnitInactive),
    ];
    assert_eq!(told(&nodes).len(), 2);
    assert!(told(&[worker(0, "", NONE)]).is_empty());
}

#[test]
fn what_has_ended_a_wait_comes_first_in_its_causes() {
    use ReasonCode::{RpcDown, UnitFailed, UnitInactive};
    let nodes = [
        controller("slurmctld", RpcDown),
        worker(0, "registered", RpcDown),
        worker(1, "munge", UnitFailed),
        node("db", Role::Db, "slurmdbd", UnitInactive),
    ];
    let Why {
        message,
        about,
        causes,
    } = Why::of_terminal(&nodes, Some(2));
    assert_eq!(message, "worker-1: munge: why");
    assert_eq!(about, Some(2));
    let first: Vec<_> = causes.iter().map(|cause| cause.probe.as_str()).collect();
    assert_eq!(first, ["munge", "slurmdbd"]);
    let why = Why::of_terminal(&nodes, Some(0));
    assert_eq!(
        why.message,
        "controller: slurmctld: why; the first cause: db: slurmdbd: why"
    );
}

#[test]
fn as_many_are_named_as_a_client_is_told_of() {
    let mut nodes = vec![controller("slurmctld", ReasonCode::RpcDown)];
    nodes.extend((0..100).map(|number| worker(number, "registered", ReasonCode::RpcDown)));
    let (causes, _) = causes(&nodes);
    assert_eq!(
        (causes[0].affected.len(), causes[0].affected_count),
        (64, 100)
    );
    let own = |number| worker(number, "munge", ReasonCode::UnitInactive);
    let (causes, _) = super::causes(&(0..100).map(own).collect::<Vec<_>>());
    assert_eq!(causes.len(), 64);
}

#[test]
fn a_cluster_that_lacks_nodes_is_the_first_cause() {
    let why = Reason::new(
        ReasonCode::ClusterIncomplete,
        "cluster r/c has 1 of 2 nodes",
    );
    let nodes = [worker(0, "munge", ReasonCode::UnitInactive)];
    let Why {
        message,
        about,
        causes,
    } = Why::of_timeout(&nodes, Some(why), Some(Duration::from_secs(1)));
    assert_eq!(message, "not ready within 1s: cluster r/c has 1 of 2 nodes");
    assert_eq!((about, causes.len()), (None, 2));
    assert_eq!(causes[0].node, None);
}

#[test]
fn a_job_that_waits_for_other_nodes_is_no_cause() {
    let waits = controller("", NONE);
    let mut waits = NodeReport::clone(&waits);
    let job = ProbeReport {
        probe: "jobs".to_owned(),
        result: ProbeResult::Skipped(crate::text::Line::new("not run")),
        ..waits.probes[0].clone()
    };
    waits.state = NodeState::blocked_by(&job);
    waits.probes = waits.probes.iter().cloned().chain([job]).collect();
    let failing = worker(0, "registered", ReasonCode::NodeUnusable);
    assert_eq!(told(&[Arc::new(waits), failing]), ["worker-0 registered"]);
}

#[test]
fn who_fails_comes_before_who_passes_but_not_for_long_enough_yet() {
    let mut passes = NodeReport::clone(&worker(0, "", NONE));
    passes.state = NodeState::Waiting(Reason::new(ReasonCode::Confirming, "it has to stay so"));
    let failing = worker(1, "munge", ReasonCode::UnitInactive);
    let nodes = [Arc::new(passes), failing];
    assert_eq!(told(&nodes), ["worker-1 munge", "worker-0 registered"]);
    assert_eq!(told(&nodes[..1]), ["worker-0 registered"]);
}
