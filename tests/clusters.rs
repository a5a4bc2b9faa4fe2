//! Whole clusters: two controllers, two workers, a submitter, a database node and an API node.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::{sync::Arc, thread, time::Duration};

use rstest::rstest;

use readyd::{
    monitor::{
        Cause, ClusterTarget, LinkChoice, Monitor, Verdict, WaitEvent, WaitRequest, WaitResult,
    },
    probe::Level,
    reason::{
        Reason,
        ReasonCode::{self, AuthFailed, NoAnswer, NodeUnusable, UnitFailed, UnitInactive},
    },
};
use support::real::{BOOKWORM, Cluster, FORKY, ME, PATIENCE, in_node, monitor, unique};

/// A whole cluster that is ready.
struct Site {
    monitor: Monitor,
    cluster: Cluster,
}

fn request(cluster: &Cluster, level: Level, limit: u64) -> WaitRequest {
    let selector = cluster.selector();
    let (realm, name) = selector.split_once('/').unwrap();
    WaitRequest {
        cluster: Some(ClusterTarget {
            realm: realm.to_owned(),
            cluster: name.to_owned(),
            min_nodes: 7,
        }),
        level,
        limit: Some(Duration::from_secs(limit)),
        ..WaitRequest::default()
    }
}

impl Site {
    async fn wait(&self, level: Level, limit: u64) -> Arc<WaitResult> {
        let request = request(&self.cluster, level, limit);
        self.monitor.wait(&ME, request).result().await.unwrap()
    }

    fn sh(&self, host: &str, shell: &str) -> String {
        in_node(&self.cluster.node(host), shell)
    }

    /// Breaks something, and expects these as the first cause, with so many nodes that wait for it.
    async fn breaks(&self, host: &str, shell: &str, expected: &Expected) -> Arc<WaitResult> {
        self.sh(host, shell);
        let ended = self.wait(Level::Registered, 8).await;
        assert_ne!(ended.verdict, Verdict::Ready, "{shell}");
        let first = &ended.causes[0];
        println!(
            "{shell}\n  {:?}: {}\n  {:?}",
            ended.verdict, ended.message, ended.causes
        );
        expected.is(&self.cluster, first);
        let about = format!("{}: {}: ", first.node.as_ref().unwrap(), first.probe);
        assert!(ended.message.contains(&about), "{}", ended.message);
        ended
    }

    async fn mended(&self, host: &str, shell: &str) {
        self.sh(host, shell);
        let ended = self.wait(Level::Registered, PATIENCE.as_secs()).await;
        assert_eq!(ended.verdict, Verdict::Ready, "{shell}: {}", ended.message);
        assert!(ended.causes.is_empty());
    }
}

/// What a first cause says.
struct Expected {
    host: &'static str,
    probe: &'static str,
    code: ReasonCode,
    says: &'static str,
    shows: &'static str,
    affects: &'static [&'static str],
}

