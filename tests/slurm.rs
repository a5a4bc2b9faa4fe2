//! Slurm as people set it up: under other names and prefixes, started by hand, without a configuration,
//! with other keys; asked on every link.

// A test's helpers may make it fail, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use readyd::{
    monitor::{FailurePolicy, LinkChoice, Monitor, NodeState, Verdict, WaitEvent, WaitRequest},
    probe::{Probe, Service},
    reason::ReasonCode,
    report::ProbeReport,
};
use rstest::rstest;
use support::real::{
    BOOKWORM, Cluster, FORKY, ME, Node, booted, check, docker, each_link_says, in_node, monitor,
    reason, request, slurmdbd_conf, snapshot, unique,
};

const LINKS: [LinkChoice; 3] = [LinkChoice::Host, LinkChoice::Bridge, LinkChoice::Exec];

/// Asks the probe on every link, until all say so.
async fn every_link_says(
    monitors: &[Monitor],
    node: &str,
    probe: &str,
    says: impl Fn(&ProbeReport) -> bool,
) -> ProbeReport {
    let mut last = None;
    for monitor in monitors {
        let start = std::time::Instant::now();
        loop {
            let report = check(monitor, node, probe).await;
            if says(&report) {
                println!("{node} {probe}: {report:?}");
                last = Some(report);
                break;
            }
            assert!(start.elapsed().as_secs() < 90, "{report:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    last.unwrap()
}

fn monitors() -> Vec<Monitor> {
    LINKS.into_iter().map(monitor).collect()
}

async fn ready_cluster(suite: &'static str) -> Cluster {
    let cluster = Cluster::named(suite, &unique("slurm")["readyd-".len()..]);
    cluster.up();
    let names = Cluster::HOSTS.map(|host| cluster.node(host));
    let all = names.each_ref().map(String::as_str);
    let waiting = monitor(LinkChoice::Auto);
    let result = waiting.wait(&ME, request(&all)).result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    cluster
}

/// Makes a program that does nothing and has that name.
fn idle_program(node: &str, path: &str) {
    in_node(node, &format!("cp /bin/sleep {path}"));
}

/// Makes a program that listens where its option `--listen` says, and has that name.
fn listening_program(node: &str, path: &str) {
    in_node(
        node,
        &format!("cp $(command -v systemd-socket-activate) {path}"),
    );
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_registered_as_its_record_says(#[values(BOOKWORM, FORKY)] suite: &'static str) {
    let monitors = monitors();
    let cluster = ready_cluster(suite).await;
    let [worker, controller] = ["worker-0", "controller"].map(|host| cluster.node(host));
    let update = |what: &str| {
        in_node(
            &controller,
            &format!("scontrol update nodename=worker-0 {what} 2>&1"),
        )
    };
    let passed = |report: &ProbeReport| report.result.is_passed();
    let registered = every_link_says(&monitors, &worker, "registered", passed).await;
    let state = registered.evidence.slurm_state.unwrap();
    assert_eq!(state.as_str(), "IDLE");

    update("state=drain reason='to be mended'");
    each_link_says(
        &monitors,
        &worker,
        "registered",
        None,
        "IDLE+DRAIN (its reason: to be mended)",
    )
    .await;
    update("state=down reason='broken [x@y] it=is'");
    let unusable = Some(ReasonCode::NodeUnusable);
    each_link_says(
        &monitors,
        &worker,
        "registered",
        unusable,
        "its reason: broken",
    )
    .await;
    update("state=resume");
    every_link_says(&monitors, &worker, "registered", passed).await;
    let maintenance = "scontrol create reservation reservationname=m nodes=worker-0 starttime=now \
                       duration=5 flags=maint user=root 2>&1";
    in_node(&controller, maintenance);
    every_link_says(&monitors, &worker, "registered", |report| {
        passed(report) && reason(&report.result).contains("MAINT")
    })
    .await;
    in_node(&controller, "scontrol delete reservationname=m");
    in_node(&controller, "scontrol update partitionname=all nodes= 2>&1");
    every_link_says(&monitors, &worker, "registered", |report| {
        passed(report) && reason(&report.result).is_empty()
    })
    .await;

    // The controller still has it as IDLE, by the slurmd that ran before.
    in_node(&worker, "systemctl stop slurmd");
    let missing = Some(ReasonCode::ProcessMissing);
    each_link_says(
        &monitors,
        &worker,
        "registered",
        missing,
        "no process of slurmd",
    )
    .await;
    idle_program(&worker, "/usr/local/sbin/slurmd");
    in_node(
        &worker,
        "sleep 1.1; /usr/local/sbin/slurmd infinity >/dev/null 2>&1 &",
    );
    let stale = Some(ReasonCode::NotRegistered);
    each_link_says(
        &monitors,
        &worker,
        "registered",
        stale,
        "has not registered yet",
    )
    .await;
    in_node(&worker, "kill $(pidof slurmd); systemctl start slurmd");
    every_link_says(&monitors, &worker, "registered", passed).await;

    in_node(
        &worker,
        "dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1; systemctl restart munge",
    );
    let refused = Some(ReasonCode::AuthFailed);
    each_link_says(
        &monitors,
        &worker,
        "registered",
        refused,
        "keys and the clocks",
    )
    .await;
}

/// Nodes have other names than their hosts: given by slurmd's -N, or by `NodeHostName`.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_have_another_name_than_its_host(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let monitors = monitors();
    let cluster = ready_cluster(suite).await;
    let hosts = ["controller", "worker-0", "worker-1", "submitter"].map(|host| cluster.node(host));
    for node in &hosts {
        in_node(
            node,
            "sed -i 's/^NodeName=.*/NodeName=n0 NodeHostName=worker-0 NodeAddr=worker-0\\n\
             NodeName=worker-1.hpc.example NodeAddr=worker-1\\n\
             NodeName=spare NodeHostName=elsewhere NodeAddr=worker-1 Port=7000/' /etc/slurm/slurm.conf",
        );
    }
    in_node(
        &hosts[0],
        "systemctl stop slurmctld; rm -rf /var/lib/slurm/slurmctld/*; systemctl start slurmctld",
    );
    in_node(&hosts[2], "hostname worker-1.hpc.example");
    for node in &hosts[1..3] {
        in_node(node, "systemctl restart slurmd");
    }
    let passed = |report: &ProbeReport| report.result.is_passed();
    for node in &hosts[1..3] {
        every_link_says(&monitors, node, "registered", passed).await;
    }
    in_node(
        &hosts[2],
        "echo SLURMD_OPTIONS=-N spare >/etc/default/slurmd; systemctl restart slurmd",
    );
    in_node(
        &hosts[0],
        "scontrol update nodename=worker-1.hpc.example state=down reason=gone",
    );
    every_link_says(&monitors, &hosts[2], "registered", passed).await;
}

/// Slurm under a prefix of its own, with its configuration elsewhere, where only the daemon's unit says so,
/// or a script that the unit runs first and that is called like the daemon.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn slurm_may_be_under_a_prefix_of_its_own(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values(
        "Environment=SLURM_CONF=/opt/slurm/etc/slurm.conf",
        "-f /opt/slurm/etc/slurm.conf",
        "script"
    )]
    configuration: &str,
) {
    let monitors = monitors();
    let cluster = ready_cluster(suite).await;
    for (host, daemon, probe) in [
        ("controller", "slurmctld", "slurmctld"),
        ("worker-0", "slurmd", "registered"),
    ] {
        let node = cluster.node(host);
        let (environment, option) = match configuration {
            "script" => ("", ""),
            option if option.starts_with("-f ") => ("", option),
            environment => (environment, ""),
        };
        // Only the unit knows.
        in_node(
            &node,
            &format!(
                "mkdir -p /opt/slurm/bin /opt/slurm/sbin /opt/slurm/etc
                 mv /usr/bin/scontrol /usr/bin/sinfo /opt/slurm/bin/
                 cp /usr/sbin/{daemon} /opt/slurm/sbin/
                 mv /etc/slurm/*.conf /opt/slurm/etc/
                 sed 's#^ExecStart=.*#& {option}#; s#^ExecStart=/usr#{environment}\\nExecStart=/opt/slurm#; \
                      /^ConditionPathExists/d' /lib/systemd/system/{daemon}.service \
                   >/etc/systemd/system/{daemon}.service"
            ),
        );
        if configuration == "script" {
            in_node(
                &node,
                &format!(
                    "mkdir -p /opt/scripts
                     printf '%s\n' '#!/bin/sh' 'sleep 1' 'export SLURM_CONF=/opt/slurm/etc/slurm.conf' \
                       'exec /opt/slurm/sbin/{daemon} -D' >/opt/scripts/{daemon}
                     chmod +x /opt/scripts/{daemon}
                     printf '[Service]\nType=simple\nExecStart=/opt/scripts/{daemon}\n' \
                       >/etc/systemd/system/{daemon}.service"
                ),
            );
        }
        in_node(
            &node,
            &format!("systemctl daemon-reload; systemctl restart {daemon}"),
        );
        let passed = |report: &ProbeReport| report.result.is_passed();
        every_link_says(&monitors, &node, probe, passed).await;
    }
    // Where there is none at all, what was searched is said.
    let controller = cluster.node("controller");
    in_node(
        &controller,
        "rm /opt/slurm/bin/scontrol; systemctl restart slurmctld",
    );
    if suite == BOOKWORM && configuration != "script" {
        each_link_says(
            &monitors,
            &controller,
            "slurmctld",
            Some(ReasonCode::CommandFailed),
            "it was looked for in /opt/slurm/sbin:/opt/slurm/bin:",
        )
        .await;
    }
}

/// A package of another kind gives units other names, and the daemons run all the same.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn daemons_may_run_in_units_of_other_names(#[values(BOOKWORM, FORKY)] suite: &'static str) {
    let monitors = monitors();
    let cluster = ready_cluster(suite).await;
    for (host, daemon, says) in [
        ("controller", "slurmctld", ""),
        (
            "worker-0",
            "slurmd",
            " of snap.slurm.slurmd.service), though slurmd.service ",
        ),
    ] {
        let node = cluster.node(host);
        in_node(
            &node,
            &format!(
                "systemctl stop {daemon}
                 sed '/^Alias=/d' /lib/systemd/system/{daemon}.service \
                   >/etc/systemd/system/snap.slurm.{daemon}.service
                 rm -rf /lib/systemd/system/{daemon}.service /etc/systemd/system/{daemon}.service*
                 systemctl daemon-reload; systemctl start snap.slurm.{daemon}"
            ),
        );
        let passed = |report: &ProbeReport| {
            report.result.is_passed() && reason(&report.result).contains(says)
        };
        every_link_says(&monitors, &node, daemon, passed).await;
    }
}

/// Daemons that are active and do not listen, and ones that listen though their unit is down.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_passes_once_its_own_process_listens(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values("slurmd", "slurmdbd", "slurmrestd")] daemon: &str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("listens"), &[]);
    booted(&node);
    let unit = |program: &str| {
        node.sh(&format!(
            "systemctl stop {daemon}.service
             printf '[Service]\\nExecStart={program}\\n' >/etc/systemd/system/{daemon}.service
             rm -rf /etc/systemd/system/{daemon}.service.d
             systemctl daemon-reload; systemctl start {daemon}.service; sleep 0.3
             pid=$(systemctl show -p MainPID --value {daemon}.service)
             until case $(cat /proc/$pid/comm) in \"(\"*|systemd*) false ;; esac; do sleep 0.05; done"
        ));
    };
    let own = format!("/usr/local/sbin/{daemon}");
    idle_program(&node.0, &own);
    unit(&format!("{own} infinity"));
    let unproven = Some(ReasonCode::Unproven);
    each_link_says(&monitors, &node.0, daemon, unproven, "does not listen").await;

    // Another process that listens does not count, a child of the same name does.
    listening_program(&node.0, "/usr/local/sbin/other");
    unit(&format!(
        "/bin/sh -c \"/usr/local/sbin/other --accept --listen=7001 cat & exec {own} infinity\""
    ));
    each_link_says(&monitors, &node.0, daemon, unproven, "does not listen").await;
    node.sh(&format!("systemctl stop {daemon}; rm {own}"));
    listening_program(&node.0, &own);
    unit(&format!("{own} --accept --listen=7002 cat"));
    each_link_says(&monitors, &node.0, daemon, None, "").await;

    // A Unix socket is enough for the REST API alone.
    unit(&format!("{own} --accept --listen=/run/{daemon}.socket cat"));
    let by_socket = if daemon == "slurmrestd" {
        None
    } else {
        unproven
    };
    each_link_says(&monitors, &node.0, daemon, by_socket, "").await;

    node.sh(&format!("systemctl stop {daemon}"));
    let inactive = Some(ReasonCode::UnitInactive);
    each_link_says(&monitors, &node.0, daemon, inactive, "is inactive").await;
    node.sh(&format!(
        "{own} --accept --listen=7003 cat >/dev/null 2>&1 &"
    ));
    let by_hand = "listens on [::]:7003 (process ";
    if daemon == "slurmrestd" {
        each_link_says(&monitors, &node.0, daemon, inactive, "is inactive").await;
    } else {
        each_link_says(&monitors, &node.0, daemon, None, by_hand).await;
    }
}

/// systemd holds back an idle service while jobs run. The main process is a copy of systemd until then, and
/// may have systemd's own sockets.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn what_systemd_has_not_executed_yet_does_not_listen(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("held"), &[]);
    booted(&node);
    idle_program(&node.0, "/usr/local/sbin/slurmd");
    node.sh(
        "printf '[Service]\nType=idle\nExecStart=/usr/local/sbin/slurmd infinity\n' \
           >/etc/systemd/system/slurmd.service
         printf '[Service]\nType=oneshot\nExecStart=/bin/sleep 300\n' >/etc/systemd/system/job.service
         rm -rf /etc/systemd/system/slurmd.service.d
         systemctl daemon-reload; systemctl stop ssh.service; systemctl start ssh.socket
         systemctl start --no-block job.service",
    );
    for monitor in &monitors {
        node.sh("systemctl restart --no-block slurmd; sleep 0.3");
        let unproven = Some(ReasonCode::Unproven);
        each_link_says(
            std::slice::from_ref(monitor),
            &node.0,
            "slurmd",
            unproven,
            "slurmd.service is active, but",
        )
        .await;
    }
}

/// What listens on port 22 is systemd, until somebody connects.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_starts_sshd_counts_as_sshd(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values("no", "yes")] accept: &str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("socket"), &[]);
    booted(&node);
    node.sh(&format!(
        "sed 's/^Accept=.*/Accept={accept}/' /lib/systemd/system/ssh.socket >/etc/systemd/system/ssh.socket
         printf '[Service]\\nExecStart=-/usr/sbin/sshd -i\\nStandardInput=socket\\nRuntimeDirectory=sshd\\nRuntimeDirectoryPreserve=yes\\n' >/etc/systemd/system/ssh@.service
         systemctl daemon-reload; systemctl stop ssh.service"
    ));
    let sshd = async |monitor: &Monitor| {
        let looked = snapshot(monitor, &node.0).await;
        let report = looked
            .probes
            .into_iter()
            .find(|probe| probe.probe == "sshd");
        (looked.services[&Service::SSHD], report.unwrap())
    };
    for monitor in &monitors {
        assert!(!sshd(monitor).await.0);
    }
    node.sh("systemctl start ssh.socket");
    for monitor in &monitors {
        let (up, report) = sshd(monitor).await;
        assert!(up && report.result.is_passed(), "{report:?}");
        assert_eq!(
            reason(&report.result),
            "ssh.socket listens: systemd starts sshd once somebody connects"
        );
    }
    // The look itself has started nothing, and a banner is read all the same.
    assert_eq!(node.sh("systemctl is-active ssh.service"), "inactive");
    every_link_says(&monitors, &node.0, "sshd", |report| {
        report.result.is_passed()
    })
    .await;
    for monitor in &monitors {
        assert!(sshd(monitor).await.0);
    }
}

/// The engine checks the container's health itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_engines_own_health_check_is_a_probe() {
    let options = [
        "--health-cmd",
        "cat /healthy || { echo it ails; exit 1; }",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
    ];
    let node = Node::start(BOOKWORM, &unique("health"), &options);
    let waiting = monitor(LinkChoice::Auto);
    let unhealthy = |report: &ProbeReport| {
        report.result.code() == Some(ReasonCode::ContainerUnhealthy)
            && report.evidence.detail.as_str().contains("it ails")
    };
    let monitors = [waiting];
    let report = every_link_says(&monitors, &node.0, "healthcheck", unhealthy).await;
    assert_eq!(report.via, "engine");
    let wanted = WaitRequest {
        probes: ["container", "healthcheck"]
            .map(|name| Probe::named(name).unwrap())
            .into(),
        ..request(&[&node.0])
    };
    let mut wait = monitors[0].wait(&ME, wanted);
    while let Some(WaitEvent::Node(report)) = wait.next().await {
        if let NodeState::Waiting(why) = &report.state
            && why.as_str().contains("unhealthy")
        {
            node.sh("touch /healthy");
            break;
        }
    }
    let result = wait.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);

    let without = Node::start(BOOKWORM, &unique("health"), &[]);
    let report = check(&monitors[0], &without.0, "healthcheck").await;
    assert_eq!(reason(&report.result), "the container has no health check");
    assert!(report.result.is_passed());
}

