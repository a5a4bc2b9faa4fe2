//! Nodes without systemd: Slurm's daemons as plain processes, each in a container whose entry script waits
//! for the others, as most clusters in Docker run them.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    time::{Duration, Instant},
};

use readyd::{
    monitor::{LinkChoice, NodeState, Options, Verdict, WaitEvent, WaitRequest},
    node::{Part, Profile, Role},
    probe::{Probe, Service},
    reason::ReasonCode,
};
use rstest::rstest;
use support::real::{
    BOOKWORM, FORKY, ME, Node, check, docker, each_link_says, eventually, in_node, monitor,
    monitor_with, reason, request, run, script, slurmdbd_conf, snapshot, tally, unique,
};

/// Starts munged as a package of munge does.
const MUNGE: &str = "install -d -o munge -g munge /run/munge; runuser -u munge -- munged; ";

/// Waits for the controller as the well-known entry scripts do.
const AFTER_CONTROLLER: &str =
    "until bash -c '</dev/tcp/controller/6817' 2>/dev/null; do sleep 0.1; done; ";

/// A network of the test's own, which is removed when this is dropped.
struct Network(String);

impl Network {
    fn create() -> Self {
        let name = unique("process");
        docker(&["network", "create", "--label", "readyd.test=network", &name]);
        Self(name)
    }

    /// Makes a node in which this script is the first process.
    fn node(&self, suite: &str, host: &str, labels: &[&str], entry: &str) -> Node {
        self.node_of("node", suite, host, labels, entry)
    }

    /// Makes the same from the image of that kind.
    fn node_of(&self, kind: &str, suite: &str, host: &str, labels: &[&str], entry: &str) -> Node {
        run(Command::new(script("cluster"))
            .envs([("READYD_SUITE", suite), ("READYD_IMAGE", kind)])
            .arg("image"));
        let node = Node(format!("{}-{host}", self.0));
        let image = format!("readyd-test/{kind}:{suite}");
        let mut create = Command::new("docker");
        create.args(["create", "--name", &node.0, "--hostname", host]);
        create.args(["--network", &self.0, "--network-alias", host]);
        create.args(["--label", "readyd.test=node"]);
        for label in labels {
            create.args(["--label", label]);
        }
        run(create.args([&image, "sh", "-c", entry]));
        let mut conf = tempfile::NamedTempFile::new().unwrap();
        conf.write_all(CONF.as_bytes()).unwrap();
        // Slurm's own user has to be able to read it.
        let readable = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(conf.path(), readable).unwrap();
        let path = conf.path().to_str().unwrap();
        docker(&["cp", path, &format!("{}:/etc/slurm/slurm.conf", node.0)]);
        node
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("docker")
            .args(["network", "rm", &self.0])
            .output();
    }
}

fn start(node: &Node) {
    docker(&["start", &node.0]);
    tally(&node.0);
}

const CONF: &str = "ClusterName=process\nSlurmctldHost=controller\nSlurmUser=slurm\n\
    AuthType=auth/munge\nStateSaveLocation=/var/lib/slurm/slurmctld\n\
    SlurmdSpoolDir=/var/lib/slurm/slurmd\nSlurmctldPidFile=/run/slurmctld.pid\n\
    SlurmdPidFile=/run/slurmd.pid\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n\
    ReturnToService=2\nNodeName=worker-[0-1] CPUs=1 State=UNKNOWN\n\
    PartitionName=all Nodes=ALL Default=YES State=UP\n";

