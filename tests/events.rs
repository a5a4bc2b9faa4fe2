//! Events and signals report the changes of real nodes. Where they fail, readyd still finds the
//! changes.
//!
//! Most of these waits poll once a minute, so an event or a signal reported any change that they
//! find sooner.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use readyd::{
    client::{NodeTarget, ReadinessServiceClient, WaitReadyRequest},
    monitor::{
        FailurePolicy, LinkChoice, Monitor, NodeReport, NodeState, Verdict, Wait, WaitEvent,
        WaitRequest, WaitResult,
    },
    report::Trigger,
};
use rstest::rstest;
use support::{
    proxy::{Fault, Proxy},
    real::{
        self, BOOKWORM, FORKY, ME, Node, PATIENCE, Serve, booted, docker, eventually, monitor,
        monitor_at, pause, request, unique,
    },
};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

const MINUTE: Duration = Duration::from_secs(60);

/// Returns a request whose wait finds no change by polling.
fn told(node: &str) -> WaitRequest {
    WaitRequest {
        poll_interval: MINUTE,
        ..request(&[node])
    }
}

/// Reads events until a report of a node contains this, and returns the report.
async fn until(wait: &mut Wait, what: &str) -> Arc<NodeReport> {
    let reading = async {
        loop {
            match wait.next().await {
                Some(WaitEvent::Node(report)) => {
                    let said = match &report.state {
                        NodeState::Waiting(reason) | NodeState::Terminal(reason) => reason.as_str(),
                        NodeState::Ready => "ready",
                        other => panic!("{other:?}"),
                    };
                    if said.contains(what) {
                        return report;
                    }
                }
                other => panic!("before {what}: {other:?}"),
            }
        }
    };
    let read = timeout(PATIENCE, reading).await;
    read.unwrap_or_else(|_| panic!("never: {what}"))
}

async fn result(wait: Wait) -> Arc<WaitResult> {
    timeout(PATIENCE, wait.result()).await.unwrap().unwrap()
}