/// Without munge, or without a database, where the configuration says so.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_may_do_without_munge_and_without_a_database_of_its_own(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("without"), &["--hostname", "db-0"]);
    booted(&node);
    each_link_says(&monitors, &node.0, "munge", None, "").await;
    node.sh("systemctl mask --now munge.service");
    let masked = Some(ReasonCode::UnitMasked);
    each_link_says(
        &monitors,
        &node.0,
        "munge",
        masked,
        "munge.service is masked",
    )
    .await;
    node.write(
        "/etc/slurm/slurm.conf",
        "ClusterName=x\nAuthType=auth/munge\n",
    );
    each_link_says(&monitors, &node.0, "munge", masked, "").await;
    node.write("/srv/slurm.conf", "ClusterName=x\nAuthType=auth/slurm\n");
    node.write(
        "/etc/systemd/system/slurmd.service.d/x.conf",
        "[Service]\nEnvironment=A=b SLURM_CONF=/srv/slurm.conf\n",
    );
    node.sh("systemctl daemon-reload");
    each_link_says(&monitors, &node.0, "munge", None, "AuthType=auth/slurm").await;

    let missing = Some(ReasonCode::UnitMissing);
    each_link_says(
        &monitors,
        &node.0,
        "mariadb",
        missing,
        "mariadb.service does not exist",
    )
    .await;
    node.write("/srv/slurmdbd.conf", "DbdHost=db-0\nStorageHost=db-0\n");
    each_link_says(&monitors, &node.0, "mariadb", missing, "").await;
    node.write("/srv/slurmdbd.conf", "StorageHost=db-1 # there\n");
    each_link_says(&monitors, &node.0, "mariadb", None, "StorageHost=db-1").await;
    node.write("/srv/slurmdbd.conf", "StorageHost=localhost\n");
    node.write(
        "/etc/systemd/system/mysql.service",
        "[Service]\nExecStart=/bin/sleep infinity\n",
    );
    node.sh("systemctl daemon-reload; systemctl start mysql");
    each_link_says(&monitors, &node.0, "mariadb", None, "").await;
}

