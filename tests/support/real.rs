//! Real nodes in Docker, and the real program.

use readyd::{
    docker::{DockerEngine, DockerHost},
    environment::Environment,
    monitor::{CHECK_LIMIT, LinkChoice, Monitor, Options, Snapshot, WaitRequest, WaitTarget},
    node::Identity,
    probe::Probe,
    reason::ReasonCode,
    report::{ProbeReport, ProbeResult},
};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The suites of Debian from which nodes are made: Slurm 22.05 with systemd 252, and Slurm 26.05
/// with systemd 262.
pub const SUITES: [&str; 2] = [BOOKWORM, FORKY];
pub const BOOKWORM: &str = "bookworm";
pub const FORKY: &str = "forky";

pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/nodes")
        .join(name)
}

/// Runs a command, which has to succeed, and returns its output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn docker(arguments: &[&str]) -> String {
    run(Command::new("docker").args(arguments))
}

/// Pauses a container. The kernel cannot freeze a process that is just being started, and then the
/// engine gives up. A node that boots is therefore paused a moment later.
pub fn pause(node: &str) {
    eventually("it is paused", || {
        let pause = Command::new("docker")
            .args(["pause", node])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&pause.stderr).into_owned();
        assert!(
            pause.status.success() || said.contains("unable to freeze"),
            "{said}"
        );
        pause.status.success()
    });
}

