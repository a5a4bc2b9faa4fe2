//! The container engines that readyd brings along keep to what the trait promises.

// A test's own helpers may fail it, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

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
    real::{
        self, BOOKWORM, ME, check, docker, monitor_at, readyd_as_a_user, readyd_command, request,
        snapshot, socket, stderr, stdout, unique,
    },
    tls::Authority,
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

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_its_promises_over_tls() {
    let (authority, files) = (Authority::create(), tempfile::tempdir().unwrap());
    authority.write(files.path());
    let address = authority.serve(&socket()).await;
    let host: DockerHost = format!("tcp://{address}").parse().unwrap();
    let engine = DockerEngine::new(host.with_certificates(files.path()).unwrap());
    let name = Removed(unique("tls-runs"));
    conformance::inspection(&engine, &Docker, &name.0).await;
    let name = Removed(unique("tls-commands"));
    conformance::commands(&engine, &Docker, &name.0).await;
    let name = Removed(unique("tls-events"));
    conformance::events(&engine, &Docker, &name.0).await;
}

/// A home with Docker's configuration: the context `far` is the tests' own engine over TLS.
struct Home {
    directory: tempfile::TempDir,
    /// The engine's address over TLS.
    host: String,
}

impl Home {
    async fn create() -> Self {
        let (authority, other) = (Authority::create(), Authority::create());
        let address = authority.serve(&socket()).await;
        let directory = tempfile::tempdir().unwrap();
        let host = format!("tcp://{address}");
        let home = Self { directory, host };
        for path in ["tls", "docker/contexts/meta/6a", "stranger", "empty"] {
            std::fs::create_dir_all(home.at(path)).unwrap();
        }
        let own = home.at("docker/contexts/tls/6a/docker");
        std::fs::create_dir_all(&own).unwrap();
        authority.write(own.as_ref());
        authority.write(home.at("tls").as_ref());
        other.write(home.at("stranger").as_ref());
        let meta = format!(
            r#"{{"Name":"far","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{}","SkipTLSVerify":false}}}}}}"#,
            home.host
        );
        std::fs::write(home.at("docker/contexts/meta/6a/meta.json"), meta).unwrap();
        home
    }

    fn at(&self, path: &str) -> String {
        self.directory.path().join(path).display().to_string()
    }

    fn configure(&self, text: &str) {
        std::fs::write(self.at("docker/config.json"), text).unwrap();
    }

    /// Checks a node that does not exist, with these variables and arguments; returns the exit code, and what
    /// was said.
    async fn check(&self, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
        let mut command =
            readyd_command(&[&["check", "no-such-node", "container"], arguments].concat());
        for name in [
            "DOCKER_HOST",
            "DOCKER_CONTEXT",
            "DOCKER_TLS_VERIFY",
            "DOCKER_CERT_PATH",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.directory.path());
        command.env("DOCKER_CONFIG", self.at("docker"));
        command.envs(variables.iter().copied());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = run.await.unwrap();
        let said = stdout(&output) + &stderr(&output);
        println!("{variables:?} {arguments:?}: {said}");
        (output.status.code().unwrap(), said)
    }
}

/// An engine is chosen as the docker command chooses it, and what asks for TLS gets it.
#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_chosen_as_docker_does() {
    let home = Home::create().await;
    let (host, tls) = (&*home.host, &*home.at("tls"));
    let nowhere = ("DOCKER_HOST", "unix:///nonexistent.sock");
    let (named, certificates) = (("DOCKER_HOST", host), ("DOCKER_CERT_PATH", tls));
    let finds = async |variables: &[_], arguments: &[_]| {
        let (code, said) = home.check(variables, arguments).await;
        assert!(code == 1 && said.contains("there is no container no-such-node"));
    };
    // Either variable asks for TLS.
    finds(&[named, ("DOCKER_TLS_VERIFY", "1"), certificates], &[]).await;
    finds(&[named, certificates], &[]).await;
    // A flag goes before a variable, and a host before a context.
    finds(&[nowhere, certificates], &["--docker-host", host]).await;
    finds(&[nowhere], &["--docker-context", "far"]).await;
    finds(&[named, certificates, ("DOCKER_CONTEXT", "none")], &[]).await;
    finds(&[("DOCKER_CONTEXT", "far")], &[]).await;
    home.configure(r#"{"auths":{},"currentContext":"far"}"#);
    finds(&[], &[]).await;
}

/// An engine that cannot be trusted is asked nothing, and what cannot be meant is refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_be_meant_is_refused() {
    let home = Home::create().await;
    let (stranger, empty) = (&*home.at("stranger"), &*home.at("empty"));
    let named = ("DOCKER_HOST", &*home.host);
    for (code, variables, arguments, says) in [
        (
            1,
            &[named, ("DOCKER_CERT_PATH", stranger)][..],
            &[][..],
            "invalid peer certificate",
        ),
        (
            2,
            &[named, ("DOCKER_CERT_PATH", empty)],
            &[],
            "empty/ca.pem: No such file",
        ),
        (
            2,
            &[named, ("DOCKER_TLS", "1")],
            &[],
            "set DOCKER_TLS_VERIFY=1",
        ),
        (2, &[], &["--docker-context", "nea"], "and there is none in"),
        (2, &[("DOCKER_CONTEXT", "nea")], &[], "(there are far)"),
    ] {
        let (ended, said) = home.check(variables, arguments).await;
        assert!(ended == code && said.contains(says), "{says}");
    }
    home.configure("{");
    let (code, said) = home.check(&[], &[]).await;
    assert!(code == 2 && said.contains("docker/config.json cannot be read: EOF"));
}

/// Whoever asks is told what works, and what to do about the rest.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_what_works() {
    let name = Removed(unique("doctor"));
    Docker.create(&name.0, &[]);
    let doctor = |arguments: &[&str]| {
        let run = readyd_command(&[&["doctor"], arguments].concat()).output();
        let output = run.unwrap();
        let said = stdout(&output);
        println!("{arguments:?}: {said}");
        (output.status.code().unwrap(), said)
    };
    let (code, said) = doctor(&[&name.0]);
    assert!(code == 0 && said.contains("ok       engine    Docker "));
    assert!(said.contains("untried  nodes     no container"));
    Docker.start(&name.0);
    let (code, said) = doctor(&[&name.0]);
    assert_eq!(code, 0);
    for line in ["ok       events ", "ok       bridge ", "ok       exec "] {
        assert!(said.contains(line), "{line}");
    }

    // Without root, nothing is looked at from outside, and all else works.
    let output = readyd_as_a_user(&["doctor", &name.0]);
    assert!(output.status.success(), "{output:?}");
    let said = stdout(&output);
    for line in [
        "limited  host      not from outside: looking at the container's process takes root\n",
        "run readyd as root on the engine's own machine",
        "ok       bridge ",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let (code, said) = doctor(&["--docker-host", "unix:///nonexistent.sock"]);
    assert_eq!(code, 5);
    assert!(said.contains("there is no socket /nonexistent.sock"));
    assert!(said.contains("name another one"));

    let podman = Podman::start();
    podman.create("node", &["--label", "sind.role=worker"]);
    podman.start("node");
    let (code, said) = doctor(&["--docker-host", &podman.host()]);
    assert_eq!(code, 0);
    for line in [
        "ok       engine    Podman ",
        "ok       host ",
        "ok       bridge ",
        "ok       exec ",
    ] {
        assert!(said.contains(line), "{line}");
    }
}