/// A boot that hangs says what it waits for.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_hangs_names_the_jobs_that_it_waits_for(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let node = Node::start(suite, &unique("hangs"), &["--enable", "hangs.service"]);
    booted(&node);
    node.write(
        "/lib/systemd/system/hangs.service",
        "[Unit]\nBefore=multi-user.target\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\n\
         ExecStart=/bin/sh -c 'until [ -e /go ]; do sleep 0.1; done'\n",
    );
    docker(&["restart", "-t", "1", &node.0]);
    let monitors = monitors();
    let hangs = |report: &ProbeReport| {
        reason(&report.result)
            .starts_with("systemd is starting: it waits for hangs.service (since 20")
    };
    let report = every_link_says(&monitors, &node.0, "systemd", hangs).await;
    assert_eq!(report.result.code(), Some(ReasonCode::Booting));
    let mut waits: Vec<_> = monitors
        .iter()
        .map(|monitor| monitor.wait(&ME, request(&[&node.0])))
        .collect();
    for wait in &mut waits {
        loop {
            let Some(WaitEvent::Node(report)) = wait.next().await else {
                panic!("the wait ended");
            };
            if let NodeState::Waiting(why) = &report.state
                && why.as_str().contains("hangs.service (since 20")
            {
                break;
            }
        }
    }
    node.sh("touch /go");
    for wait in waits {
        let result = wait.result().await.unwrap();
        assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    }
}

