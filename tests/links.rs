//! The links to real nodes: each link reaches its node and reports its own name, no link leads
//! elsewhere, and a broken link is opened anew.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use readyd::{
    monitor::{
        CHECK_LIMIT, FailurePolicy, LinkChoice, MonitorError, Verdict, WaitEvent, WaitRequest,
    },
    node::Role,
    probe::{Outcome, Probe, Service},
    reason::ReasonCode,
    report::{ProbeReport, ProbeResult},
};
use rstest::rstest;
use support::real::{
    BOOKWORM, Cluster, FORKY, ME, Node, booted, check, docker, eventually, monitor,
    readyd_as_a_user, reason, request, snapshot, stdout, unique,
};

const MS: Duration = Duration::from_millis(1);

fn vias(probes: &[ProbeReport]) -> BTreeSet<&str> {
    let looked = probes.iter().filter(|probe| probe.probe != "container");
    looked.map(|probe| probe.via).collect()
}

/// Returns how many processes of that name run in the node.
fn running(node: &str, name: &str) -> usize {
    let processes = docker(&["top", node, "-eo", "pid,comm"]);
    processes.lines().filter(|line| line.contains(name)).count()
}

/// The name of the node's bridge process, as `ps` cuts it.
const BRIDGE: &str = "systemd-stdio-b";

#[rstest]
#[case::host(LinkChoice::Auto, "host")]
#[case::bridge(LinkChoice::Bridge, "bridge")]
#[case::exec(LinkChoice::Exec, "exec")]
#[tokio::test(flavor = "multi_thread")]
async fn each_way_reaches_every_kind_of_node_and_says_so(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[case] link: LinkChoice,
    #[case] via: &'static str,
) {
    let cluster = Cluster::named(suite, &unique("link")["readyd-".len()..]);
    cluster.up();
    let monitor = monitor(link);
    let names = ["controller", "worker-0"].map(|host| cluster.node(host));
    let all = names.each_ref().map(String::as_str);
    let result = monitor.wait(&ME, request(&all)).result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    let [controller, worker] = all;

    let looked = snapshot(&monitor, worker).await;
    assert!(looked.ready, "{looked:?}");
    assert_eq!(vias(&looked.probes), [via].into());
    assert_eq!(looked.role, Some(Role::Worker));
    for probe in ["systemd", "sshd", "munge", "slurmd"] {
        let report = check(&monitor, worker, probe).await;
        assert_eq!(
            (report.via, reason(&report.result)),
            (via, ""),
            "{report:?}"
        );
    }

    // An older slurmctld can only be queried by scontrol, which runs in the node.
    let rpc = match (suite, via) {
        (BOOKWORM, "host") => "bridge",
        _ => via,
    };
    for _ in 0..2 {
        let looked = snapshot(&monitor, controller).await;
        assert!(looked.services[&Service::SLURMCTLD], "{looked:?}");
        let slurmctld = looked.probes.last().unwrap();
        let expected = if via == "exec" { "exec" } else { rpc };
        assert_eq!(slurmctld.via, expected, "{slurmctld:?}");
    }
    let registered = WaitRequest {
        probes: vec![Probe::named("registered").unwrap()],
        ..request(&[worker])
    };
    let result = monitor.wait(&ME, registered).result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);

    // All links report a failed unit alike, with the end of its journal.
    let sh = |shell: &str| support::real::in_node(worker, shell);
    sh("systemctl stop munge; echo short >/etc/munge/munge.key; systemctl start munge; true");
    let failed = check(&monitor, worker, "munge").await;
    let expected = Outcome::terminal(
        ReasonCode::UnitFailed,
        "munge.service is failed (result: exit-code)",
    );
    assert_eq!(failed.result, ProbeResult::Looked(expected));
    assert!(
        failed
            .evidence
            .detail
            .as_str()
            .contains("munge.service: Failed"),
        "{failed:?}"
    );
    let systemd = check(&monitor, worker, "systemd").await;
    assert_eq!(
        reason(&systemd.result),
        "systemd is degraded: munge.service failed"
    );
    sh("systemctl mask --now slurmd 2>&1");
    let masked = check(&monitor, worker, "slurmd").await;
    assert_eq!(reason(&masked.result), "slurmd.service is masked");
    assert_eq!((failed.via, systemd.via, masked.via), (via, via, via));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn from_outside_a_worker_is_looked_at_without_any_exec(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("quiet"), &["--label", "sind.role=worker"]);
    booted(&node);
    let monitor = monitor(LinkChoice::Host);
    let start = docker(&["info", "--format", "{{.SystemTime}}"]);
    for _ in 0..50 {
        snapshot(&monitor, &node.0).await;
        check(&monitor, &node.0, "sshd").await;
    }
    let end = docker(&["info", "--format", "{{.SystemTime}}"]);
    let container = format!("container={}", node.0);
    let events = |until: &str| {
        docker(&[
            "events", "--since", &start, "--until", until, "--filter", &container,
        ])
    };
    assert_eq!(events(&end), "", "the engine's own events");
    // The engine's events do contain an exec, as this one proves.
    node.sh("true");
    let now = docker(&["info", "--format", "{{.SystemTime}}"]);
    assert!(events(&now).contains("exec_start"));
}