impl Expected {
    fn is(&self, cluster: &Cluster, cause: &Cause) {
        let node = cause.node.as_ref().map(ToString::to_string);
        assert_eq!(node, Some(cluster.node(self.host)));
        assert_eq!(
            (cause.probe.as_str(), cause.reason.code()),
            (self.probe, self.code)
        );
        assert!(
            cause.reason.as_str().contains(self.says),
            "{}",
            cause.reason
        );
        assert!(
            cause.detail.as_str().contains(self.shows),
            "{:?}",
            cause.detail
        );
        let affected: Vec<_> = cause.affected.iter().map(ToString::to_string).collect();
        let expected: Vec<_> = self.affects.iter().map(|host| cluster.node(host)).collect();
        assert_eq!(affected, expected);
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_cluster_is_waited_for_from_nothing_and_names_what_holds_it_up(
    #[values(BOOKWORM, FORKY)] suite: &'static str,
) {
    let cluster = Cluster::named(suite, &unique("whole")["readyd-".len()..]);
    let monitor = monitor(LinkChoice::Auto);
    let mut wait = monitor.wait(&ME, request(&cluster, Level::Registered, 240));
    // It begins before there is any node.
    while let Some(event) = wait.next().await {
        if let WaitEvent::Cluster(report) = event
            && report.reason.as_ref().map(Reason::code) == Some(ReasonCode::ClusterIncomplete)
        {
            assert_eq!((report.present, report.min_nodes), (0, 7));
            break;
        }
    }
    let up = thread::scope(|scope| {
        scope.spawn(|| cluster.up_whole());
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(wait.result()))
    });
    let up = up.unwrap();
    assert_eq!(up.verdict, Verdict::Ready, "{}", up.message);
    assert_eq!(up.nodes.len(), 7);
    assert!(
        up.nodes
            .iter()
            .all(|node| node.level == Some(Level::Registered))
    );
    let site = Site { monitor, cluster };

    let ran = site.wait(Level::Jobs, 60).await;
    assert_eq!(ran.verdict, Verdict::Ready, "{}", ran.message);
    assert!(ran.nodes.iter().all(|node| node.level == Some(Level::Jobs)));
    let jobs = |host: &str| {
        let mut nodes = ran.nodes.iter();
        let node = nodes
            .find(|node| node.node.to_string() == site.cluster.node(host))
            .unwrap();
        node.probes
            .iter()
            .any(|report| report.probe == "jobs" && report.result.is_passed())
    };
    assert!(jobs("controller") && !jobs("controller-1") && !jobs("submitter"));

    let own = Expected {
        host: "db",
        probe: "slurmdbd",
        code: UnitInactive,
        says: "slurmdbd.service is inactive",
        shows: "",
        affects: &[],
    };
    site.breaks("db", "systemctl stop slurmdbd", &own).await;
    let mariadb = Expected {
        probe: "mariadb",
        says: "mariadb.service is inactive",
        ..own
    };
    site.breaks("db", "systemctl stop mariadb", &mariadb).await;
    site.mended("db", "systemctl start mariadb slurmdbd").await;

    let worker = Expected {
        host: "worker-1",
        probe: "registered",
        code: AuthFailed,
        ..own
    };
    let keys = Expected {
        says: "the munge keys of this node and of ",
        shows: "Invalid credential",
        ..worker
    };
    let key = "cp -a /etc/munge/munge.key /root; dd if=/dev/urandom of=/etc/munge/munge.key bs=128 count=1; \
        systemctl restart munge slurmd";
    site.breaks("worker-1", key, &keys).await;
    site.mended(
        "worker-1",
        "cp -a /root/munge.key /etc/munge; systemctl restart munge slurmd",
    )
    .await;

    let clocks = Expected {
        says: "this one is 30m ahead",
        shows: "DECODE_TIME",
        ..worker
    };
    let clock = "mkdir -p /etc/systemd/system/munge.service.d; \
        printf '[Service]\nEnvironment=LD_PRELOAD=%s FAKETIME=+30m\n' \
          $(ls /usr/lib/*/faketime/libfaketime.so.1) >/etc/systemd/system/munge.service.d/clock.conf; \
        systemctl daemon-reload; systemctl restart munge slurmd";
    site.breaks("worker-1", clock, &clocks).await;
    let clock = "rm /etc/systemd/system/munge.service.d/clock.conf; systemctl daemon-reload; \
        systemctl restart munge slurmd";
    site.mended("worker-1", clock).await;

    // Who hangs still listens.
    for (host, probe) in [("db", "slurmdbd"), ("api", "slurmrestd")] {
        let silent = Expected {
            host,
            probe,
            code: NoAnswer,
            says: "listens, but does not answer",
            ..own
        };
        let stop = format!("kill -STOP $(pidof {probe})");
        let ended = site.breaks(host, &stop, &silent).await;
        let name = site.cluster.node(host);
        let mut nodes = ended.nodes.iter();
        let node = nodes.find(|node| node.node.as_str() == name).unwrap();
        assert_eq!(node.level, Some(Level::Services));
        let go_on = format!("kill -CONT $(pidof {probe})");
        site.mended(host, &go_on).await;
    }

    // The controller does not believe that it is there, though its slurmd is active.
    let down = Expected {
        code: NodeUnusable,
        says: "DOWN",
        ..worker
    };
    site.breaks(
        "controller",
        "scontrol update nodename=worker-1 state=down reason=test",
        &down,
    )
    .await;
    site.mended(
        "controller",
        "scontrol update nodename=worker-1 state=resume",
    )
    .await;

    let name = Expected {
        code: ReasonCode::RpcDown,
        says: "Unable to resolve the name of the controller in this node: controllerx, controllerx-1",
        ..worker
    };
    let typo = "sed -i 's/^SlurmctldHost=controller/&x/' /etc/slurm/slurm.conf";
    site.breaks("worker-1", typo, &name).await;
    let right =
        "sed -i 's/^SlurmctldHost=controllerx/SlurmctldHost=controller/' /etc/slurm/slurm.conf";
    site.mended("worker-1", right).await;

    // The one in reserve takes over, and gives control back. Its own is what the primary lacks.
    site.sh("controller", "systemctl stop slurmctld");
    let primary = Expected {
        host: "controller",
        probe: "slurmctld",
        says: "slurmctld.service is inactive",
        ..own
    };
    site.breaks(
        "controller-1",
        "until scontrol ping | grep -q 'backup.*UP'; do sleep 0.2; done",
        &primary,
    )
    .await;
    site.mended("controller", "systemctl start slurmctld").await;

    site.sh("controller-1", "systemctl stop slurmctld");
    let conf = Expected {
        code: UnitFailed,
        says: "slurmctld.service is failed",
        shows: "NoSuchKey",
        affects: &["worker-0", "worker-1"],
        ..primary
    };
    let bad = "cp /etc/slurm/slurm.conf /root; echo NoSuchKey=1 >>/etc/slurm/slurm.conf; systemctl restart slurmctld";
    site.breaks("controller", bad, &conf).await;
    site.sh("controller-1", "systemctl start slurmctld");
    site.mended("controller", "cp /root/slurm.conf /etc/slurm; systemctl reset-failed slurmctld; systemctl start slurmctld").await;
}