/// The journal says nothing of the cause.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_daemons_own_log_file_says_why_it_has_failed(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("log"), &["--hostname", "w-0"]);
    booted(&node);
    node.write(
        "/etc/slurm/slurm.conf",
        "slurmdlogfile = /var/log/slurm/d-%n.log # here\n",
    );
    node.write("/var/log/slurm/d-w-0.log", "[x] fatal: the cause\n");
    node.write(
        "/etc/systemd/system/slurmd.service",
        "[Service]\nExecStart=/bin/false\n",
    );
    node.sh("systemctl daemon-reload; systemctl start slurmd");
    let terminal = |report: &ProbeReport| report.result.is_terminal();
    for monitor in &monitors {
        let one = std::slice::from_ref(monitor);
        let report = every_link_says(one, &node.0, "slurmd", terminal).await;
        let detail = report.evidence.detail.as_str();
        let end = "The end of /var/log/slurm/d-w-0.log:\n[x] fatal: the cause";
        assert!(detail.ends_with(end), "{detail}");
    }
    // What is no regular file is not read: it may never end.
    node.sh(
        "rm /var/log/slurm/d-w-0.log; mkfifo /var/log/slurm/d-w-0.log; systemctl restart slurmd",
    );
    for monitor in &monitors {
        let one = std::slice::from_ref(monitor);
        let report = every_link_says(one, &node.0, "slurmd", terminal).await;
        assert!(
            !report.evidence.detail.as_str().contains("The end of"),
            "{report:?}"
        );
    }
}

