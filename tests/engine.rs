//! The container engines that readyd brings along keep to what the trait promises.

// A test's own helpers may fail it, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use std::time::Duration;

use readyd::{
    docker::{DockerEngine, DockerHost},
    monitor::{LinkChoice, Verdict, Wait, WaitEvent},
    reason::ReasonCode,
};
use support::{
    conformance::{self, World},
    podman::Podman,
    real::{self, BOOKWORM, ME, check, docker, monitor_at, request, snapshot, unique},
};

/// The Docker Engine that the tests use, through its own command.
struct Docker;

impl World for Docker {
    fn create(&self, name: &str, options: &[&str]) {
        let image = format!("readyd-test/node:{BOOKWORM}");
        let common = ["create", "--name", name, "--label", "readyd.test=node"];
        let rest = [
            "--label",
            "conforms=yes",
            "--init=false",
            &image,
            "sleep",
            "600",
        ];
        docker(&[&common, options, &rest].concat());
        real::tally(name);
    }

    fn start(&self, name: &str) {
        docker(&["start", name]);
    }

    fn pause(&self, name: &str) {
        real::pause(name);
    }

    fn unpause(&self, name: &str) {
        docker(&["unpause", name]);
    }

    fn restart(&self, name: &str) {
        docker(&["restart", "-t", "0", name]);
    }

    fn kill(&self, name: &str) {
        docker(&["kill", name]);
    }

    fn remove(&self, name: &str) {
        docker(&["rm", "-f", name]);
    }
}

/// Removes the container also where the test has failed.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        let remove = std::process::Command::new("docker")
            .args(["rm", "-f", &self.0])
            .output();
        drop(remove);
    }
}

fn engine() -> DockerEngine {
    let host = std::env::var("DOCKER_HOST");
    DockerEngine::new(host.map_or_else(|_| DockerHost::default(), |host| host.parse().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_tells_which_run_of_which_container_it_is() {
    let name = Removed(unique("inspection"));
    conformance::inspection(&engine(), &Docker, &name.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_tells_how_a_command_has_ended() {
    let name = Removed(unique("commands"));
    conformance::commands(&engine(), &Docker, &name.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_tells_what_happens_in_its_order() {
    let name = Removed(unique("events"));
    conformance::events(&engine(), &Docker, &name.0).await;
}

/// Podman serves Docker's API, with words and ways of its own.
#[tokio::test(flavor = "multi_thread")]
async fn podman_tells_which_run_of_which_container_it_is() {
    let podman = Podman::start();
    let engine = DockerEngine::new(podman.host().parse().unwrap());
    conformance::inspection(&engine, &podman, "node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_tells_how_a_command_has_ended() {
    let podman = Podman::start();
    let engine = DockerEngine::new(podman.host().parse().unwrap());
    conformance::commands(&engine, &podman, "node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_tells_what_happens_in_its_order() {
    let podman = Podman::start();
    let engine = DockerEngine::new(podman.host().parse().unwrap());
    conformance::events(&engine, &podman, "node").await;
}

/// Reads a wait for one node until its first probe that has not passed says so.
async fn told(wait: &mut Wait, code: ReasonCode) {
    loop {
        match wait.next().await {
            Some(WaitEvent::Node(report)) => {
                let codes = report.probes.iter().map(|probe| probe.result.code());
                if codes.flatten().next() == Some(code) {
                    return;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Nodes on Podman are looked at in all ways, and what happens to them is seen before anything polls for it.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_podman_are_waited_for() {
    let podman = Podman::start();
    let at = |link| monitor_at(podman.host().parse().unwrap(), link);
    let waiting = at(LinkChoice::Auto);
    let wait = || {
        let mut request = request(&["node"]);
        request.limit = Some(Duration::from_secs(20));
        waiting.wait(&ME, request)
    };
    let create = || podman.create("node", &["--label", "readyd.profile=process"]);

    let mut waits = wait();
    told(&mut waits, ReasonCode::ContainerMissing).await;
    create();
    told(&mut waits, ReasonCode::ContainerNotStarted).await;
    podman.start("node");
    told(&mut waits, ReasonCode::ProcessMissing).await;
    for (link, via) in [
        (LinkChoice::Host, "host"),
        (LinkChoice::Bridge, "bridge"),
        (LinkChoice::Exec, "exec"),
    ] {
        let report = check(&at(link), "node", "munge").await;
        assert_eq!(report.result.code(), Some(ReasonCode::ProcessMissing));
        assert_eq!(report.via, via);
    }
    podman.pause("node");
    told(&mut waits, ReasonCode::ContainerPaused).await;
    assert!(!snapshot(&waiting, "node").await.ready);
    podman.unpause("node");
    told(&mut waits, ReasonCode::ProcessMissing).await;
    podman.restart("node");
    let result = waits.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);

    let mut waits = wait();
    told(&mut waits, ReasonCode::ProcessMissing).await;
    podman.remove("node");
    let result = waits.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);

    create();
    podman.start("node");
    let mut waits = wait();
    told(&mut waits, ReasonCode::ProcessMissing).await;
    podman.kill("node");
    let result = waits.result().await.unwrap();
    assert_eq!(result.verdict, Verdict::Terminal, "{}", result.message);
    assert!(
        result.message.contains("is exited (exit code 137)"),
        "{}",
        result.message
    );
}