/// Stops a node's munge, and returns a wait for the node that has reported it.
async fn stopped(monitor: &Monitor, node: &Node, request: WaitRequest) -> Wait {
    booted(node);
    node.sh("systemctl stop munge");
    let mut wait = monitor.wait(&ME, request);
    until(&mut wait, "munge.service is inactive").await;
    wait
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_starts_is_told(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[values(LinkChoice::Auto, LinkChoice::Bridge)] link: LinkChoice,
) {
    let node = Node::start(suite, &unique("told"), &[]);
    let monitor = monitor(link);
    let wait = stopped(&monitor, &node, told(&node.0)).await;
    sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    node.sh("systemctl start munge");
    let result = result(wait).await;
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    // Without the signal, a poll would have found it after a minute.
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    let report = &result.nodes[0];
    assert_eq!(report.trigger, Trigger::UnitEvent);
    assert_eq!(&*report.trigger_detail, "munge.service");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_comes_pauses_and_goes_on_is_told(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[values(LinkChoice::Auto, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let name = unique("comes");
    let monitor = monitor(link);
    let request = WaitRequest {
        probes: vec![readyd::probe::Probe::named("container").unwrap()],
        stable_for: Duration::from_secs(3),
        ..told(&name)
    };
    let mut wait = monitor.wait(&ME, request);
    until(&mut wait, "does not exist yet").await;
    // The subscription may be active only after the first look.
    sleep(Duration::from_millis(100)).await;
    let node = Node::start(suite, &name, &[]);
    until(&mut wait, "has to stay so").await;
    pause(&name);
    let paused = until(&mut wait, "is paused").await;
    assert_eq!(paused.trigger, Trigger::ContainerEvent);
    // On a busy machine, the look that the start has caused may find it before its own event comes.
    let event = &*paused.trigger_detail;
    assert!(["pause", "start"].contains(&event), "{event}");
    let resumed = Instant::now();
    docker(&["unpause", &name]);
    let result = result(wait).await;
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    // The pause has started the time of `stable_for` anew.
    assert!(resumed.elapsed() >= Duration::from_secs(3));
    drop(node);
}

#[rstest]
#[case::restart(&["restart", "-t", "0"], &["is exited", "has ended, and was started again"])]
#[case::kill(&["kill"], &["is exited (exit code 137)"])]
#[case::removal(&["rm", "-fv"], &["is exited (exit code 137)", "was removed"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_in_mid_wait_is_terminal(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[case] end: &[&str],
    // It is random which of these reasons a look finds, but each of them ends the wait.
    #[case] whys: &[&str],
) {
    let node = Node::start(suite, &unique("ends"), &[]);
    let monitor = monitor(LinkChoice::Auto);
    let wait = stopped(&monitor, &node, told(&node.0)).await;
    let mut others = monitor.wait(
        &ME,
        WaitRequest {
            failure_policy: FailurePolicy::KeepWaiting,
            ..told(&node.0)
        },
    );
    until(&mut others, "munge.service is inactive").await;
    docker(&[end, &[&node.0]].concat());
    let result = result(wait).await;
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);
    let ended = |why: &&str| result.message.contains(*why);
    assert!(whys.iter().any(ended), "{}", result.message);
    // A wait that keeps waiting reports the end, and goes on.
    match end[0] {
        // A restart may be over before any look.
        "restart" => {}
        "rm" => {
            until(&mut others, "was removed").await;
            // A new wait has never seen the container.
            let mut new = monitor.wait(&ME, told(&node.0));
            until(&mut new, "does not exist yet").await;
        }
        _ => {
            until(&mut others, "is exited").await;
        }
    }
}

/// A container with a restart policy goes on with its next run, and is terminal only if there is no
/// next run.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_restart_policy_goes_on_unless_it_is_left_exited(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("policy"), &["--restart=always"]);
    let monitor = monitor(LinkChoice::Auto);
    let wait = stopped(&monitor, &node, told(&node.0)).await;
    docker(&["restart", "-t", "0", &node.0]);
    // munge starts with the next boot.
    let restarted = result(wait).await;
    assert_eq!(restarted.verdict, Verdict::Ready, "{}", restarted.message);

    let wait = stopped(&monitor, &node, told(&node.0)).await;
    let start = Instant::now();
    // The engine does not apply the policy to a container that was killed by hand.
    docker(&["kill", &node.0]);
    let killed = result(wait).await;
    assert_eq!(killed.verdict, Verdict::Terminal, "{}", killed.message);
    assert!(
        killed.message.ends_with("is exited (exit code 137)"),
        "{}",
        killed.message
    );
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_is_always_started_again_is_not_terminal(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[values(LinkChoice::Auto, LinkChoice::Exec)] link: LinkChoice,
) {
    let node = Node::start(suite, &unique("cycles"), &[]);
    let monitor = monitor(link);
    booted(&node);
    node.sh("mkdir -p /run/systemd/system/munge.service.d");
    // Of this type it is never active: one that is active from its fork on may be so for longer than the
    // 200 ms that prove it, where the machine is too busy to let it die.
    let cycles = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nRestart=always\n\
        RestartSec=300ms\nExecStartPre=\nExecStart=\nExecStart=/bin/false\n";
    node.write("/run/systemd/system/munge.service.d/cycles.conf", cycles);
    node.sh("systemctl daemon-reload; systemctl restart munge; true");
    let mut wait = monitor.wait(&ME, request(&[&node.0]));
    until(&mut wait, "munge").await;
    // In this time the unit goes through about ten cycles, and in each of them it fails for a
    // moment.
    let ended = timeout(Duration::from_secs(4), wait.result()).await;
    assert!(ended.is_err(), "{ended:?}");
}

/// A query for a unit that is not loaded makes systemd send signals about other units, which must
/// not cause another query.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn to_look_is_no_reason_to_look(#[values(BOOKWORM, FORKY)] suite: &str) {
    let node = Node::start(suite, &unique("echo"), &["--label", "sind.role=worker"]);
    let monitor = monitor(LinkChoice::Auto);
    let request = WaitRequest {
        limit: Some(Duration::from_secs(8)),
        ..request(&[&node.0])
    };
    let wait = stopped(&monitor, &node, request).await;
    let result = wait.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::TimedOut);
    // The expected replies are one for an inspection, one for a subscription, about two of systemd,
    // and a banner.
    let answers = result.nodes[0].round;
    assert!(answers < 20, "{answers} answers in 8 s");
}

// --- faults --------------------------------------------------------------------------------------

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_is_cut_is_taken_up_again(#[values(BOOKWORM, FORKY)] suite: &str) {
    let node = Node::start(suite, &unique("cut"), &[]);
    let proxy = Proxy::start();
    proxy.fail("/events", Fault::Twice);
    let monitor = monitor_at(proxy.host().parse().unwrap(), LinkChoice::Auto);
    let mut wait = stopped(&monitor, &node, told(&node.0)).await;
    // The wait receives one event first, so that the next subscription contains the time since when
    // it needs events.
    pause(&node.0);
    until(&mut wait, "is paused").await;
    docker(&["unpause", &node.0]);
    until(&mut wait, "munge.service is inactive").await;

    let before = proxy.calls("/events");
    proxy.sever("/events");
    eventually("it is subscribed to anew", || {
        proxy.calls("/events") > before
    });
    assert_eq!(proxy.calls("since="), 1);
    sleep(Duration::from_millis(200)).await;
    pause(&node.0);
    until(&mut wait, "is paused").await;
    docker(&["unpause", &node.0]);
    node.sh("systemctl start munge");
    assert_eq!(result(wait).await.verdict, Verdict::Ready);
}