/// slurmctld gives up at its very first start if slurmdbd does not answer, and says so in its own log file.
#[tokio::test(flavor = "multi_thread")]
async fn a_slurmctld_that_lacks_its_database_says_what_to_do() {
    let node = Node::start(BOOKWORM, &unique("log"), &["--hostname", "controller"]);
    booted(&node);
    node.write(
        "/etc/slurm/slurm.conf",
        "ClusterName=x\nSlurmctldHost=controller\nSlurmUser=slurm\nAuthType=auth/munge\n\
         StateSaveLocation=/var/lib/slurm/slurmctld\nAccountingStorageType=accounting_storage/slurmdbd\n\
         AccountingStorageHost=localhost\nProctrackType=proctrack/linuxproc\n\
         SlurmctldLogFile=/var/log/slurm/ctld.log\nSlurmctldSyslogDebug=quiet\n\
         NodeName=w State=UNKNOWN\nPartitionName=all Nodes=ALL\n",
    );
    node.sh("systemctl start slurmctld");
    let terminal = |report: &ProbeReport| report.result.is_terminal();
    let report = every_link_says(&monitors(), &node.0, "slurmctld", terminal).await;
    let detail = report.evidence.detail.as_str();
    assert!(detail.contains("we have no TRES from it"), "{report:?}");
    assert!(
        reason(&report.result).contains("KEEP_WAITING"),
        "{report:?}"
    );
}

