//! A Podman of the tests' own, which serves Docker's API.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{conformance::World, real};

/// A Podman with its own storage, for as long as this lives.
pub struct Podman {
    directory: tempfile::TempDir,
    service: Child,
}

const IMAGE: &str = "localhost/readyd-test/box";

impl Podman {
    /// Starts it, with an image that has busybox alone.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let service = service(at);
        let podman = Self { directory, service };
        let start = Instant::now();
        while !podman.socket().exists() {
            assert!(start.elapsed().as_secs() < 30, "{}", podman.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        podman.import();
        podman
    }

    /// The address of its API.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn import(&self) {
        let at = self.directory.path();
        let script = "mkdir -p root/bin root/dev root/etc root/proc root/sys root/tmp
            cp \"$(command -v busybox)\" root/bin/
            for name in cat id ps sh sleep true yes; do ln -s busybox root/bin/$name; done
            tar -C root -cf image.tar .";
        let mut shell = Command::new("sh");
        let made = shell.args(["-ec", script]).current_dir(at).status();
        assert!(made.unwrap().success());
        self.run(&["import", "image.tar", IMAGE]);
    }

    /// Runs a command of Podman's.
    pub fn run(&self, arguments: &[&str]) -> String {
        let run = Command::new("podman")
            .args(["--remote", "--url", &self.host()])
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(
            run.status.success(),
            "podman {arguments:?}: {said}\n{}",
            self.log()
        );
        String::from_utf8_lossy(&run.stdout).trim().to_owned()
    }
}

/// Starts the service. Where cgroup v1 is in use and v2 is mounted beside it, the service sees v2 alone,
/// because its runtimes take no mixture of both.
fn service(at: &Path) -> Child {
    let conf = |name: &str, text: String| std::fs::write(at.join(name), text).unwrap();
    let (here, log) = (at.display(), std::fs::File::create(at.join("log")).unwrap());
    conf(
        "storage.conf",
        format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{here}/run\"\ngraphroot = \"{here}/graph\"\n"
        ),
    );
    // The limits are for a machine on which they may not be raised.
    conf(
        "containers.conf",
        format!(
            "[engine]\nevents_logger = \"file\"\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\n\
             tmp_dir = \"{here}/tmp\"\nexit_command_delay = 1\n[containers]\npids_limit = 0\n\
             default_ulimits = [\"nofile=4096:4096\", \"nproc=4096:4096\"]\n"
        ),
    );
    let script = "v2=/sys/fs/cgroup/unified; [ ! -d $v2 ] || mount --bind $v2 /sys/fs/cgroup
        exec podman system service --time 0 \"$1\"";
    let socket = format!("unix://{here}/podman.sock");
    let shell = ["sh", "-ec", script, "sh", &socket];
    let mut command = if Path::new("/sys/fs/cgroup/unified").is_dir() {
        let mut command = Command::new("unshare");
        command.arg("--mount").args(shell);
        command
    } else {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]);
        command
    };
    command
        .env("CONTAINERS_STORAGE_CONF", at.join("storage.conf"))
        .env("CONTAINERS_CONF", at.join("containers.conf"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("Podman cannot be started ({error}): run make test, which installs it")
        })
}

impl Drop for Podman {
    fn drop(&mut self) {
        let removed = Command::new("podman")
            .args(["--remote", "--url", &self.host(), "rm", "-fa", "-t", "0"])
            .output();
        drop((removed, self.service.kill(), self.service.wait()));
    }
}

impl World for Podman {
    fn create(&self, name: &str, options: &[&str]) {
        let network = options.iter().any(|option| option.starts_with("--network"));
        let own = if network {
            "--tty=false"
        } else {
            "--network=none"
        };
        let common = ["create", "--name", name, "--label", "readyd.test=node", own];
        let rest = ["--label", "conforms=yes", IMAGE, "/bin/sleep", "600"];
        self.run(&[&common, options, &rest].concat());
        real::tally(name);
    }

    fn start(&self, name: &str) {
        self.run(&["start", name]);
    }

    fn pause(&self, name: &str) {
        self.run(&["pause", name]);
    }

    fn unpause(&self, name: &str) {
        self.run(&["unpause", name]);
    }

    fn restart(&self, name: &str) {
        self.run(&["restart", "-t", "0", name]);
    }

    fn kill(&self, name: &str) {
        self.run(&["kill", name]);
        self.run(&["wait", name]);
    }

    fn remove(&self, name: &str) {
        self.run(&["rm", "-f", "-t", "0", name]);
    }
}