/// A container controls its own paths, so a path that leads out of the container must lead nowhere.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_leads_out_of_the_container_leads_nowhere(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    const BUS: &str = "/run/dbus/system_bus_socket";
    // The engine's own socket has this name on the host and another name in the container.
    let options = ["-v", "/var/run/docker.sock:/host.sock"];
    let node = Node::start(suite, &unique("hostile"), &options);
    booted(&node);
    let looked = async |link| check(&monitor(link), &node.0, "munge").await;
    assert!(looked(LinkChoice::Host).await.result.is_passed());

    let no_socket = format!("the node has no D-Bus yet: there is no {BUS}");
    let outside = "the node has no D-Bus yet: its socket leads out of the container".to_owned();
    for (target, expected) in [
        // These symbolic links lead to paths that exist only on the host.
        ("/var/run/docker.sock", &no_socket),
        ("/var/lib/docker/../../run/docker.sock", &no_socket),
        ("../../../../../../../var/run/docker.sock", &no_socket),
        // This is the host's socket itself, below the container's root. Its peer is not a process
        // of the container.
        ("/host.sock", &outside),
    ] {
        node.sh(&format!("ln -sfn {target} {BUS}"));
        let report = looked(LinkChoice::Host).await;
        assert_eq!(reason(&report.result), expected, "{target}");
        assert!(matches!(
            report.result,
            ProbeResult::Looked(Outcome::Failed(_))
        ));
    }
    // A symbolic link to itself and a name that is too long are errors like others, and so is a
    // path through /proc.
    for target in [
        BUS,
        "/proc/1/root/host.sock",
        &format!("/{}", "x".repeat(3000)),
    ] {
        node.sh(&format!("ln -sfn {target} {BUS}"));
        let report = looked(LinkChoice::Host).await;
        let why = reason(&report.result);
        assert!(why.starts_with("the node has no D-Bus yet: "), "{why}");
    }
    // With `LinkChoice::Auto`, readyd falls back to an exec of systemctl, which needs no bus.
    eventually("it is no longer young", || {
        let since = docker(&["inspect", "-f", "{{.State.StartedAt}}", &node.0]);
        let since = humantime::parse_rfc3339(&since).unwrap();
        since.elapsed().unwrap() > Duration::from_secs(5)
    });
    let report = looked(LinkChoice::Auto).await;
    assert!(report.result.is_passed(), "{report:?}");
    assert_eq!(report.via, "exec");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_never_used_for_another_container_of_its_name(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[values(LinkChoice::Auto, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let name = unique("reused");
    let old = Node::start(suite, &name, &[]);
    booted(&old);
    let monitor = monitor(link);
    assert!(snapshot(&monitor, &name).await.ready);
    // The old container goes on under another name, and is still ready.
    let kept = Node(format!("{name}-old"));
    docker(&["rename", &name, &kept.0]);
    std::mem::forget(old);
    let new = Node::start(suite, &name, &[]);
    booted(&new);
    new.sh("systemctl stop munge");
    let looked = snapshot(&monitor, &name).await;
    assert!(
        !looked.services[&Service::MUNGE] && !looked.ready,
        "{looked:?}"
    );
    assert!(snapshot(&monitor, &kept.0).await.ready);
    // After a restart the container is another run, and munge is back.
    docker(&["restart", "-t", "1", &name]);
    booted(&new);
    eventually("munge is up again", || {
        new.sh("systemctl is-active munge") == "active"
    });
    assert!(snapshot(&monitor, &name).await.services[&Service::MUNGE]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_breaks_is_made_anew(#[values(BOOKWORM, FORKY)] suite: &str) {
    let node = Node::start(suite, &unique("broken"), &["--label", "sind.role=worker"]);
    booted(&node);
    let options = readyd::monitor::Options {
        link: LinkChoice::Bridge,
        keep_links: 1500 * MS,
        ..readyd::monitor::Options::default()
    };
    let monitor = support::real::monitor_with(options);
    for _ in 0..3 {
        let looked = snapshot(&monitor, &node.0).await;
        assert!(looked.services[&Service::MUNGE], "{looked:?}");
        assert_eq!(vias(&looked.probes), ["bridge"].into());
        let sshd = check(&monitor, &node.0, "sshd").await;
        assert!(sshd.result.is_passed(), "{sshd:?}");
        assert_eq!(running(&node.0, BRIDGE), 1, "one for all looks");
        // This kills both the bridge and the node's shell.
        node.sh(&format!(
            "pkill -KILL {BRIDGE}; pkill -KILL -f 'eval ...request'"
        ));
        // More than three connections within 10 s would be too many.
        tokio::time::sleep(4000 * MS).await;
    }
    // The bus itself restarts under the bridge.
    snapshot(&monitor, &node.0).await;
    node.sh("systemctl restart dbus");
    assert!(snapshot(&monitor, &node.0).await.services[&Service::MUNGE]);
    // No client needs the bridge any more.
    eventually("the idle bridge is closed", || {
        running(&node.0, BRIDGE) == 0
    });
}

/// systemd's list of so many failed units is long, and none of them keeps the node from being ready.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn very_many_failed_units_are_named_as_far_as_they_fit(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("failures"), &[]);
    booted(&node);
    node.write(
        "/run/systemd/system/fails@.service",
        "[Service]\nExecStart=/bin/false\n[Unit]\nDescription=A unit that is there to fail, with a \
         description that is long enough to be of some weight\n",
    );
    node.sh("systemctl daemon-reload");
    let fail = |from: usize, to: usize| {
        let units = format!("$(seq -f 'fails@%g.service' {from} {to})");
        node.sh(&format!("systemctl start {units} 2>/dev/null"));
        eventually("they have failed", || {
            let failed = node.sh("systemctl list-units --state=failed --plain --no-legend | wc -l");
            failed.parse::<usize>().unwrap() >= to
        });
    };
    let looked = async |link: LinkChoice| {
        let monitor = monitor(link);
        let report = check(&monitor, &node.0, "systemd").await;
        assert!(report.result.is_passed(), "{link}: {report:?}");
        assert!(snapshot(&monitor, &node.0).await.ready, "{link}");
        reason(&report.result).to_owned()
    };
    fail(1, 700);
    for link in LinkChoice::ALL {
        let named = looked(link).await;
        assert!(
            named.contains("fails@1.service, fails@10.service"),
            "{link}: {named}"
        );
        assert!(named.ends_with(" and more failed"), "{link}: {named}");
        assert!(named.matches("fails@").count() > 30, "{link}: {named}");
    }
    fail(701, 1100);
    for link in LinkChoice::ALL {
        let named = looked(link).await;
        let expected = match link {
            LinkChoice::Exec => named.contains("fails@1.service"),
            _ => named == "systemd is degraded: many units failed",
        };
        assert!(expected, "{link}: {named}");
    }
    // What is of interest is named all the same.
    node.sh("systemctl stop munge; echo short >/etc/munge/munge.key; systemctl start munge; true");
    for link in LinkChoice::ALL {
        let monitor = monitor(link);
        let looked = snapshot(&monitor, &node.0).await;
        let systemd = looked
            .probes
            .iter()
            .find(|report| report.probe == "systemd");
        let named = reason(&systemd.unwrap().result);
        assert!(named.contains("degraded: munge.service"), "{link}: {named}");
    }
}

#[rstest]
fn without_root_the_bridge_is_taken_and_without_a_bridge_an_exec(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("user"), &[]);
    booted(&node);
    let checked = |extra: &[&str]| {
        let output =
            readyd_as_a_user(&[&["check", &node.0, "munge", "--output", "json"], extra].concat());
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let via = said["report"]["via"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (output, via)
    };
    let (output, via) = checked(&[]);
    assert_eq!((output.status.code(), via.as_str()), (Some(0), "bridge"));
    let (output, _) = checked(&["--link", "host"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(
            "looking at the container's process takes root (readyd may take no other way"
        ),
        "{said}"
    );

    node.sh("rm $(command -v systemd-stdio-bridge)");
    let (output, via) = checked(&[]);
    assert_eq!((output.status.code(), via.as_str()), (Some(0), "exec"));
    let (output, _) = checked(&["--link", "bridge"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("the node has no systemd-stdio-bridge"),
        "{said}"
    );
}

/// A script answers at the bus's socket here.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_bus_ends_in_time_and_delays_no_other_node(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("badbus"), &[]);
    let other = Node::start(suite, &unique("goodbus"), &[]);
    booted(&node);
    booted(&other);
    let unit =
        |name: &str, text: &str| node.write(&format!("/run/systemd/system/fake{name}"), text);
    unit(
        ".socket",
        "[Socket]\nListenStream=/run/fake.sock\nAccept=yes\n[Unit]\nDefaultDependencies=no\n",
    );
    unit(
        "@.service",
        "[Service]\nStandardInput=socket\nStandardOutput=socket\nExecStart=/bin/bash /run/fake.sh\n",
    );
    node.sh("systemctl daemon-reload; systemctl start fake.socket; mv /run/dbus/system_bus_socket /run/real; ln -s /run/fake.sock /run/dbus/system_bus_socket");

    let ok = r"printf 'OK 0123456789abcdef0123456789abcdef\r\n'";
    // `long` is the little-endian header of a method return with a body of 100 MiB. `signal` is the
    // header of a signal with a body of about one megabyte, which is sent again and again.
    let long = r"printf 'l\x02\x00\x01\x00\x00\x40\x06\x01\x00\x00\x00\x00\x00\x00\x00'";
    let signal = r"printf 'l\x04\x00\x01\xf0\xff\x0f\x00\x01\x00\x00\x00\x00\x00\x00\x00'";
    for script in [
        "sleep 60".to_owned(),
        "exit 0".to_owned(),
        "echo; echo".to_owned(),
        "yes".to_owned(),
        "cat /dev/urandom".to_owned(),
        "cat /dev/zero".to_owned(),
        r"printf 'REJECTED EXTERNAL\r\n'".to_owned(),
        format!("{ok}; sleep 60"),
        format!("{ok}; exit 0"),
        format!("{ok}; cat /dev/urandom"),
        format!("{ok}; {long}; cat /dev/zero"),
        format!("{ok}; while :; do {signal}; head -c 1048560 /dev/zero; done"),
    ] {
        node.write("/run/fake.sh", &script);
        let monitor = monitor(LinkChoice::Host);
        let start = Instant::now();
        let name = node.0.parse().unwrap();
        let munge = Probe::named("munge").unwrap();
        let hostile = monitor.check(&ME, &name, &munge, None, CHECK_LIMIT);
        let good = async {
            // The snapshots go on while the check of the hostile node may run.
            for _ in 0..5 {
                let start = Instant::now();
                assert!(snapshot(&monitor, &other.0).await.ready);
                let took = start.elapsed();
                assert!(
                    took < Duration::from_secs(4),
                    "{script}: {took:?} for another node"
                );
                tokio::time::sleep(20 * MS).await;
            }
        };
        let (hostile, ()) = tokio::join!(hostile, good);
        let took = start.elapsed();
        assert!(took < Duration::from_secs(8), "{script}: {took:?}");
        let why = match hostile {
            Ok(report) => {
                assert!(!report.result.is_passed(), "{script}: {report:?}");
                reason(&report.result).to_owned()
            }
            Err(error @ MonitorError::CouldNotTell { .. }) => readyd::text::chain(&error),
            Err(error) => panic!("{script}: {error}"),
        };
        println!("{script:.60} ({took:?}): {why}");
        assert!(
            why.contains("D-Bus") || why.contains("systemd has not answered"),
            "{why}"
        );
        assert!(why.len() < 400 && !why.contains(char::is_control), "{why}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_of_noise_is_told_clean(
    #[values(BOOKWORM, FORKY)] suite: &str,
    #[values(LinkChoice::Host, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let node = Node::start(suite, &unique("noise"), &[]);
    booted(&node);
    let noise = "[Service]\nType=oneshot\nExecStart=/bin/sh -c \"head -c 300000 /dev/urandom; \
        printf '\\\\033[31mred\\\\033[0m\\\\n'; exit 1\"\n";
    node.write("/run/systemd/system/munge.service", noise);
    node.sh("rm /etc/systemd/system/multi-user.target.wants/munge.service; systemctl stop munge; mount --bind /run/systemd/system/munge.service /lib/systemd/system/munge.service; systemctl daemon-reload; systemctl restart munge; true");
    let report = check(&monitor(link), &node.0, "munge").await;
    let expected = Outcome::terminal(
        ReasonCode::UnitFailed,
        "munge.service is failed (result: exit-code)",
    );
    assert_eq!(
        report.result,
        ProbeResult::Looked(expected),
        "{}",
        report.evidence.detail.as_str()
    );
    let detail = report.evidence.detail.as_str();
    assert!(!detail.is_empty() && detail.len() <= 8192);
    let hostile = |c: char| c.is_control() && c != '\n';
    assert!(!detail.contains(hostile), "{detail:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_a_shared_network_proves_nothing(
    #[values(LinkChoice::Host, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let owner = Node::start(BOOKWORM, &unique("owner"), &[]);
    let network = format!("container:{}", owner.0);
    // The guest's own sshd finds the port taken, and the owner's sshd answers there.
    let guest = Node::start(BOOKWORM, &unique("guest"), &["--network", &network]);
    let on_host = Node(unique("onhost"));
    let image = format!("readyd-test/node:{BOOKWORM}");
    docker(&[
        "run",
        "-d",
        "--name",
        &on_host.0,
        "--label",
        "readyd.test=node",
        "--network",
        "host",
        &image,
        "sleep",
        "60",
    ]);
    support::real::tally(&on_host.0);
    booted(&owner);
    booted(&guest);
    let monitor = monitor(link);
    assert!(check(&monitor, &owner.0, "sshd").await.result.is_passed());
    let why = |node: &str, whose: &str| {
        format!("container {node} uses {whose}: what answers at port 22 there may be another's")
    };
    let report = check(&monitor, &guest.0, "sshd").await;
    let why_guest = why(&guest.0, "the network of container ");
    let said = reason(&report.result);
    assert!(
        said.starts_with(why_guest.split(": ").next().unwrap()),
        "{said}"
    );
    assert!(
        said.ends_with("what answers at port 22 there may be another's"),
        "{said}"
    );
    let report = check(&monitor, &on_host.0, "sshd").await;
    let expected = why(&on_host.0, "the network of the engine's machine");
    assert_eq!(
        report.result,
        ProbeResult::Looked(Outcome::failed(ReasonCode::Unproven, expected))
    );

    // A wait reports the same reason.
    let request = WaitRequest {
        probes: vec![Probe::named("sshd").unwrap()],
        ..request(&[&on_host.0])
    };
    let mut wait = monitor.wait(&ME, request);
    let mut said = Vec::new();
    while let Some(WaitEvent::Node(report)) = wait.next().await {
        let why = report
            .failing()
            .map(|report| reason(&report.result).to_owned());
        said.extend(why);
        if said
            .last()
            .is_some_and(|why| why.contains("the network of the engine's machine"))
        {
            return;
        }
    }
    panic!("it never said it: {said:?}");
}

/// The command line uses the link that `--link` names, and refuses a name that is not a link.
#[test]
fn the_command_line_takes_the_way_that_it_is_told() {
    let node = Node::start(BOOKWORM, &unique("way"), &[]);
    booted(&node);
    for link in ["host", "bridge", "exec"] {
        let arguments = ["snapshot", &node.0, "--link", link, "--output", "json"];
        let said = stdout(&support::real::readyd(&arguments));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["probes"][1]["via"], link);
        assert_eq!(said["ready"], true);
    }
    let wrong = support::real::readyd(&["snapshot", &node.0, "--link", "ssh"]);
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        said.contains("it should be auto, host, bridge or exec"),
        "{said}"
    );
}

/// Without a bus, or with one that hangs, systemctl still tells what systemd says.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_bus_is_missing_or_hangs_is_asked_by_systemctl(
    #[values(BOOKWORM, FORKY)] suite: &str,
) {
    let node = Node::start(suite, &unique("nobus"), &[]);
    booted(&node);
    // Until a container is some seconds old, whatever it lacks may still come.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let munge = async |link| check(&monitor(link), &node.0, "munge").await;
    let bus = "$(ls /lib/systemd/system | grep -E '^dbus(-broker)?.service$')";
    node.sh(&format!(
        "systemctl kill --kill-whom=main -s STOP {bus} || true"
    ));
    let report = munge(LinkChoice::Auto).await;
    assert!(
        report.result.is_passed() && report.via == "exec",
        "{report:?}"
    );
    let report = munge(LinkChoice::Host).await;
    assert_eq!(
        report.result.code(),
        Some(ReasonCode::NoAnswer),
        "{report:?}"
    );

    node.sh(&format!(
        "systemctl kill --kill-whom=main -s CONT {bus} || true
         systemctl mask dbus.socket {bus}; systemctl stop dbus.socket {bus}"
    ));
    for link in [LinkChoice::Auto, LinkChoice::Exec] {
        let report = munge(link).await;
        assert!(
            report.result.is_passed() && report.via == "exec",
            "{report:?}"
        );
    }
    for link in [LinkChoice::Host, LinkChoice::Bridge] {
        let report = munge(link).await;
        assert_eq!(
            report.result.code(),
            Some(ReasonCode::BusUnavailable),
            "{report:?}"
        );
    }
}

/// A bus that ends again and again is not started so often by readyd's own looks that systemd gives it up.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn looks_do_not_start_a_bus_too_often(#[values(BOOKWORM, FORKY)] suite: &str) {
    let node = Node::start(suite, &unique("busends"), &[]);
    booted(&node);
    let waiting = monitor(LinkChoice::Auto);
    let mut request = request(&[&node.0]);
    request.probes = vec![Probe::named("slurmd").unwrap()];
    request.failure_policy = FailurePolicy::KeepWaiting;
    let wait = waiting.wait(&ME, request);
    for _ in 0..10 {
        node.sh("systemctl stop dbus.service 2>/dev/null");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ended = node.sh("systemctl show -p Result --value dbus.service dbus.socket");
    assert!(!ended.contains("limit"), "{ended}");
    drop(wait);
    let report = check(&waiting, &node.0, "munge").await;
    assert!(report.result.is_passed(), "{report:?}");
}