#[rstest]
#[case::cut(Fault::Cut)]
#[case::stall(Fault::Stall)]
#[case::half(Fault::Half)]
#[tokio::test(flavor = "multi_thread")]
async fn without_events_containers_are_polled(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[case] fault: Fault,
) {
    let node = Node::start(suite, &unique("deaf"), &[]);
    let proxy = Proxy::start();
    proxy.fail("/events", fault);
    let monitor = monitor_at(proxy.host().parse().unwrap(), LinkChoice::Auto);
    let mut wait = stopped(&monitor, &node, request(&[&node.0])).await;
    pause(&node.0);
    let paused = until(&mut wait, "is paused").await;
    if fault != Fault::Half {
        assert_eq!(paused.trigger, Trigger::Poll);
    }
    docker(&["unpause", &node.0]);
    until(&mut wait, "munge.service is inactive").await;
    node.sh("systemctl start munge");
    assert_eq!(result(wait).await.verdict, Verdict::Ready);
}

#[rstest]
#[case::stall(Fault::Stall, "the engine has not answered within 5s")]
#[case::half(Fault::Half, "the engine's answer makes no sense")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_inspected_delays_no_other(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[case] fault: Fault,
    #[case] why: &str,
) {
    let bad = Node::start(suite, &unique("bad"), &[]);
    let good = Node::start(suite, &unique("good"), &[]);
    booted(&bad);
    booted(&good);
    let proxy = Proxy::start();
    proxy.fail(&format!("/containers/{}/json", bad.0), fault);
    let monitor = monitor_at(proxy.host().parse().unwrap(), LinkChoice::Auto);
    let mut both = monitor.wait(&ME, request(&[&bad.0, &good.0]));
    let start = Instant::now();
    let alone = monitor.wait(&ME, request(&[&good.0]));
    assert_eq!(result(alone).await.verdict, Verdict::Ready);
    // The other node's inspection has a limit of 5 s.
    assert!(
        start.elapsed() < Duration::from_millis(4500),
        "{:?}",
        start.elapsed()
    );
    until(&mut both, why).await;
    proxy.heal();
    assert_eq!(result(both).await.verdict, Verdict::Ready);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_started_and_never_ends_is_given_up(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("endless"), &[]);
    booted(&node);
    let proxy = Proxy::start();
    proxy.fail("/start", Fault::Started);
    let monitor = monitor_at(proxy.host().parse().unwrap(), LinkChoice::Exec);
    let mut wait = monitor.wait(&ME, request(&[&node.0]));
    until(&mut wait, "systemd has not answered yet").await;
    let read = timeout(PATIENCE, async {
        loop {
            match wait.next().await {
                Some(WaitEvent::Node(report)) => match &report.state {
                    NodeState::Waiting(reason) if reason.as_str().contains("within 15s") => return,
                    _ => {}
                },
                other => panic!("{other:?}"),
            }
        }
    });
    read.await.unwrap();
    proxy.heal();
    let ended = timeout(PATIENCE, wait.result()).await;
    assert_eq!(ended.unwrap().unwrap().verdict, Verdict::Ready);
}

/// An engine that the test may restart. It runs in a network namespace of its own, so that it
/// leaves the network of the other engine alone.
struct OwnEngine {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
}

impl OwnEngine {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = std::fs::metadata("/proc/self").unwrap();
        assert!(
            std::os::unix::fs::MetadataExt::uid(&root) == 0,
            "this test starts an engine of its own: run it as root"
        );
        let mut engine = Self {
            directory,
            daemon: None,
        };
        engine.up();
        engine
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn host(&self) -> String {
        format!("unix://{}", self.path("socket"))
    }

