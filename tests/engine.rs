//! The container engines that readyd brings along keep to what the trait promises.

// A test's own helpers may fail it, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod support;

use readyd::docker::{DockerEngine, DockerHost};
use support::{
    conformance::{self, World},
    real::{self, BOOKWORM, docker, unique},
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