/// sshd may listen on one address of the node alone.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn sshd_is_dialled_where_it_listens(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
    #[values("service", "socket")] by: &str,
) {
    let monitors = monitors();
    let node = Node::start(suite, &unique("address"), &[]);
    booted(&node);
    let address = node.sh("hostname -I").split(' ').next().unwrap().to_owned();
    if by == "service" {
        node.write(
            "/etc/ssh/sshd_config.d/address.conf",
            &format!("ListenAddress {address}\n"),
        );
        node.sh("systemctl restart ssh");
    } else {
        node.sh(&format!(
            "sed 's/^ListenStream=.*/ListenStream={address}:22/' /lib/systemd/system/ssh.socket \
             >/etc/systemd/system/ssh.socket
             systemctl daemon-reload; systemctl stop ssh; systemctl start ssh.socket"
        ));
    }
    let passed = |report: &ProbeReport| report.result.is_passed();
    every_link_says(&monitors, &node.0, "sshd", passed).await;
    node.sh("systemctl stop ssh.socket ssh.service");
    for monitor in &monitors {
        let one = std::slice::from_ref(monitor);
        let closed = |report: &ProbeReport| {
            let said = reason(&report.result);
            said.contains("Connection refused (dialled at 127.0.0.1)") && !said.contains("listens")
        };
        every_link_says(one, &node.0, "sshd", closed).await;
    }
    node.sh("mkdir -p /run/sshd; /usr/sbin/sshd -D -o ListenAddress=127.0.0.1 -p 2222 >/dev/null 2>&1 &");
    for monitor in &monitors {
        let one = std::slice::from_ref(monitor);
        let elsewhere = |report: &ProbeReport| {
            report.result.code() == Some(ReasonCode::PortClosed)
                && reason(&report.result).contains("; sshd listens on ")
                && reason(&report.result).contains("127.0.0.1:2222")
        };
        every_link_says(one, &node.0, "sshd", elsewhere).await;
    }
}