/// Returns what a command in a node prints, whether it succeeds or not.
pub fn in_node(node: &str, shell: &str) -> String {
    let output = Command::new("docker")
        .args(["exec", node, "sh", "-c", shell])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Returns a name that no other test uses.
pub fn unique(what: &str) -> String {
    format!("readyd-{what}-{:08x}", fastrand::u32(..))
}

/// Counts a node that was started without the script `cluster`, which counts the others.
pub fn tally(node: &str) {
    if let Some(tally) = std::env::var_os("READYD_TALLY") {
        let file = std::fs::OpenOptions::new().append(true).open(tally);
        writeln!(file.unwrap(), "{node}").unwrap();
    }
}

fn needs_docker() {
    let up = Command::new("docker")
        .args(["version"])
        .output()
        .is_ok_and(|run| run.status.success());
    assert!(
        up,
        "no Docker engine answers, and these tests need one: run tests/nodes/engine, or make test"
    );
}

/// A node of the test's own, which is removed when this is dropped.
pub struct Node(pub String);

impl Node {
    /// Makes a node of that suite, with these options of `cluster node`.
    pub fn start(suite: &str, name: &str, options: &[&str]) -> Self {
        Self::start_of("node", suite, name, options)
    }

    /// Makes the same from the image of that kind.
    pub fn start_of(kind: &str, suite: &str, name: &str, options: &[&str]) -> Self {
        needs_docker();
        let node = Self(name.to_owned());
        run(Command::new(script("cluster"))
            .envs([("READYD_SUITE", suite), ("READYD_IMAGE", kind)])
            .args(["node", name])
            .args(options));
        node
    }

    pub fn sh(&self, shell: &str) -> String {
        in_node(&self.0, shell)
    }

    /// Writes a file in the node.
    pub fn write(&self, path: &str, text: &str) {
        let mut tee = Command::new("docker")
            .args(["exec", "-i", &self.0, "sh", "-c"])
            .args(["mkdir -p \"${0%/*}\"; cat >\"$0\"", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tee.stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(tee.wait().unwrap().success(), "writing {path}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rm", "-fv", &self.0]).output();
    }
}

/// A small Slurm cluster, which is removed when this is dropped.
pub struct Cluster {
    suite: &'static str,
    name: String,
}

impl Cluster {
    pub const HOSTS: [&str; 4] = ["controller", "worker-0", "worker-1", "submitter"];

    /// Names a cluster of nodes of that suite, which does not exist yet.
    pub fn named(suite: &'static str, name: &str) -> Self {
        needs_docker();
        let name = name.to_owned();
        Self { suite, name }
    }

    pub fn up(&self) {
        self.up_as("small");
    }

    /// Brings it up with all that a site has: a controller in reserve, a database and an API node, too.
    pub fn up_whole(&self) {
        self.up_as("whole");
    }

    fn up_as(&self, shape: &str) {
        run(Command::new(script("cluster"))
            .env("READYD_SUITE", self.suite)
            .args(["up", &self.name, shape]));
    }

    /// Returns the realm and the name, as the command line takes them.
    pub fn selector(&self) -> String {
        format!("readyd/{}", self.name)
    }

    pub fn node(&self, host: &str) -> String {
        format!("readyd-{}-{host}", self.name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = Command::new(script("cluster"))
            .args(["down", &self.name])
            .output();
    }
}

/// Runs a client command of the program.
pub fn readyd(arguments: &[&str]) -> Output {
    let output = readyd_command(arguments).output().unwrap();
    println!("readyd {arguments:?}: {output:?}");
    output
}

pub fn readyd_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readyd"));
    command.args(arguments).env_remove("READYD_SERVER");
    command
}

/// Returns the path of the engine's own socket.
pub fn socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let path = host
        .strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock");
    Path::new(path).to_owned()
}

/// Runs the program as a user who is not root but may use Docker.
pub fn readyd_as_a_user(arguments: &[&str]) -> Output {
    let mut command = readyd_command(&[]);
    // If only root has access to the build folder, other users cannot run the program there.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open.clone()).unwrap();
        let program = directory.path().join("readyd");
        // Not by this process: whatever another test starts meanwhile would hold the file open for writing
        // for a moment, and nobody could execute it.
        run(Command::new("cp").arg(command.get_program()).arg(&program));
        std::fs::set_permissions(&program, open).unwrap();
        let group = std::fs::metadata(socket()).unwrap().gid();
        command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534"])
            .arg(format!("--groups={group}"))
            .arg(program)
            .env_remove("READYD_SERVER");
    }
    let output = command.args(arguments).output().unwrap();
    println!("as a user, {arguments:?}: {output:?}");
    output
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server of the test's own, which is ended when this is dropped.
pub struct Serve {
    pub url: String,
    pub child: Child,
}

impl Serve {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = readyd_command(&["serve", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            line.split_once("listening on ")
                .map(|(_, url)| url.to_owned())
        });
        // The rest of the output is read, too, so that the server never blocks on it.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            url: url.unwrap(),
            child,
        }
    }

    /// Returns a number of /proc/PID/status, in its own unit.
    pub fn status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        let number = line.split_ascii_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// Returns how much processor time the server has used.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks = fields.split_ascii_whitespace().skip(11).take(2);
        // The times are hundredths of a second for every program on Linux (proc(5)).
        Duration::from_millis(
            10 * ticks
                .map(|ticks| ticks.parse::<u64>().unwrap())
                .sum::<u64>(),
        )
    }

    /// Returns how many files the server has open.
    pub fn files(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        fds.count()
    }

    /// Returns how many sockets the server has open.
    pub fn sockets(&self) -> usize {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let target =
            |fd: std::io::Result<std::fs::DirEntry>| std::fs::read_link(fd.ok()?.path()).ok();
        fds.filter_map(target)
            .filter(|to| to.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long anything may take that has to happen at some time. The machine may be busy with other
/// work, so this is far longer than anything takes: what has to happen *by* some time has a limit of
/// its own.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Checks the condition until it holds, and fails if that takes longer than [`PATIENCE`].
pub fn eventually(what: &str, holds: impl FnMut() -> bool) {
    within(PATIENCE, what, holds);
}

/// Checks the condition until it holds, and fails if that takes longer than `limit`.
pub fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

// --- the library --------------------------------------------------------------------------------

pub const ME: Identity = Identity::Local;

pub fn monitor(link: LinkChoice) -> Monitor {
    monitor_with(Options {
        link,
        ..Options::default()
    })
}

pub fn monitor_with(options: Options) -> Monitor {
    let host = std::env::var("DOCKER_HOST")
        .map_or_else(|_| DockerHost::default(), |host| host.parse().unwrap());
    Monitor::new(DockerEngine::new(host), options, Environment::tokio())
}

pub fn monitor_at(host: DockerHost, link: LinkChoice) -> Monitor {
    let options = Options {
        link,
        ..Options::default()
    };
    Monitor::new(DockerEngine::new(host), options, Environment::tokio())
}

/// A request whose wait ends because its nodes are ready, or by the patience of the test.
pub fn request(nodes: &[&str]) -> WaitRequest {
    let target = |node: &&str| WaitTarget {
        node: node.parse().unwrap(),
        role: None,
        profile: None,
    };
    WaitRequest {
        nodes: nodes.iter().map(target).collect(),
        limit: Some(PATIENCE),
        ..WaitRequest::default()
    }
}

pub async fn snapshot(monitor: &Monitor, node: &str) -> Snapshot {
    let name = node.parse().unwrap();
    monitor.snapshot(&ME, &name, None).await.unwrap()
}

pub async fn check(monitor: &Monitor, node: &str, probe: &str) -> ProbeReport {
    let (name, probe) = (node.parse().unwrap(), Probe::named(probe).unwrap());
    let checked = monitor.check(&ME, &name, &probe, None, CHECK_LIMIT).await;
    checked.unwrap()
}

pub fn reason(result: &ProbeResult) -> &str {
    result.reason().unwrap_or_default()
}

/// Waits for the end of the node's boot.
pub fn booted(node: &Node) {
    finish_boot(|shell| node.sh(shell));
}

/// Waits for the end of the boot of a node in which `sh` runs a command.
pub fn finish_boot(sh: impl Fn(&str) -> String) {
    let start = Instant::now();
    loop {
        // This blocks until the boot ends; before there is a bus, it fails.
        let state = sh("timeout 30 systemctl is-system-running --wait 2>&1");
        if ["running", "degraded"].contains(&state.as_str()) {
            return;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "the node is {state} after {PATIENCE:?}; it waits for: {}",
            sh("systemctl list-jobs --no-pager 2>&1; systemctl --failed --no-pager 2>&1; ps -ef")
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks the probe on every link, and expects that answer at once.
pub async fn each_link_says(
    monitors: &[Monitor],
    node: &str,
    probe: &str,
    code: Option<ReasonCode>,
    contains: &str,
) {
    for monitor in monitors {
        let report = check(monitor, node, probe).await;
        println!("{node} {probe}: {report:?}");
        assert_eq!(report.result.code(), code, "{report:?}");
        assert_eq!(report.result.is_passed(), code.is_none(), "{report:?}");
        assert!(reason(&report.result).contains(contains), "{report:?}");
    }
}

/// A slurmdbd.conf whose database is on that machine. Only Slurm's own user may be able to read it.
pub fn slurmdbd_conf(host: &str, storage: &str) -> String {
    format!(
        "AuthType=auth/munge\nDbdHost={host}\nSlurmUser=slurm\nPidFile=/run/slurmdbd.pid\n\
         StorageType=accounting_storage/mysql\nStorageHost={storage}\nStorageUser=slurm\n\
         StoragePass=secret\n"
    )
}