const PROCESS: &str = "readyd.profile=process";

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_plain_processes_becomes_ready(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values(LinkChoice::Auto, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let network = Network::create();
    let worker = format!("{MUNGE}{AFTER_CONTROLLER}exec slurmd -D");
    let nodes = [
        (
            "controller",
            "sind.role=controller",
            format!("{MUNGE}until [ -e /go ]; do sleep 0.1; done; exec slurmctld -D"),
        ),
        ("worker-0", "sind.role=worker", worker.clone()),
        ("worker-1", "sind.role=worker", worker),
    ]
    .map(|(host, role, entry)| network.node(suite, host, &[role, PROCESS], &entry));
    let names = nodes.each_ref().map(|node| node.0.as_str());
    let monitor = monitor(link);
    let mut wait = monitor.wait(&ME, request(&names));
    nodes.iter().for_each(start);
    // A worker waits for the controller, and says so; the controller starts only once it has.
    let mut told = false;
    let result = loop {
        match wait.next().await.unwrap() {
            WaitEvent::Node(report) => {
                if let NodeState::Waiting(why) = &report.state
                    && why.as_str() == "slurmd: no process of slurmd runs"
                    && !told
                {
                    told = true;
                    in_node(names[0], "touch /go");
                }
            }
            WaitEvent::Result(result) => break result,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    assert!(told);
    for (node, service) in names
        .iter()
        .zip([Service::SLURMCTLD, Service::SLURMD, Service::SLURMD])
    {
        let looked = snapshot(&monitor, node).await;
        assert!(looked.ready, "{looked:?}");
        let services: Vec<_> = looked.services.keys().copied().collect();
        assert_eq!(services, [Service::MUNGE, service]);
        let probes: Vec<_> = looked
            .probes
            .iter()
            .map(|report| &report.probe[..])
            .collect();
        assert_eq!(probes, ["container", "munge", service.as_str()]);
    }
    let registered = WaitRequest {
        probes: vec![Probe::named("registered").unwrap()],
        ..request(&names[1..])
    };
    let result = monitor.wait(&ME, registered).result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    assert_eq!(
        in_node(names[1], "srun -N2 hostname | sort"),
        "worker-0\nworker-1"
    );
}

/// A daemon that dies under its entry script is missed, and so is one whose socket has gone.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_missing_is_named(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values(LinkChoice::Host, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let network = Network::create();
    let labels = ["sind.role=worker", PROCESS];
    let node = network.node(suite, "worker-0", &labels, "sleep infinity");
    start(&node);
    let monitor = monitor(link);
    let says = async |probe: &str, code: Option<ReasonCode>, contains: &str| {
        let report = check(&monitor, &node.0, probe).await;
        println!("{report:?}");
        assert_eq!(report.result.code(), code, "{report:?}");
        assert!(reason(&report.result).contains(contains), "{report:?}");
    };
    let missing = Some(ReasonCode::ProcessMissing);
    says("munge", missing, "no process of munged runs").await;
    says("slurmd", missing, "no process of slurmd runs").await;
    says("slurmctld", missing, "no process of slurmctld runs").await;
    says("sackd", missing, "no process of sackd runs").await;
    says(
        "systemd",
        Some(ReasonCode::ProfileInvalid),
        "profile process has no probe systemd",
    )
    .await;
    says(
        "sshd",
        Some(ReasonCode::ProfileInvalid),
        "profile process has no probe sshd",
    )
    .await;
    says("healthcheck", None, "no health check").await;
    let looked = snapshot(&monitor, &node.0).await;
    assert!(
        !looked.ready && !looked.services[&Service::MUNGE] && !looked.services[&Service::SLURMD]
    );

    node.sh("sed -i 's#^AuthType=.*#AuthType=auth/slurm#' /etc/slurm/slurm.conf");
    says("munge", None, "AuthType=auth/slurm").await;
    node.sh(MUNGE);
    says("munge", None, "").await;
    // It runs, and listens nowhere.
    node.sh(
        "cp /bin/sleep /usr/local/sbin/slurmd; /usr/local/sbin/slurmd infinity >/dev/null 2>&1 &",
    );
    says(
        "slurmd",
        Some(ReasonCode::Unproven),
        "does not listen on a TCP port",
    )
    .await;
}

/// From outside, the end of a daemon is told, and nobody has to look for it.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_daemon_is_noticed_at_once(#[values(BOOKWORM, FORKY)] suite: &'static str) {
    let network = Network::create();
    let entry = format!("{MUNGE}sh -c 'while :; do sleep 1; done'");
    let node = network.node(suite, "plain", &[PROCESS], &entry);
    start(&node);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let long = WaitRequest {
        probes: vec![Probe::named("munge").unwrap()],
        poll_interval: minutes(1),
        stable_for: minutes(5),
        limit: Some(minutes(10)),
        ..request(&[&node.0])
    };
    let monitor = monitor(LinkChoice::Host);
    let mut wait = monitor.wait(&ME, long);
    let mut killed = None;
    let noticed = loop {
        let WaitEvent::Node(report) = wait.next().await.unwrap() else {
            panic!("the wait has ended");
        };
        let munge = &report.probes[0].result;
        if munge.is_passed() && killed.is_none() {
            in_node(&node.0, "pkill -KILL munged");
            killed = Some(Instant::now());
        } else if let Some(killed) = killed {
            assert_eq!(munge.code(), Some(ReasonCode::ProcessMissing), "{report:?}");
            break killed.elapsed();
        }
    };
    // It would be looked for again after a minute.
    assert!(noticed < Duration::from_secs(20), "{noticed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_asked_for_and_never_guessed() {
    let network = Network::create();
    let node = network.node(BOOKWORM, "plain", &["sind.role=worker"], "sleep infinity");
    let odd = network.node(
        BOOKWORM,
        "odd",
        &["readyd.profile=docker"],
        "sleep infinity",
    );
    start(&node);
    start(&odd);
    let name = node.0.parse().unwrap();
    for link in [LinkChoice::Auto, LinkChoice::Host] {
        let report = check(&monitor(link), &node.0, "systemd").await;
        assert_eq!(
            report.result.code(),
            Some(ReasonCode::ProfileInvalid),
            "{report:?}"
        );
        let said = reason(&report.result);
        assert!(
            said.contains("first process is dash, not systemd")
                && said.contains("--profile process"),
            "{said}"
        );
    }
    // The request goes before the label.
    let monitor = monitor(LinkChoice::Auto);
    let part = Part {
        role: Some(Role::Controller),
        profile: Some(Profile::Process),
    };
    let looked = monitor.snapshot(&ME, &name, part).await.unwrap();
    let services: Vec<_> = looked.services.keys().copied().collect();
    assert_eq!(services, [Service::MUNGE, Service::SLURMCTLD]);

    let report = check(&monitor, &odd.0, "container").await;
    assert_eq!(
        report.result.code(),
        Some(ReasonCode::ProfileInvalid),
        "{report:?}"
    );
    let said = reason(&report.result);
    assert!(
        said.contains("readyd.profile=docker, which is not a profile"),
        "{said}"
    );
}

/// A database in a container of its own, as the well-known clusters have it.
const MYSQL: &str = "install -d -o mysql -g mysql /run/mysqld /var/lib/mysql
    mariadb-install-db --user=mysql >/dev/null 2>&1
    printf '%s\n' \"CREATE USER slurm@'%' IDENTIFIED BY 'secret';\" \
      \"GRANT ALL ON *.* TO slurm@'%';\" >/init.sql
    exec mariadbd --user=mysql --bind-address=0.0.0.0 --init-file=/init.sql";

/// Starts munged, and writes slurmdbd's configuration.
fn before_slurmdbd(host: &str, storage: &str) -> String {
    let conf = slurmdbd_conf(host, storage);
    format!(
        "{MUNGE}echo '{conf}' >/etc/slurm/slurmdbd.conf
         chown slurm /etc/slurm/slurmdbd.conf; chmod 600 /etc/slurm/slurmdbd.conf; "
    )
}

/// Slurm with accounting: each daemon in a container of its own, whose entry script waits for the one that it
/// depends on. Forky's slurmdbd gives up at the database of the same suite.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_plain_processes_with_accounting_becomes_ready(
    #[values(BOOKWORM)] suite: &'static str,
    #[values(LinkChoice::Auto, LinkChoice::Bridge, LinkChoice::Exec)] link: LinkChoice,
) {
    let network = Network::create();
    let accounting = "printf '%s\n' AccountingStorageType=accounting_storage/slurmdbd \
                      AccountingStorageHost=slurmdbd >>/etc/slurm/slurm.conf; ";
    let controller = format!(
        "{accounting}{MUNGE}until bash -c '</dev/tcp/slurmdbd/6819' 2>/dev/null; do sleep 0.1; done
         exec slurmctld -D"
    );
    let worker = format!("{accounting}{MUNGE}{AFTER_CONTROLLER}exec slurmd -D");
    let mysql = network.node_of("db", suite, "mysql", &["sind.role=db", PROCESS], MYSQL);
    let slurmdbd = format!(
        "{}until bash -c '</dev/tcp/mysql/3306' 2>/dev/null; do sleep 0.1; done; exec slurmdbd -D",
        before_slurmdbd("slurmdbd", "mysql")
    );
    let nodes = [
        ("slurmdbd", "sind.role=db", slurmdbd),
        ("controller", "sind.role=controller", controller),
        ("worker-0", "sind.role=worker", worker.clone()),
        ("worker-1", "sind.role=worker", worker),
    ]
    .map(|(host, role, entry)| network.node_of("db", suite, host, &[role, PROCESS], &entry));
    let names = nodes.each_ref().map(|node| node.0.as_str());
    let monitor = monitor(link);
    let wait = monitor.wait(&ME, request(&names));
    nodes.iter().for_each(start);
    // The database is on another machine, and slurmdbd has to wait for it.
    eventually("slurmdbd's script runs", || {
        in_node(names[0], "ls /etc/slurm").contains("slurmdbd.conf")
    });
    let report = check(&monitor, names[0], "mariadb").await;
    assert!(report.result.is_passed(), "{report:?}");
    assert!(
        reason(&report.result).contains("StorageHost=mysql"),
        "{report:?}"
    );
    let report = check(&monitor, names[0], "slurmdbd").await;
    assert_eq!(
        report.result.code(),
        Some(ReasonCode::ProcessMissing),
        "{report:?}"
    );
    start(&mysql);
    let result = wait.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    let mut named = request(&[&mysql.0]);
    named.probes = vec![Probe::named("mariadb").unwrap()];
    let result = monitor.wait(&ME, named).result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    let report = check(&monitor, names[3], "registered").await;
    assert!(report.result.is_passed(), "{report:?}");
}

/// Where the sockets of a process that has changed its user cannot be seen, those of its user are its own only
/// if nobody else is that user.
#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_of_another_daemon_of_the_same_user_do_not_count() {
    let network = Network::create();
    let entry = before_slurmdbd("localhost", "localhost") + "slurmctld; exec slurmdbd -D";
    let node = network.node_of(
        "db",
        BOOKWORM,
        "controller",
        &["sind.role=db", PROCESS],
        &entry,
    );
    start(&node);
    eventually("slurmctld listens", || {
        in_node(&node.0, "grep -c ':1AA1 .* 0A ' /proc/net/tcp || true") == "1"
    });
    let monitors = [LinkChoice::Host, LinkChoice::Bridge, LinkChoice::Exec].map(monitor);
    let unproven = Some(ReasonCode::Unproven);
    let unseen = "lacks the capability SYS_PTRACE";
    each_link_says(&monitors[1..], &node.0, "slurmdbd", unproven, unseen).await;
    // Its parent, the container's first process, does not notice its end.
    in_node(&node.0, "pkill -KILL slurmctld");
    eventually("slurmctld has ended", || {
        in_node(&node.0, "grep -c ':1AA1 .* 0A ' /proc/net/tcp || true") == "0"
    });
    let report = check(&monitor(LinkChoice::Auto), &node.0, "slurmctld").await;
    assert_eq!(
        report.result.code(),
        Some(ReasonCode::ProcessMissing),
        "{report:?}"
    );
    each_link_says(&monitors, &node.0, "slurmdbd", unproven, "does not listen").await;
    // Whoever may only act as that user has sockets of that user, too.
    in_node(
        &node.0,
        "setpriv --euid slurm --keep-groups systemd-socket-activate --accept --listen=7009 cat \
           >/dev/null 2>&1 &
         for _ in $(seq 100); do grep -q ':1B61 .* 0A ' /proc/net/tcp6 && break; sleep 0.1; done
         grep ':1B61 .* 0A ' /proc/net/tcp6",
    );
    each_link_says(&monitors[1..], &node.0, "slurmdbd", unproven, unseen).await;
}