/// A newer sshd shuts out whoever connects too often without logging in (`PerSourcePenalties`). Without a
/// unit, nothing but its banner tells that it is up.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn sshd_without_a_unit_is_not_asked_so_often_that_it_shuts_readyd_out(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let node = Node::start(suite, &unique("penalty"), &[]);
    booted(&node);
    node.sh("systemctl disable --now ssh.socket ssh.service 2>/dev/null
         mkdir -p /run/sshd; /usr/sbin/sshd -o LogLevel=VERBOSE -E /var/log/sshd.log");
    // What comes after sshd does not pass, so sshd is looked at for as long as the wait lasts.
    let monitor = monitor(LinkChoice::Auto);
    let mut request = request(&[&node.0]);
    request.probes = ["sshd", "slurmctld"]
        .map(|probe| Probe::named(probe).unwrap())
        .to_vec();
    request.poll_interval = std::time::Duration::from_millis(10);
    request.limit = Some(std::time::Duration::from_secs(25));
    request.failure_policy = FailurePolicy::KeepWaiting;
    let mut waits = monitor.wait(&ME, request);
    let (mut passed, start) = (false, std::time::Instant::now());
    while let Some(event) = waits.next().await {
        if let WaitEvent::Node(report) = event {
            let sshd = &report.probes[0].result;
            assert!(!passed || sshd.is_passed(), "it flipped: {report:?}");
            passed = sshd.is_passed();
        }
    }
    assert!(passed);
    let most = start.elapsed().as_secs() / 2 + 2;
    let connections = node.sh("grep -c '^Connection from' /var/log/sshd.log");
    println!("{connections} connections");
    assert!(connections.parse::<u64>().unwrap() <= most, "{connections}");
    assert_eq!(
        node.sh("grep -ci 'not allowed\\|drop connection' /var/log/sshd.log || true"),
        "0"
    );
}

/// slurmdbd is active while it waits for its database, and does not listen. Forky's slurmdbd gives up at the
/// database of the same suite.
#[tokio::test(flavor = "multi_thread")]
async fn a_slurmdbd_that_waits_for_its_database_is_not_ready() {
    let monitors = monitors();
    let options = ["--label", "sind.role=db"];
    let node = Node::start_of("db", BOOKWORM, &unique("db"), &options);
    booted(&node);
    let conf = slurmdbd_conf("localhost", "localhost");
    node.write("/etc/slurm/slurmdbd.conf", &conf);
    node.sh(
        "chown slurm /etc/slurm/slurmdbd.conf; chmod 600 /etc/slurm/slurmdbd.conf
         systemctl start mariadb
         mariadb -e \"CREATE USER slurm@localhost IDENTIFIED BY 'secret'; GRANT ALL ON *.* TO slurm@localhost\"
         systemctl stop mariadb; systemctl start slurmdbd; sleep 0.5",
    );
    let inactive = Some(ReasonCode::UnitInactive);
    each_link_says(
        &monitors,
        &node.0,
        "mariadb",
        inactive,
        "mariadb.service is inactive",
    )
    .await;
    let unproven = Some(ReasonCode::Unproven);
    each_link_says(
        &monitors,
        &node.0,
        "slurmdbd",
        unproven,
        "wait for what it depends on",
    )
    .await;
    let wait = monitors[0].wait(&ME, request(&[&node.0]));
    node.sh("systemctl start mariadb");
    let result = wait.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Ready, "{}", result.message);
    for probe in ["mariadb", "slurmdbd"] {
        each_link_says(&monitors, &node.0, probe, None, "").await;
    }
}
