//! The monitor over a fake engine, on paused time.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use readyd::{
    container::{ContainerId, State},
    environment::Environment,
    event::{Action, ContainerEvent},
    monitor::{
        CHECK_LIMIT, FailurePolicy, KEEP_LINKS, LINGER, Monitor, MonitorError, NodeReport,
        NodeState, NotReady, Options, Verdict, Wait, WaitEvent, WaitRequest, WaitResult,
        WaitTarget,
    },
    node::{Identity, NodeName, Role, Visibility},
    probe::{Level, Outcome, Probe, ProbeError, Service},
    reason::ReasonCode,
    report::{ProbeResult, Trigger},
};
use support::fake::{FakeEngine, FakeNode, FakeUnit};
use tokio::time::{Instant, sleep, timeout};

const ME: Identity = Identity::Local;
const MS: Duration = Duration::from_millis(1);

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

fn monitor(fake: &FakeEngine) -> Monitor {
    Monitor::new(fake.clone(), Options::default(), Environment::tokio())
}

fn probe(name: &str) -> Probe {
    Probe::named(name).unwrap()
}

fn request(nodes: &[&str]) -> WaitRequest {
    let target = |node: &&str| WaitTarget {
        node: name(node),
        role: None,
        profile: None,
    };
    WaitRequest {
        nodes: nodes.iter().map(target).collect(),
        limit: Some(Duration::from_secs(60)),
        ..WaitRequest::default()
    }
}