    fn up(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let daemon = Command::new("unshare")
            .args(["--net", "dockerd", "--bridge=none", "--iptables=false"])
            .args(["--host", &self.host(), "--pidfile", &self.path("pid")])
            .args([
                "--data-root",
                &self.path("data"),
                "--exec-root",
                &self.path("exec"),
            ])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.unwrap());
        eventually("its engine answers", || {
            self.command(&["version"])
                .output()
                .unwrap()
                .status
                .success()
        });
    }

    fn down(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = daemon.id().to_string();
            real::run(Command::new("kill").args(["-TERM", &pid]));
            daemon.wait().unwrap();
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(arguments);
        command
    }

    fn docker(&self, arguments: &[&str]) -> String {
        real::run(&mut self.command(arguments))
    }

    fn sh(&self, node: &str, shell: &str) -> String {
        let output = self
            .command(&["exec", node, "sh", "-c", shell])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Makes a node, and waits for the end of its boot.
    fn node(&self, name: &str, options: &[&str]) {
        let flags = real::run(Command::new(real::script("cluster")).arg("flags"));
        let image = format!("readyd-test/node:{BOOKWORM}");
        let flags: Vec<_> = flags.split_whitespace().collect();
        let common = [
            "run",
            "-d",
            "--name",
            name,
            "--label",
            "readyd.test=node",
            "--network",
            "none",
        ];
        self.docker(&[&common, options, &flags, &[image.as_str()]].concat());
        real::tally(name);
        real::run(
            Command::new(real::script("cluster"))
                .env("DOCKER_HOST", self.host())
                .args(["settle", name]),
        );
        real::finish_boot(|shell| self.sh(name, shell));
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if let Ok(all) = self.command(&["ps", "-aq"]).output() {
            let all = String::from_utf8_lossy(&all.stdout).into_owned();
            let _ = self
                .command(&["rm", "-fv"])
                .args(all.split_whitespace())
                .output();
        }
        self.down();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_restarted_in_mid_wait_is_waited_for() {
    let mut own = OwnEngine::start();
    let mut save = Command::new("docker")
        .args(["save", &format!("readyd-test/node:{BOOKWORM}")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let saved = save.stdout.take().unwrap();
    real::run(own.command(&["load", "--quiet"]).stdin(saved));
    assert!(save.wait().unwrap().success());
    own.node("stays", &["--restart=always"]);
    own.node("goes", &[]);
    for node in ["stays", "goes"] {
        own.sh(node, "systemctl stop munge");
    }
    let monitor = monitor_at(own.host().parse().unwrap(), LinkChoice::Auto);
    let mut stays = monitor.wait(&ME, request(&["stays"]));
    let mut goes = monitor.wait(&ME, request(&["goes"]));
    until(&mut stays, "munge.service is inactive").await;
    until(&mut goes, "munge.service is inactive").await;

    let restarting = std::thread::spawn(move || {
        own.down();
        std::thread::sleep(Duration::from_secs(2));
        own.up();
        own
    });
    // It is random whether a look sees the node end before its engine does. With a restart policy,
    // the node comes back.
    let goes = timeout(PATIENCE, goes.result()).await.unwrap().unwrap();
    assert_eq!(goes.verdict, Verdict::Terminal, "{}", goes.message);
    assert!(goes.message.contains("is exited"), "{}", goes.message);
    let stays = timeout(PATIENCE, stays.result()).await.unwrap().unwrap();
    println!("{}", stays.message);
    assert!(restarting.join().is_ok());
    assert_eq!(stays.verdict, Verdict::Ready, "{}", stays.message);
}

// --- many ----------------------------------------------------------------------------------------

/// One server serves waits that are cancelled, waits that time out, and waits that become ready.
#[tokio::test(flavor = "multi_thread")]
async fn after_ten_thousand_waits_nothing_is_left() {
    const WAITS: usize = 10_000;
    const AT_ONCE: usize = 250;
    let up = Node::start(BOOKWORM, &unique("up"), &[]);
    let down = Node::start(FORKY, &unique("down"), &[]);
    booted(&up);
    booted(&down);
    down.sh("systemctl stop munge");
    let serve = Serve::start(&["--linger", "100ms", "--keep-links", "100ms"]);
    let at_first = (serve.files(), serve.status("Threads"));
    let clients = async |from: usize| {
        let mut client = ReadinessServiceClient::connect(serve.url.clone())
            .await
            .unwrap();
        for at in from..from + WAITS / AT_ONCE {
            let (node, limit) = match at % 3 {
                0 => (&up.0, 30_000),
                1 => (&down.0, 20),
                _ => (&down.0, 30_000),
            };
            let request = WaitReadyRequest {
                nodes: vec![NodeTarget {
                    node: node.clone(),
                    role: 0,
                    profile: 0,
                }],
                timeout: Some(Duration::from_millis(limit).try_into().unwrap()),
                ..WaitReadyRequest::default()
            };
            let mut messages = client.wait_ready(request).await.unwrap().into_inner();
            let first = messages.message().await;
            if at % 3 == 2 {
                // This client goes away.
                drop(messages);
                continue;
            }
            first.unwrap();
            let ended = loop {
                match messages.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(status) => {
                        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
                        break false;
                    }
                }
            };
            assert_eq!(ended, at % 3 == 0);
        }
    };
    let all = (0..AT_ONCE).map(|at| clients(at * WAITS / AT_ONCE));
    futures_util::future::join_all(all).await;
    eventually("all is as at first", || {
        // tokio may keep one more thread for a while.
        serve.files() <= at_first.0 && serve.status("Threads") <= at_first.1 + 1
    });
    for node in [&up, &down] {
        let processes = docker(&["top", &node.0, "-eo", "pid,comm"]);
        assert!(!processes.contains("systemd-stdio-b"), "{processes}");
    }
}
