"""A server and nodes of the tests' own, which are removed when the tests are over."""

import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import grpc
import pytest

pytest.register_assert_rewrite("calls")

from readyd.v1 import readyd_pb2_grpc

from calls import Wait

CLUSTER = Path(__file__).parents[1] / "nodes" / "cluster"
SUFFIX = uuid.uuid4().hex[:8]
RUN_LABEL = f"readyd.test.run={SUFFIX}"

# The hosts that `cluster up` makes, with their roles.
HOSTS = {"controller": "controller", "worker-0": "worker", "worker-1": "worker", "submitter": "submitter"}


def run(*argv, check=True, within=120):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=within)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, argv))}: exit code {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout.strip()


def docker(*argv, **options):
    return run("docker", *argv, **options)


def eventually(what, holds, within=60):
    end = time.monotonic() + within
    while not (seen := holds()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {within} s")
        time.sleep(0.1)
    return seen


class Node:
    """A container that these tests have started."""

    def __init__(self, name):
        self.name = name

    def exec(self, *argv, **options):
        return docker("exec", self.name, *argv, **options)

    def active(self, unit):
        return self.exec("systemctl", "is-active", unit, check=False) == "active"

    def booted(self):
        # An exec before systemd has made its cgroups can break the boot, so PID 1 must have a child
        # first.
        if len(docker("top", self.name, "-eo", "pid", check=False).splitlines()) < 3:
            return False
        return self.exec("systemctl", "is-system-running", check=False) in ("running", "degraded")


def unique(what):
    return f"readyd-py-{SUFFIX}-{what}"


def make(what, *options):
    name = unique(what)
    # A single node needs no network.
    run(CLUSTER, "node", name, "--network", "none", *options, "--label", RUN_LABEL)
    return Node(name)


def make_booted(what, *options):
    node = make(what, *options)
    eventually(f"{node.name} has booted", node.booted)
    return node


@pytest.fixture(scope="session", autouse=True)
def swept():
    """Removes every node of this run, however it ends."""
    # A run that SIGTERM ends has to clean up, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield
    left = docker("ps", "-aq", "--filter", f"label={RUN_LABEL}").split()
    if left:
        docker("rm", "-fv", *left)


@pytest.fixture(scope="session")
def unix_socket(tmp_path_factory):
    """Returns the path of the Unix socket on which the server listens, too."""
    return tmp_path_factory.mktemp("socket") / "r.sock"


@pytest.fixture(scope="session")
def server(tmp_path_factory, unix_socket):
    """Starts a server for this run, and yields the authority of its URL."""
    log = tmp_path_factory.mktemp("readyd") / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [os.environ["READYD"], "serve", "--listen", "127.0.0.1:0", "--listen", f"unix:{unix_socket}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, "RUST_LOG": "info"},
        )
    try:
        def listening():
            assert process.poll() is None, f"the server ended: {log.read_text()}"
            return re.search(r"listening on http://(127\.0\.0\.1:\d+)", log.read_text())

        yield eventually("the server says where it listens", listening, within=20)[1]
        assert process.poll() is None, f"the server ended: {log.read_text()}"
    finally:
        process.terminate()
        try:
            # The server gives open calls 8 s.
            code = process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise
    assert code == 0
    assert "panicked" not in log.read_text()


@pytest.fixture(scope="session")
def channel(server):
    # A proxy from the environment must not be used for a local server.
    with grpc.insecure_channel(server, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel):
    return readyd_pb2_grpc.ReadinessServiceStub(channel)


@pytest.fixture
def wait(stub):
    """Starts waits; those still open at the test's end are cancelled."""
    begun = []

    def begin(nodes, **fields):
        begun.append(Wait(stub, nodes, **fields))
        return begun[-1]

    yield begin
    for open_wait in begun:
        open_wait.cancel()


@pytest.fixture(scope="session")
def cluster(swept):
    """Yields the nodes of a whole cluster by host name; they have only just been started."""
    name = f"py-{SUFFIX}"
    try:
        run(CLUSTER, "up", name)
        yield {host: Node(f"readyd-{name}-{host}") for host in HOSTS}
    finally:
        run(CLUSTER, "down", name)


@pytest.fixture(scope="session")
def waited(cluster, stub):
    """Returns the wait that saw the cluster come up, and the nodes' own states right after it."""
    wait = Wait(stub, [node.name for node in cluster.values()], timeout=120).end()
    services = {
        host: {unit: node.active(unit) for unit in ("ssh", "munge", "slurmd")}
        for host, node in cluster.items()
    }
    ping = cluster["controller"].exec("scontrol", "ping", check=False)
    return wait, services, ping


@pytest.fixture
def ready_cluster(cluster, waited):
    wait, _, _ = waited
    assert wait.code == "OK"
    return cluster


@pytest.fixture(scope="session")
def healthy(swept):
    """Returns a submitter on which everything works; tests leave it in that state."""
    return make_booted("healthy", "--label", "sind.role=submitter")


@pytest.fixture(scope="session")
def without_munge(swept):
    """Returns a submitter whose munge was stopped."""
    node = make_booted("munge-stopped", "--label", "sind.role=submitter")
    node.exec("systemctl", "stop", "munge.service")
    return node


@pytest.fixture(scope="session")
def without_slurmctld(swept, tmp_path_factory):
    """Returns a controller that has everything slurmctld needs, but no slurmctld was started."""
    conf = tmp_path_factory.mktemp("slurm") / "slurm.conf"
    conf.write_text(
        "ClusterName=lone\n"
        "SlurmctldHost=controller\n"
        "SlurmUser=slurm\n"
        "AuthType=auth/munge\n"
        "StateSaveLocation=/var/lib/slurm/slurmctld\n"
        "ProctrackType=proctrack/linuxproc\n"
        "NodeName=worker CPUs=1\n"
        "PartitionName=all Nodes=ALL\n"
    )
    return make_booted("no-slurmctld", "--conf", conf, "--hostname", "controller", "--label", "sind.role=controller")


def pause(name):
    """Pauses a container. Tries again if a process that was just starting could not be frozen."""

    def is_paused():
        ran = subprocess.run(["docker", "pause", name], capture_output=True, text=True)
        assert ran.returncode == 0 or "unable to freeze" in ran.stderr, ran.stderr
        return ran.returncode == 0

    eventually("it is paused", is_paused, within=10)


@pytest.fixture
def paused(healthy):
    pause(healthy.name)
    yield healthy
    docker("unpause", healthy.name)


@pytest.fixture(scope="session")
def keyless(swept):
    return make_booted("munge-failed", "--label", "sind.role=submitter")


@pytest.fixture
def failed_munge(keyless):
    """Yields a submitter whose munge has failed because it lost its key."""
    keyless.exec("mv", "/etc/munge/munge.key", "/etc/munge/away")
    keyless.exec("systemctl", "restart", "munge.service", check=False)
    assert keyless.exec("systemctl", "is-active", "munge.service", check=False) == "failed"
    yield keyless
    repair_munge(keyless)


def repair_munge(node):
    node.exec("sh", "-c", "cd /etc/munge && if [ -e away ]; then mv away munge.key; fi")
    # Without this, systemd refuses to start a unit that was restarted too often.
    node.exec("systemctl", "reset-failed", "munge.service", check=False)
    node.exec("systemctl", "start", "munge.service")


@pytest.fixture
def hung_controller(ready_cluster):
    """Yields the cluster's controller, whose slurmctld is active and answers nothing."""
    controller = ready_cluster["controller"]
    controller.exec("pkill", "-STOP", "-x", "slurmctld")
    yield controller
    controller.exec("pkill", "-CONT", "-x", "slurmctld")