/// Returns the reports and the result of a wait.
async fn told(mut wait: Wait) -> (Vec<Arc<NodeReport>>, Arc<WaitResult>) {
    let mut reports = Vec::new();
    while let Some(event) = wait.next().await {
        match event {
            WaitEvent::Node(report) => reports.push(report),
            WaitEvent::Result(result) => {
                assert!(wait.next().await.is_none(), "the result is the last");
                return (reports, result);
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("a wait ends with a result");
}

fn reason(report: &NodeReport) -> &str {
    match &report.state {
        NodeState::Ready => "",
        NodeState::Waiting(reason) | NodeState::Terminal(reason) => reason.as_str(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ready_controller_is_ready_in_every_way() {
    let fake = FakeEngine::new([FakeNode::ready("c", Some("controller"))]);
    let monitor = monitor(&fake);

    let snapshot = monitor.snapshot(&ME, &name("c"), None).await.unwrap();
    assert!(snapshot.ready);
    assert_eq!(snapshot.role, Some(Role::Controller));
    let services: Vec<_> = snapshot.services.into_iter().collect();
    assert_eq!(
        services,
        [
            (Service::SSHD, true),
            (Service::MUNGE, true),
            (Service::SLURMCTLD, true)
        ]
    );

    for probe in Probe::of_role(Some(Role::Controller)) {
        let report = monitor
            .check(&ME, &name("c"), &probe, None, CHECK_LIMIT)
            .await
            .unwrap();
        assert!(report.result.is_passed(), "{report:?}");
    }

    let (reports, result) = told(monitor.wait(&ME, request(&["c"]))).await;
    assert_eq!(result.verdict, Verdict::Ready);
    assert_eq!(result.message, "");
    assert_eq!(reports.len(), 1);
    let probes: Vec<_> = reports[0]
        .probes
        .iter()
        .map(|report| report.probe.as_str())
        .collect();
    assert_eq!(
        probes,
        ["container", "systemd", "sshd", "munge", "slurmctld"]
    );
}

#[tokio::test(start_paused = true)]
async fn probes_stop_at_the_first_that_does_not_pass_and_a_snapshot_skips_nothing() {
    let fake = FakeEngine::new([FakeNode::ready("w", Some("worker"))]);
    fake.set_unit("w", "munge.service", "inactive", "dead");
    let monitor = monitor(&fake);

    let wait = WaitRequest {
        limit: Some(Duration::from_secs(2)),
        ..request(&["w"])
    };
    let (reports, result) = told(monitor.wait(&ME, wait)).await;
    assert_eq!(result.verdict, Verdict::TimedOut);
    assert_eq!(
        result.message,
        "not ready within 2s: w: munge: munge.service is inactive (dead)"
    );
    // The state did not change, so the wait reported it once.
    assert_eq!(reports.len(), 1);
    assert!(matches!(
        reports[0].probes[4].result,
        ProbeResult::Skipped(_)
    ));

    let snapshot = monitor.snapshot(&ME, &name("w"), None).await.unwrap();
    assert!(!snapshot.ready);
    let services: Vec<_> = snapshot.services.into_iter().collect();
    assert_eq!(
        services,
        [
            (Service::SSHD, true),
            (Service::MUNGE, false),
            (Service::SLURMD, true)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_stopped_container_answers_for_every_probe() {
    let fake = FakeEngine::new([FakeNode::ready("w", Some("worker"))]);
    let exited = State::Exited {
        code: 137,
        oom: true,
    };
    fake.change("w", |node| node.container.state = exited);
    let monitor = monitor(&fake);

    let snapshot = monitor.snapshot(&ME, &name("w"), None).await.unwrap();
    assert!(snapshot.services.values().all(|up| !up));
    let reason = "container w is exited (exit code 137) (OOM killed)";
    let terminal = ProbeResult::Looked(Outcome::terminal(ReasonCode::ContainerEnded, reason));
    assert!(
        snapshot
            .probes
            .iter()
            .all(|report| report.result == terminal)
    );

    let munge = monitor
        .check(&ME, &name("w"), &probe("munge"), None, CHECK_LIMIT)
        .await
        .unwrap();
    assert_eq!(munge.result, terminal);

    let only_munge = WaitRequest {
        probes: vec![probe("munge")],
        ..request(&["w"])
    };
    let (_, result) = told(monitor.wait(&ME, only_munge)).await;
    assert_eq!(result.verdict, Verdict::Terminal);
    assert_eq!(result.message, format!("w: munge: {reason}"));
}

#[tokio::test(start_paused = true)]
async fn a_die_in_mid_wait_ends_it_and_keep_waiting_goes_on() {
    let fake = FakeEngine::new([FakeNode::ready("w", Some("worker"))]);
    fake.set_unit("w", "slurmd.service", "inactive", "dead");
    let monitor = monitor(&fake);
    let stop = monitor.wait(&ME, request(&["w"]));
    let keep = WaitRequest {
        failure_policy: FailurePolicy::KeepWaiting,
        ..request(&["w"])
    };
    let keep = tokio::spawn(told(monitor.wait(&ME, keep)));

    sleep(700 * MS).await;
    fake.change("w", |node| {
        node.container.state = State::Exited {
            code: 1,
            oom: false,
        }
    });
    let (reports, result) = told(stop).await;
    assert_eq!(
        result.message,
        "w: container: container w is exited (exit code 1)"
    );
    assert!(matches!(
        reports.last().unwrap().state,
        NodeState::Terminal(_)
    ));

    // The other wait polls at times of its own, and sees the end, too.
    sleep(600 * MS).await;
    fake.put(FakeNode::ready("w", Some("worker")));
    let (reports, result) = keep.await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready);
    let reasons: Vec<_> = reports.iter().map(|report| reason(report)).collect();
    assert_eq!(
        reasons,
        [
            "slurmd: slurmd.service is inactive (dead)",
            "container: container w is exited (exit code 1)",
            ""
        ]
    );
    assert!(
        reports
            .iter()
            .all(|report| !report.probes.iter().any(|probe| probe.result.is_terminal()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_never_was_is_waited_for_and_one_that_was_removed_is_not() {
    let fake = FakeEngine::new([]);
    let monitor = monitor(&fake);
    let wait = monitor.wait(&ME, request(&["n"]));
    sleep(1200 * MS).await;
    fake.put(FakeNode::ready("n", None));
    let (reports, result) = told(wait).await;
    assert_eq!(
        reason(&reports[0]),
        "container: container n does not exist yet"
    );
    assert_eq!(result.verdict, Verdict::Ready);

    fake.set_unit("n", "munge.service", "inactive", "dead");
    let wait = monitor.wait(&ME, request(&["n"]));
    sleep(700 * MS).await;
    fake.remove("n");
    let (_, result) = told(wait).await;
    assert_eq!(result.verdict, Verdict::Terminal);
    assert_eq!(result.message, "n: container: container n was removed");
}

#[tokio::test(start_paused = true)]
async fn a_name_is_never_taken_for_the_start_of_another_containers_id() {
    let mut other = FakeNode::ready("other", None);
    other.container.id.0 = format!("db{:062}", 7);
    let fake = FakeEngine::new([other]);
    let missing = monitor(&fake)
        .snapshot(&ME, &name("db"), None)
        .await
        .unwrap_err();
    assert_eq!(missing, MonitorError::NodeNotFound { node: name("db") });
}

#[tokio::test(start_paused = true)]
async fn a_container_that_may_not_be_looked_at_does_not_exist() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let options = Options {
        visibility: Visibility::select(vec![("team".into(), "a".into())]),
        ..Options::default()
    };
    let monitor = Monitor::new(fake.clone(), options, Environment::tokio());
    let missing = monitor.snapshot(&ME, &name("n"), None).await.unwrap_err();
    assert_eq!(missing, MonitorError::NodeNotFound { node: name("n") });
    let wait = monitor.wait(
        &ME,
        WaitRequest {
            limit: Some(2000 * MS),
            ..request(&["n"])
        },
    );
    let (_, result) = told(wait).await;
    assert!(
        result.message.ends_with("container n does not exist yet"),
        "{}",
        result.message
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_out_of_reach_is_never_an_unready_node() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    fake.set_outage(Some("Connection refused"));

    let error = monitor.snapshot(&ME, &name("n"), None).await.unwrap_err();
    assert!(
        matches!(error, MonitorError::CouldNotTell { .. }),
        "{error}"
    );
    let error = monitor
        .check(&ME, &name("n"), &probe("munge"), None, CHECK_LIMIT)
        .await
        .unwrap_err();
    assert!(
        matches!(error, MonitorError::CouldNotTell { .. }),
        "{error}"
    );

    let wait = monitor.wait(&ME, request(&["n"]));
    sleep(3000 * MS).await;
    fake.set_outage(None);
    let (reports, result) = told(wait).await;
    assert_eq!(
        reason(&reports[0]),
        "container: inspecting container n: the engine at fake:// cannot be reached: Connection refused"
    );
    assert!(matches!(
        reports[0].probes[0].result,
        ProbeResult::Unknown(_)
    ));
    assert_eq!(result.verdict, Verdict::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_came_back_has_ten_seconds_to_start_what_it_restarts() {
    let mut node = FakeNode::ready("n", None);
    node.container.restarts = true;
    node.units.get_mut("munge.service").unwrap().active = "inactive";
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let wait = monitor.wait(&ME, request(&["n"]));
    sleep(600 * MS).await;
    fake.set_outage(Some("gone"));
    sleep(1000 * MS).await;
    fake.change("n", |node| {
        node.container.state = State::Exited {
            code: 0,
            oom: false,
        }
    });
    fake.set_outage(None);
    let back = Instant::now();
    let (reports, result) = told(wait).await;
    assert!(
        reports
            .iter()
            .any(|report| reason(report).ends_with("may start it again"))
    );
    assert_eq!(result.verdict, Verdict::Terminal);
    assert!(
        back.elapsed() >= Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_unit_is_terminal_with_its_journal_once_confirmed() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.set_unit("n", "munge.service", "failed", "failed");
    let monitor = monitor(&fake);
    let (reports, result) = told(monitor.wait(&ME, request(&["n"]))).await;
    assert_eq!(result.message, "n: munge: munge.service is failed");
    assert!(result.elapsed >= 100 * MS);
    assert_eq!(reports.len(), 2, "first failed, then terminal");
    assert!(matches!(reports[0].state, NodeState::Waiting(_)));
    assert_eq!(reports[1].probes[3].evidence.detail.as_str(), "it died");

    let munge = monitor
        .check(&ME, &name("n"), &probe("munge"), None, CHECK_LIMIT)
        .await
        .unwrap();
    assert!(munge.result.is_terminal());
    // A snapshot looks only once, so it cannot confirm a failure.
    let snapshot = monitor.snapshot(&ME, &name("n"), None).await.unwrap();
    assert_eq!(
        snapshot.probes[3].result,
        ProbeResult::Looked(Outcome::failed(
            ReasonCode::UnitFailed,
            "munge.service is failed"
        ))
    );
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_passes_through_failed_on_every_cycle_is_waited_for() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    fake.set_unit("n", "munge.service", "failed", "failed");
    let wait = monitor.wait(&ME, request(&["n"]));
    let cycling = async {
        for _ in 0..40 {
            sleep(90 * MS).await;
            fake.set_unit("n", "munge.service", "failed", "failed");
        }
        fake.set_unit("n", "munge.service", "active", "running");
    };
    let ((_, result), ()) = tokio::join!(told(wait), cycling);
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_dies_right_after_its_start_is_never_ready() {
    let mut node = FakeNode::ready("w", Some("worker"));
    node.units.get_mut("slurmd.service").unwrap().kind = "simple";
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let wait = monitor.wait(&ME, request(&["w"]));
    let dying = async {
        sleep(150 * MS).await;
        fake.set_unit("w", "slurmd.service", "failed", "failed");
    };
    let ((reports, result), ()) = tokio::join!(told(wait), dying);
    assert_eq!(result.verdict, Verdict::Terminal);
    assert!(
        reports
            .iter()
            .all(|report| report.state != NodeState::Ready)
    );
    assert!(reason(&reports[0]).contains("proves nothing for the first 200 ms"));

    // Snapshot and check report the current state.
    fake.set_unit("w", "slurmd.service", "active", "running");
    assert!(monitor.snapshot(&ME, &name("w"), None).await.unwrap().ready);
}

#[tokio::test(start_paused = true)]
async fn ready_needs_all_nodes_at_the_same_moment() {
    // It is random which of the two nodes is polled first. Ten rounds have each order at least
    // once.
    for _ in 0..10 {
        let fake = FakeEngine::new([FakeNode::ready("a", None), FakeNode::ready("b", None)]);
        fake.set_unit("b", "munge.service", "inactive", "dead");
        let monitor = monitor(&fake);
        let slow = WaitRequest {
            poll_interval: Duration::from_secs(20),
            ..request(&["a", "b"])
        };
        let wait = monitor.wait(&ME, slow);
        sleep(1000 * MS).await;
        // `a` was ready at its last look, and is no longer ready when `b` becomes ready.
        fake.set_unit("a", "munge.service", "inactive", "dead");
        fake.set_unit("b", "munge.service", "active", "running");
        let (_, result) = told(wait).await;
        assert_eq!(result.verdict, Verdict::TimedOut);
        assert!(
            result.message.contains(": a: munge: "),
            "{}",
            result.message
        );
    }
}

#[tokio::test(start_paused = true)]
async fn stable_for_counts_from_the_first_passing_look_and_starts_again() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    let stable = || WaitRequest {
        stable_for: 2000 * MS,
        ..request(&["n"])
    };
    let (reports, result) = told(monitor.wait(&ME, stable())).await;
    assert_eq!(result.verdict, Verdict::Ready);
    assert!(
        (2000 * MS..2100 * MS).contains(&result.elapsed),
        "{:?}",
        result.elapsed
    );
    assert_eq!(
        reason(&reports[0]),
        "every probe has passed, and has to stay so for 2s"
    );
    assert_eq!(reports.last().unwrap().state, NodeState::Ready);

    let wait = monitor.wait(&ME, stable());
    let flapping = async {
        sleep(1000 * MS).await;
        fake.set_unit("n", "munge.service", "inactive", "dead");
        sleep(1000 * MS).await;
        fake.set_unit("n", "munge.service", "active", "running");
    };
    let ((_, result), ()) = tokio::join!(told(wait), flapping);
    assert!(result.elapsed >= 4000 * MS, "{:?}", result.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_times_out_blames_who_fails_before_who_is_only_too_young() {
    let fake = FakeEngine::new([FakeNode::ready("a", None)]);
    let monitor = monitor(&fake);
    let wait = WaitRequest {
        limit: Some(2000 * MS),
        stable_for: 1900 * MS,
        ..request(&["a", "missing"])
    };
    let (_, result) = told(monitor.wait(&ME, wait)).await;
    assert_eq!(
        result.message,
        "not ready within 2s: missing: container: container missing does not exist yet"
    );
    assert_eq!(result.about, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_port_that_accepts_is_no_slurmrestd_without_its_unit() {
    let fake = FakeEngine::new([FakeNode::ready("n", Some("api"))]);
    let monitor = monitor(&fake);
    let (node, slurmrestd) = (name("n"), probe("slurmrestd"));
    let check = || monitor.check(&ME, &node, &slurmrestd, None, CHECK_LIMIT);
    let failed = ProbeResult::Looked(Outcome::failed(
        ReasonCode::UnitMissing,
        "slurmrestd.service does not exist in the node",
    ));
    assert_eq!(check().await.unwrap().result, failed);

    let unit = FakeUnit::new("active", "running", "simple");
    fake.change("n", |node| {
        node.units.insert("slurmrestd.service", unit);
    });
    assert!(check().await.unwrap().result.is_passed());
}

#[tokio::test(start_paused = true)]
async fn two_looks_at_a_unit_are_as_far_apart_as_systemd_was_asked() {
    let mut node = FakeNode::ready("w", Some("worker"));
    node.units.get_mut("slurmd.service").unwrap().kind = "simple";
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let hasty = WaitRequest {
        poll_interval: 10 * MS,
        ..request(&["w"])
    };
    let wait = monitor.wait(&ME, hasty);
    let dying = async {
        // systemd is queried once more. Then sshd takes its time, and slurmd dies meanwhile.
        sleep(25 * MS).await;
        fake.change("w", |node| node.delay = 300 * MS);
        sleep(100 * MS).await;
        fake.set_unit("w", "slurmd.service", "failed", "failed");
    };
    let ((reports, result), ()) = tokio::join!(told(wait), dying);
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);
    assert!(
        reports
            .iter()
            .all(|report| report.state != NodeState::Ready)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_first_in_a_long_look_is_asked_again_at_its_end() {
    let mut node = FakeNode::ready("c", Some("controller"));
    node.delay = 700 * MS;
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let wait = monitor.wait(
        &ME,
        WaitRequest {
            limit: Some(4000 * MS),
            ..request(&["c"])
        },
    );
    let stopping = async {
        // By then, systemd has reported munge as active, and the query by scontrol is still in
        // flight.
        sleep(1000 * MS).await;
        fake.set_unit("c", "munge.service", "inactive", "dead");
    };
    let ((reports, result), ()) = tokio::join!(told(wait), stopping);
    assert_eq!(result.verdict, Verdict::TimedOut);
    assert!(
        reports
            .iter()
            .all(|report| report.state != NodeState::Ready)
    );
    assert!(
        result.message.contains("munge.service is inactive"),
        "{}",
        result.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_between_two_looks_starts_the_stable_time_again() {
    let start = std::time::SystemTime::now() - Duration::from_secs(3600);
    let mut node = FakeNode::ready("n", None);
    node.container.started_at = Some(start);
    node.container.restarts = true;
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let stable = || WaitRequest {
        stable_for: 3000 * MS,
        ..request(&["n"])
    };
    // First the container restarts, then one of its units. Both are up again at every look.
    let container = || fake.change("n", |node| node.container.started_at = Some(start + MS));
    let unit = || fake.set_unit("n", "munge.service", "active", "running");
    for restart in [&container as &dyn Fn(), &unit] {
        let wait = monitor.wait(&ME, stable());
        sleep(2000 * MS).await;
        restart();
        let (_, result) = told(wait).await;
        assert_eq!(result.verdict, Verdict::Ready);
        assert!(result.elapsed >= 5000 * MS, "{:?}", result.elapsed);
    }
}

/// No look finds the container exited: it runs again at every look.
#[tokio::test(start_paused = true)]
async fn a_run_that_was_seen_and_is_over_ends_the_wait_though_another_has_begun() {
    let start = std::time::SystemTime::now() - Duration::from_secs(3600);
    let mut node = FakeNode::ready("n", None);
    node.container.started_at = Some(start);
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let restart = || {
        fake.change("n", |node| {
            let before = node.container.started_at.unwrap();
            node.container.started_at = Some(before + MS);
        });
    };
    let stable = WaitRequest {
        stable_for: 5000 * MS,
        ..request(&["n"])
    };
    let stop = monitor.wait(&ME, stable.clone());
    let keep = monitor.wait(
        &ME,
        WaitRequest {
            failure_policy: FailurePolicy::KeepWaiting,
            ..stable.clone()
        },
    );
    sleep(2000 * MS).await;
    restart();
    let (reports, result) = told(stop).await;
    assert_eq!(result.verdict, Verdict::Terminal);
    assert!(result.elapsed < 3000 * MS, "{:?}", result.elapsed);
    let over = "container: container n has ended, and was started again: it has no restart policy, \
                so the run that was waited for is over";
    assert_eq!(result.message, format!("n: {over}"));
    let last = reports.last().unwrap();
    assert_eq!(reason(last), over);
    assert!(matches!(last.probes[1].result, ProbeResult::Skipped(_)));
    // A wait that begins now has seen this run only.
    let new = told(monitor.wait(&ME, request(&["n"]))).await.1;
    assert_eq!(new.verdict, Verdict::Ready);
    let (reports, result) = told(keep).await;
    assert_eq!(result.verdict, Verdict::Ready);
    assert!(result.elapsed >= 7000 * MS, "{:?}", result.elapsed);
    let terminal = |report: &Arc<NodeReport>| matches!(report.state, NodeState::Terminal(_));
    assert!(!reports.iter().any(terminal));

    // A wait that names only one probe reports the end with that probe.
    let munge = WaitRequest {
        probes: vec![probe("munge")],
        ..stable
    };
    let wait = monitor.wait(&ME, munge);
    sleep(2000 * MS).await;
    restart();
    let (_, result) = told(wait).await;
    assert_eq!(
        result.message,
        format!("n: {}", over.replacen("container", "munge", 1))
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_may_start_again_is_terminal_once_it_is_left_so_for_a_second() {
    let mut node = FakeNode::ready("n", None);
    node.container.restarts = true;
    node.units.get_mut("munge.service").unwrap().active = "inactive";
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let exited = || State::Exited {
        code: 137,
        oom: false,
    };
    let (quick, late) = (
        monitor.wait(&ME, request(&["n"])),
        monitor.wait(&ME, request(&["n"])),
    );
    sleep(600 * MS).await;
    let end = Instant::now();
    fake.change("n", |node| node.container.state = exited());
    let (reports, result) = told(quick).await;
    assert_eq!(result.verdict, Verdict::Terminal);
    assert!(end.elapsed() >= 1000 * MS, "{:?}", end.elapsed());
    assert!(end.elapsed() < 2200 * MS, "{:?}", end.elapsed());
    let reasons: Vec<_> = reports.iter().map(|report| reason(report)).collect();
    assert_eq!(
        reasons,
        [
            "munge: munge.service is inactive (running)",
            "container: container n is exited (exit code 137)",
            "container: container n is exited (exit code 137)",
        ]
    );
    drop(late);
    // So does a check; a snapshot is one look.
    let start = Instant::now();
    let checked = monitor
        .check(&ME, &name("n"), &probe("container"), None, CHECK_LIMIT)
        .await
        .unwrap();
    assert!(checked.result.is_terminal(), "{checked:?}");
    assert!(start.elapsed() >= 1000 * MS, "{:?}", start.elapsed());
    let snapshot = monitor.snapshot(&ME, &name("n"), None).await.unwrap();
    let failed = Outcome::failed(
        ReasonCode::ContainerEnded,
        "container n is exited (exit code 137)",
    );
    assert_eq!(snapshot.probes[0].result, ProbeResult::Looked(failed));

    // A container that is started again within the second is waited for like any other.
    fake.put(FakeNode::ready("n", None));
    fake.change("n", |node| node.container.restarts = true);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let wait = monitor.wait(&ME, request(&["n"]));
    sleep(3000 * MS).await;
    fake.change("n", |node| node.container.state = exited());
    sleep(800 * MS).await;
    fake.change("n", |node| node.container.state = State::Running);
    fake.set_unit("n", "munge.service", "active", "running");
    let (_, result) = told(wait).await;
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
}

#[tokio::test(start_paused = true)]
async fn nodes_whose_answers_take_seconds_have_a_common_moment_too() {
    let slow = |name| {
        let mut node = FakeNode::ready(name, Some("controller"));
        node.delay = 1500 * MS;
        node
    };
    let fake = FakeEngine::new([slow("aa"), slow("bb")]);
    let monitor = monitor(&fake);
    for stable_for in [0, 5000] {
        let request = WaitRequest {
            stable_for: Duration::from_millis(stable_for),
            ..request(&["aa", "bb"])
        };
        let (reports, result) = told(monitor.wait(&ME, request)).await;
        assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
        assert!(result.elapsed < 25_000 * MS, "{:?}", result.elapsed);
        let ready = |report: &&Arc<NodeReport>| report.state == NodeState::Ready;
        assert_eq!(reports.iter().filter(ready).count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_recreated_container_inherits_nothing() {
    let fake = FakeEngine::new([FakeNode::ready("c", Some("controller"))]);
    let mut other = FakeNode::ready("w", Some("worker"));
    other.system = "starting";
    fake.put(other);
    let monitor = monitor(&fake);
    let wait = WaitRequest {
        limit: Some(5000 * MS),
        ..request(&["c", "w"])
    };
    let wait = monitor.wait(&ME, wait);
    let recreating = async {
        sleep(1000 * MS).await;
        let mut new = FakeNode::ready("c", Some("controller"));
        new.container.id.0 = "e".repeat(64);
        new.ping = None;
        fake.put(new);
    };
    let ((), (_, result)) = tokio::join!(recreating, told(wait));
    // The old container was ready. The new container has not answered yet, and nothing else is
    // known of it.
    let waiting = "slurmctld: scontrol ping has not answered yet";
    assert_eq!(reason(&result.nodes[0]), waiting);
}

#[tokio::test(start_paused = true)]
async fn a_check_of_ones_own_that_panics_ends_no_wait_silently() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let panics = Probe::custom("panics", |_| async { panic!("of its own doing") });
    let wait = WaitRequest {
        probes: vec![panics],
        limit: Some(Duration::MAX),
        ..request(&["n"])
    };
    let wait = WaitRequest {
        stable_for: Duration::MAX,
        poll_interval: Duration::MAX,
        ..wait
    };
    let mut wait = monitor(&fake).wait(&ME, wait);
    let told = timeout(Duration::from_secs(5), wait.next()).await.unwrap();
    let Some(WaitEvent::Node(report)) = told else {
        panic!("{told:?}")
    };
    assert_eq!(reason(&report), "panics: the check panics has panicked");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_has_not_answered_is_the_reason_meanwhile() {
    let mut node = FakeNode::ready("c", Some("controller"));
    node.ping = None;
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let limited = |limit| WaitRequest {
        limit: Some(limit),
        ..request(&["c"])
    };

    // This wait is soon over. Its message names the query in flight, not that it was cut short.
    let (_, result) = told(monitor.wait(&ME, limited(300 * MS))).await;
    let pending = "c: slurmctld: scontrol ping has not answered yet";
    assert_eq!(result.message, format!("not ready within 0.3s: {pending}"));

    // The wait reports the query after a second, and then the probe's own limit makes it a failure
    // of the node.
    let (reports, result) = told(monitor.wait(&ME, limited(40_000 * MS))).await;
    assert_eq!(
        reason(&reports[0]),
        "slurmctld: scontrol ping has not answered yet"
    );
    assert!(matches!(
        reports[0].probes[4].result,
        ProbeResult::Unknown(_)
    ));
    assert!(
        result
            .message
            .ends_with("slurmctld: scontrol ping has not answered within 15s"),
        "{}",
        result.message
    );

    let check = monitor
        .check(&ME, &name("c"), &probe("slurmctld"), None, 3000 * MS)
        .await
        .unwrap();
    assert!(
        matches!(check.result, ProbeResult::Looked(Outcome::Failed(_))),
        "{check:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hung_node_delays_no_other() {
    let fake = FakeEngine::new([FakeNode::ready("a", None), FakeNode::ready("bb", None)]);
    fake.hang("a");
    let monitor = monitor(&fake);
    let hung = monitor.wait(&ME, request(&["a"]));
    let (_, result) = told(monitor.wait(&ME, request(&["bb"]))).await;
    assert_eq!(result.verdict, Verdict::Ready);
    assert!(result.elapsed < 100 * MS, "{:?}", result.elapsed);

    // Nothing is known of the node, and yet there is a reason.
    let (reports, result) = told(hung).await;
    assert_eq!(
        reason(&reports[0]),
        "container: the engine has not answered yet"
    );
    assert!(
        result.message.contains("has not answered within 5s"),
        "{}",
        result.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_label_that_is_no_role_is_never_guessed_around() {
    let fake = FakeEngine::new([FakeNode::ready("n", Some("boss"))]);
    let monitor = monitor(&fake);
    let complaint = "container n has the label sind.role=boss, which is not a role: the roles are \
                     controller, submitter, worker, db and api";
    let failed = ProbeResult::Looked(Outcome::failed(ReasonCode::RoleInvalid, complaint));

    let snapshot = monitor.snapshot(&ME, &name("n"), None).await.unwrap();
    assert!(!snapshot.ready);
    assert_eq!(snapshot.probes[0].result, failed);
    let check = monitor
        .check(&ME, &name("n"), &probe("container"), None, CHECK_LIMIT)
        .await
        .unwrap();
    assert_eq!(check.result, failed);
    let short = WaitRequest {
        limit: Some(1000 * MS),
        ..request(&["n"])
    };
    let (_, result) = told(monitor.wait(&ME, short)).await;
    assert!(result.message.ends_with(complaint), "{}", result.message);

    // A request that names the role or the probes needs no guess.
    let mut explicit = request(&["n"]);
    explicit.nodes[0].role = Some(Role::Worker);
    assert_eq!(
        told(monitor.wait(&ME, explicit)).await.1.verdict,
        Verdict::Ready
    );
}

#[tokio::test(start_paused = true)]
async fn ones_own_probe_runs_like_the_others() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let third = Probe::custom("third-time", move |node: NodeName| {
        let call = count.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err(ProbeError::new(ReasonCode::EngineUnreachable, "no network")),
                1 => Ok(Outcome::failed(
                    ReasonCode::WrongAnswer,
                    format!("{node} has called {call} times"),
                )),
                _ => Ok(Outcome::passed()),
            }
        }
    });
    let mut probes = vec![third];
    probes.extend(Probe::of_role(None));
    let (reports, result) = told(monitor.wait(
        &ME,
        WaitRequest {
            probes,
            ..request(&["n"])
        },
    ))
    .await;
    let reasons: Vec<_> = reports.iter().map(|report| reason(report)).collect();
    assert_eq!(
        reasons,
        [
            "third-time: no network",
            "third-time: n has called 1 times",
            ""
        ]
    );
    assert_eq!(reports[0].probes.last().unwrap().probe, "third-time");
    assert_eq!(result.verdict, Verdict::Ready);

    let never = Probe::custom("never", |_| async {
        Ok(Outcome::terminal(ReasonCode::WrongAnswer, "it cannot be"))
    });
    let target = WaitTarget {
        node: name("n"),
        role: None,
        profile: None,
    };
    let gave_up = monitor
        .until_ready(&ME, target, vec![never], Duration::ZERO)
        .await;
    assert_eq!(
        gave_up,
        Err(NotReady::Terminal("n: never: it cannot be".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_dropped_leaves_nothing_behind() {
    let mut node = FakeNode::ready("c", Some("controller"));
    node.ping = None;
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    let mut waits: Vec<_> = (0..20)
        .map(|_| monitor.wait(&ME, request(&["c"])))
        .collect();
    for wait in &mut waits {
        let _ = timeout(2000 * MS, wait.next()).await;
    }
    assert_eq!(fake.execs(), 1, "one at a time in a node");
    // Each wait has a task, one task follows the node for all of them, and one task reads events.
    assert_eq!(monitor.environment().tasks(), 20 + 2);

    drop(waits);
    sleep(MS).await;
    assert_eq!(fake.execs(), 0);
    assert_eq!(monitor.environment().tasks(), 2, "they linger");
    let before = fake.inspections();
    sleep(LINGER).await;
    assert_eq!(monitor.environment().tasks(), 1, "who closes the idle link");
    sleep(KEEP_LINKS).await;
    assert_eq!(fake.inspections(), before, "nothing was asked");
    assert_eq!(monitor.environment().tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_the_newest_state_and_delays_nothing() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let wait = monitor.wait(&ME, request(&["n"]));
    for state in ["activating", "deactivating", "inactive", "activating"] {
        sleep(1000 * MS).await;
        fake.set_unit("n", "munge.service", state, state);
    }
    fake.set_unit("n", "munge.service", "active", "running");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(
        monitor.environment().tasks(),
        0,
        "it was over long before it was read"
    );
    let (reports, result) = told(wait).await;
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].state, NodeState::Ready);
    assert!(result.elapsed < 6000 * MS, "{:?}", result.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_banner_stands_for_two_seconds_unless_its_unit_changes() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let mut wait = monitor.wait(
        &ME,
        WaitRequest {
            poll_interval: 50 * MS,
            ..request(&["n"])
        },
    );
    let failing = async |wait: &mut Wait| {
        loop {
            if let Some(WaitEvent::Node(report)) = wait.next().await
                && let Some(failing) = report.failing()
                && matches!(failing.result, ProbeResult::Looked(_))
            {
                break failing.probe.clone();
            }
        }
    };
    assert_eq!(failing(&mut wait).await, "munge");
    sleep(7000 * MS).await;
    let greetings = fake.greetings();
    assert!((3..=4).contains(&greetings), "{greetings} in seven seconds");

    // The cached banner is new enough to count, but its unit has changed since.
    sleep(200 * MS).await;
    fake.change("n", |node| node.greeting = "");
    fake.set_unit("n", "ssh.service", "active", "running");
    let start = Instant::now();
    assert_eq!(failing(&mut wait).await, "sshd");
    assert!(start.elapsed() < 200 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_events_make_readyd_look_and_decide_nothing() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let options = Options {
        events: false,
        ..Options::default()
    };
    let monitor = Monitor::new(fake.clone(), options, Environment::tokio());
    let (events, told_by_us) = tokio::sync::mpsc::unbounded_channel();
    // The wait looks at the container only, at known times, so that no other look finds by chance
    // the change that an event has to report.
    let patient = WaitRequest {
        probes: vec![probe("container")],
        stable_for: Duration::from_secs(3599),
        limit: Some(Duration::from_secs(3600)),
        poll_interval: Duration::from_secs(60),
        ..request(&["n"])
    };
    let told_by_us = tokio_stream::wrappers::UnboundedReceiverStream::new(told_by_us);
    let mut wait = monitor.wait_with_events(&ME, patient, told_by_us);
    // Nothing happens for so long that polls have become rare, and the last poll was only just now.
    while timeout(Duration::from_secs(600), wait.next()).await.is_ok() {}
    let looks = fake.inspections();
    while fake.inspections() == looks {
        sleep(10 * MS).await;
    }
    sleep(100 * MS).await;
    let event = |name: &str, action| ContainerEvent {
        id: ContainerId("f".repeat(64)),
        name: name.to_owned(),
        former_name: None,
        action,
        at: None,
    };
    let exited = |code| State::Exited { code, oom: false };

    // An event of another container causes no look. An event that reports an end does not end a
    // wait while the container runs.
    let looks = fake.inspections();
    events.send(event("other", Action::Die)).unwrap();
    sleep(10 * MS).await;
    assert_eq!(fake.inspections(), looks);
    events.send(event("n", Action::Die)).unwrap();
    sleep(10 * MS).await;
    assert!(fake.inspections() > looks);
    assert!(timeout(10 * MS, wait.next()).await.is_err(), "it runs");

    fake.change("n", |node| node.container.state = exited(3));
    events.send(event("n", Action::Die)).unwrap();
    let start = Instant::now();
    let Some(WaitEvent::Node(report)) = wait.next().await else {
        panic!("no report")
    };
    assert!(start.elapsed() < 10 * MS);
    assert_eq!(
        reason(&report),
        "container: container n is exited (exit code 3)"
    );
    assert_eq!(report.trigger, Trigger::ContainerEvent);
    assert_eq!(&*report.trigger_detail, "die");
    let (_, result) = told(wait).await;
    assert_eq!(result.verdict, Verdict::Terminal);
}

#[tokio::test(start_paused = true)]
async fn after_the_callers_events_have_ended_nodes_are_polled() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let monitor = monitor(&fake);
    let wait = monitor.wait_with_events(&ME, request(&["n"]), futures_util::stream::empty());
    let starting = async {
        sleep(5000 * MS).await;
        fake.set_unit("n", "munge.service", "active", "running");
    };
    let ((_, result), ()) = tokio::join!(told(wait), starting);
    assert_eq!(result.verdict, Verdict::Ready);
    assert!(result.elapsed < 5600 * MS, "{:?}", result.elapsed);
}

#[tokio::test(start_paused = true)]
async fn who_has_not_seen_a_container_waits_for_it_though_others_have() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let monitor = monitor(&fake);
    let keep = WaitRequest {
        failure_policy: FailurePolicy::KeepWaiting,
        ..request(&["n"])
    };
    let first = monitor.wait(&ME, keep);
    sleep(1000 * MS).await;
    fake.remove("n");
    sleep(1000 * MS).await;
    let second = monitor.wait(&ME, request(&["n"]));
    sleep(1000 * MS).await;
    fake.put(FakeNode::ready("n", None));
    let ((reports, result), (others, _)) = tokio::join!(told(second), told(first));
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    assert_eq!(
        reason(&reports[0]),
        "container: container n does not exist yet"
    );
    let removed = "container: container n was removed";
    assert!(others.iter().any(|report| reason(report) == removed));
}

#[tokio::test(start_paused = true)]
async fn stable_for_counts_from_ones_own_first_look_though_others_look_on() {
    let fake = FakeEngine::new([FakeNode::ready("a", None), FakeNode::ready("b", None)]);
    fake.set_unit("b", "munge.service", "inactive", "dead");
    let monitor = monitor(&fake);
    // This wait has seen `a` pass for a long time.
    let other = monitor.wait(&ME, request(&["a", "b"]));
    sleep(10_000 * MS).await;
    let stable = WaitRequest {
        stable_for: 3000 * MS,
        ..request(&["a"])
    };
    let (_, result) = told(monitor.wait(&ME, stable)).await;
    assert_eq!(result.verdict, Verdict::Ready);
    assert!(result.elapsed >= 3000 * MS, "{:?}", result.elapsed);
    drop(other);
}

/// sshd shuts out whoever connects too often.
#[tokio::test(start_paused = true)]
async fn a_banner_is_read_once_in_two_seconds_whoever_asks() {
    let fake = FakeEngine::new([FakeNode::ready("n", None)]);
    let monitor = monitor(&fake);
    let check = async || {
        let (node, sshd) = (name("n"), probe("sshd"));
        let report = monitor.check(&ME, &node, &sshd, None, CHECK_LIMIT);
        report.await.unwrap()
    };
    let first = check().await;
    sleep(1500 * MS).await;
    let second = check().await;
    assert!(second.result.is_passed());
    assert_eq!(fake.greetings(), 1);
    // Its time is that of the reading. The wall clock runs by itself here.
    let apart = second.since.duration_since(first.since).unwrap_or_default();
    assert!(apart < 1000 * MS, "{apart:?}");
    sleep(600 * MS).await;
    check().await;
    assert_eq!(fake.greetings(), 2);

    // The daemon of another start has not been asked yet.
    fake.change("n", |node| {
        let unit = node.units.get_mut("ssh.service").unwrap();
        (unit.pid, unit.changed, unit.age) = (8, 2, Some(10 * MS));
    });
    check().await;
    assert_eq!(fake.greetings(), 3);

    // Outside a unit a banner does not stand, and is polled all the same no more often.
    fake.change("n", |node| {
        node.units.remove("ssh.service");
    });
    let wait = WaitRequest {
        probes: vec![probe("sshd"), probe("munge")],
        poll_interval: 10 * MS,
        limit: Some(20_000 * MS),
        ..request(&["n"])
    };
    fake.set_unit("n", "munge.service", "inactive", "dead");
    let (_, result) = told(monitor.wait(&ME, wait)).await;
    assert_eq!(result.verdict, Verdict::TimedOut);
    assert!(fake.greetings() <= 3 + 11, "{}", fake.greetings());
    assert!(fake.greetings() >= 3 + 5, "{}", fake.greetings());
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_in_time_though_the_engine_hangs_as_well() {
    let mut node = FakeNode::ready("c", Some("controller"));
    node.ping = None;
    let fake = FakeEngine::new([node]);
    let monitor = monitor(&fake);
    fake.set_inspection(20 * MS);
    let (node, slurmctld) = (name("c"), probe("slurmctld"));
    let check = async || {
        let start = Instant::now();
        let limit = 3000 * MS;
        let checked = monitor.check(&ME, &node, &slurmctld, None, limit).await;
        assert!(start.elapsed() <= limit, "{:?}", start.elapsed());
        checked
    };
    // Where only the node is slow, that is what the check says.
    let slow = check().await.unwrap();
    let reason = slow.result.reason().unwrap();
    assert_eq!(reason, "scontrol ping has not answered in time");
    let hanging = async {
        sleep(1000 * MS).await;
        fake.hang("c");
    };
    let (checked, ()) = tokio::join!(check(), hanging);
    let Err(MonitorError::CouldNotTell { .. }) = checked else {
        panic!("{checked:?}");
    };
}

#[tokio::test(start_paused = true)]
async fn no_job_is_run_from_a_node_that_is_none_to_run_one_from() {
    let fake = FakeEngine::new([FakeNode::ready("d", None)]);
    let jobs = WaitRequest {
        level: Level::Jobs,
        limit: Some(Duration::from_secs(30)),
        ..request(&["d"])
    };
    // It is thought about again and again, and comes to the same.
    let (_, result) = told(monitor(&fake).wait(&ME, jobs)).await;
    assert_eq!(result.verdict, Verdict::TimedOut);
    let why = "jobs: none of the nodes is a controller or a submitter";
    assert!(result.message.contains(why), "{}", result.message);
    assert_eq!(result.causes[0].reason.code(), ReasonCode::JobFailed);
    assert_eq!(result.nodes[0].level, Some(Level::Registered));
}