/// What a container wrote to its own log before it ended is shown, unless such text is kept from clients.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_container_that_has_ended_are_told() {
    let network = Network::create();
    let entry = "for n in $(seq 30); do echo line $n; done; sleep 1; printf 'the \\033[31mcause\\n' >&2; exit 3";
    let node = network.node(BOOKWORM, "ends", &[PROCESS], entry);
    let waiting = monitor(LinkChoice::Auto);
    let wait = waiting.wait(&ME, request(&[&node.0]));
    start(&node);
    let result = wait.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);
    let detail = result.nodes[0].probes[0].evidence.detail.as_str();
    assert!(
        detail.starts_with("line 12\n") && detail.ends_with("line 30\nthe [31mcause"),
        "{detail:?}"
    );
    assert!(result.nodes[0].probes[1].evidence.detail.is_empty());
    let looked = snapshot(&waiting, &node.0).await;
    assert!(looked.probes[0].evidence.detail.as_str().contains("cause"));

    let silent = monitor_with(Options {
        journal: false,
        ..Options::default()
    });
    let looked = snapshot(&silent, &node.0).await;
    assert!(!looked.ready && looked.probes[0].evidence.detail.is_empty());
}

/// The command line says the profile, for itself and for a server.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_takes_a_profile() {
    use support::real::{Serve, readyd, stdout};
    let network = Network::create();
    let node = network.node(BOOKWORM, "plain", &["sind.role=worker"], "sleep infinity");
    start(&node);
    let server = Serve::start(&["--profile", "process"]);
    for arguments in [
        &["--profile", "process"][..],
        &["--server", &server.url],
        &["--server", &server.url, "--profile", "process"],
    ] {
        let all = [&["snapshot", &node.0][..], arguments].concat();
        let said = stdout(&readyd(&all));
        assert!(
            said.contains("no process of munged runs") && !said.contains("sshd"),
            "{said}"
        );
    }
    let all = [
        "snapshot",
        &node.0,
        "--server",
        &server.url,
        "--profile",
        "systemd",
    ];
    assert!(stdout(&readyd(&all)).contains("sshd"));
}
