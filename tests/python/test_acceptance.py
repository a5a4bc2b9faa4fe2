"""readyd's contract, as a client that was generated from the proto sees it."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from readyd.v1 import readyd_pb2 as pb

from calls import PATIENCE, duration, outcome, outcomes, probe, refusal, state, verdict
from conftest import HOSTS, docker, eventually, make, make_booted, pause, repair_munge, unique

BASE = ["container", "systemd", "sshd", "munge"]
DAEMON = {"controller": "slurmctld", "worker": "slurmd", "submitter": None}
KNOWN = [*BASE, "slurmctld", "slurmd", "slurmdbd", "sackd", "slurmrestd", "registered"]


def probes_of(role):
    return BASE + [DAEMON[role]] if DAEMON[role] else BASE


def role_number(role):
    return pb.Role.Value(f"ROLE_{role.upper()}")


def snapshot(stub, node, **fields):
    return stub.Snapshot(pb.SnapshotRequest(node=node, **fields), timeout=PATIENCE)


def check(stub, node, name, **fields):
    request = pb.CheckRequest(node=node, probe=name, **fields)
    return stub.Check(request, timeout=PATIENCE).report


def assert_timed_out(wait, node, failing):
    """Asserts that the result and the status both name the node and the probe."""
    result, failure = wait.result, wait.failure
    assert verdict(result) == "TIMED_OUT"
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "WAIT_TIMED_OUT")
    assert failure.metadata == {"node": node, "probe": failing}
    assert failure.message == result.message
    assert node in result.message and failing in result.message
    return result


def assert_terminal(wait, node, failing):
    result, failure = wait.result, wait.failure
    assert verdict(result) == "TERMINAL"
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "NODE_TERMINAL")
    assert failure.metadata == {"node": node, "probe": failing}
    assert failure.message == result.message
    assert node in result.message and failing in result.message
    return result


def assert_invalid(failure, fields):
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert [field for field, _ in failure.violations] == fields
    assert all(description for _, description in failure.violations)


# --- all is well ------------------------------------------------------------------------------


def test_a_wait_for_a_whole_cluster_ends_ready(cluster, waited):
    wait, _, _ = waited
    names = [node.name for node in cluster.values()]
    assert wait.code == "OK"
    assert verdict(wait.result) == "READY"
    assert wait.result.message == ""
    assert {report.node for report in wait.reports()} == set(names)
    assert [report.node for report in wait.result.nodes] == names
    for report, role in zip(wait.result.nodes, HOSTS.values()):
        assert (state(report), report.reason) == ("READY", "")
        assert report.role == role_number(role)
        assert outcomes(report.probes) == dict.fromkeys(probes_of(role), "PASSED")


def test_what_is_called_ready_is_ready(waited):
    _, services, ping = waited
    for host, role in HOSTS.items():
        assert services[host] == {"ssh": True, "munge": True, "slurmd": role == "worker"}
    assert "is UP" in ping


def test_every_report_that_is_not_ready_says_why(waited):
    wait, _, _ = waited
    for report in wait.reports():
        assert (report.reason == "") == (state(report) == "READY")
        for found in report.probes:
            assert found.reason or outcome(found) == "PASSED"


@pytest.mark.parametrize("host", HOSTS)
def test_a_snapshot_of_a_ready_node_says_so(stub, ready_cluster, host):
    role, name = HOSTS[host], ready_cluster[host].name
    seen = snapshot(stub, name)
    assert seen.ready
    assert (seen.node, seen.role) == (name, role_number(role))
    expected = {"munge": True, "sshd": True}
    if DAEMON[role]:
        expected[DAEMON[role]] = True
    assert dict(seen.services) == expected
    assert outcomes(seen.probes) == dict.fromkeys(probes_of(role), "PASSED")
    assert seen.observe_time.seconds == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("host", HOSTS)
def test_a_check_of_each_probe_of_a_ready_node_passes(stub, ready_cluster, host):
    for name in probes_of(HOSTS[host]):
        report = check(stub, ready_cluster[host].name, name)
        assert (report.probe, outcome(report)) == (name, "PASSED"), report.reason
        assert report.via
        assert report.HasField("elapsed") and report.HasField("since")


def test_workers_of_a_ready_cluster_get_registered(wait, stub, ready_cluster):
    workers = [ready_cluster["worker-0"].name, ready_cluster["worker-1"].name]
    ended = wait(workers, timeout=60, probes=["registered"]).end()
    assert ended.code == "OK", ended.result.message
    assert [outcomes(report.probes) for report in ended.result.nodes] == [{"registered": "PASSED"}] * 2
    assert outcome(check(stub, workers[0], "registered")) == "PASSED"


@pytest.mark.parametrize("name", ["slurmdbd", "sackd", "slurmrestd"])
def test_a_daemon_that_a_node_does_not_have_fails_and_its_unit_is_named(stub, healthy, name):
    report = check(stub, healthy.name, name)
    assert outcome(report) == "FAILED"
    assert f"{name}.service" in report.reason


def test_whoever_else_listens_on_its_port_is_no_slurmrestd(stub, healthy):
    healthy.exec("systemd-run", "--unit=listener", "systemd-socket-activate", "--accept", "-l", "6820", "/bin/cat")
    try:
        eventually("port 6820 accepts", lambda: ":6820" in healthy.exec("ss", "-Hltn"), within=10)
        assert outcome(check(stub, healthy.name, "slurmrestd")) == "FAILED"
    finally:
        healthy.exec("systemctl", "stop", "listener")


def test_a_requested_role_counts_more_than_the_label(stub, healthy):
    seen = snapshot(stub, healthy.name, role=pb.ROLE_WORKER)
    assert seen.role == pb.ROLE_WORKER
    assert dict(seen.services) == {"munge": True, "sshd": True, "slurmd": False}
    assert not seen.ready


def test_requested_probes_replace_those_of_the_role_in_table_order(wait, healthy):
    ended = wait([healthy.name], timeout=20, probes=["munge", "container"]).end()
    assert ended.code == "OK"
    assert list(outcomes(ended.result.nodes[0].probes)) == ["container", "munge"]


def test_a_node_is_reported_by_the_name_that_the_client_gave_it(wait, stub, healthy):
    short_id = docker("inspect", "-f", "{{.Id}}", healthy.name)[:12]
    assert snapshot(stub, short_id).node == short_id
    ended = wait([short_id], timeout=20).end()
    assert ended.code == "OK"
    assert {report.node for report in ended.reports()} == {short_id}


def test_the_same_target_twice_counts_once(wait, healthy):
    ended = wait([healthy.name, healthy.name], timeout=20).end()
    assert ended.code == "OK"
    assert [report.node for report in ended.result.nodes] == [healthy.name]


# --- a stopped munge --------------------------------------------------------------------------


def test_a_stopped_munge_makes_a_snapshot_not_ready(stub, without_munge):
    seen = snapshot(stub, without_munge.name)
    assert not seen.ready
    assert dict(seen.services) == {"munge": False, "sshd": True}
    assert outcomes(seen.probes) == {**dict.fromkeys(BASE, "PASSED"), "munge": "FAILED"}


def test_a_stopped_munge_is_named_by_a_check(stub, without_munge):
    report = check(stub, without_munge.name, "munge")
    assert outcome(report) == "FAILED"
    assert "munge.service" in report.reason


def test_a_stopped_munge_is_named_when_a_wait_times_out(wait, without_munge):
    ended = wait([without_munge.name], timeout=2).end()
    result = assert_timed_out(ended, without_munge.name, "munge")
    assert "munge.service" in result.message
    assert 1.9 <= result.elapsed.ToTimedelta().total_seconds() < 4
    assert 1.9 <= ended.elapsed < 4
    (report,) = result.nodes
    assert state(report) == "WAITING"
    assert outcomes(report.probes) == {**dict.fromkeys(BASE, "PASSED"), "munge": "FAILED"}


def test_probes_behind_a_stopped_munge_are_skipped(wait, without_munge):
    ended = wait([(without_munge.name, pb.ROLE_WORKER)], timeout=1).end()
    result = assert_timed_out(ended, without_munge.name, "munge")
    assert outcomes(result.nodes[0].probes)["slurmd"] == "SKIPPED"


def test_a_node_that_is_not_ready_is_named_among_those_that_are(wait, healthy, without_munge):
    ended = wait([healthy.name, without_munge.name], timeout=2).end()
    result = assert_timed_out(ended, without_munge.name, "munge")
    assert [state(report) for report in result.nodes] == ["READY", "WAITING"]
    assert healthy.name not in result.message


def test_a_node_that_fails_is_named_before_one_that_has_yet_to_prove_stable(wait, healthy, without_munge):
    ended = wait([healthy.name, without_munge.name], timeout=2, stable_for=1.9).end()
    assert_timed_out(ended, without_munge.name, "munge")


# --- slurmctld --------------------------------------------------------------------------------


def test_a_slurmctld_that_nobody_started_is_the_only_thing_missing(stub, without_slurmctld):
    seen = snapshot(stub, without_slurmctld.name)
    assert not seen.ready
    assert dict(seen.services) == {"munge": True, "sshd": True, "slurmctld": False}
    assert outcomes(seen.probes) == {**dict.fromkeys(BASE, "PASSED"), "slurmctld": "FAILED"}
    report = check(stub, without_slurmctld.name, "slurmctld")
    assert outcome(report) == "FAILED"
    assert "slurmctld" in report.reason


def test_a_slurmctld_that_nobody_started_is_named_when_a_wait_times_out(wait, without_slurmctld):
    ended = wait([without_slurmctld.name], timeout=2).end()
    result = assert_timed_out(ended, without_slurmctld.name, "slurmctld")
    assert outcomes(result.nodes[0].probes) == {**dict.fromkeys(BASE, "PASSED"), "slurmctld": "FAILED"}


def test_an_active_slurmctld_that_does_not_answer_is_not_ready(wait, stub, hung_controller):
    name = hung_controller.name
    assert hung_controller.active("slurmctld")
    report = check(stub, name, "slurmctld", timeout=duration(2))
    assert outcome(report) == "FAILED"
    assert "scontrol ping" in report.reason

    ended = wait([name], timeout=3).end()
    result = assert_timed_out(ended, name, "slurmctld")
    assert "scontrol ping has not answered yet" in result.message


def test_a_hung_slurmctld_that_goes_on_becomes_ready(wait, hung_controller):
    waiting = wait([hung_controller.name], timeout=60)
    waiting.until(lambda report: report.reason.startswith("slurmctld: "))
    hung_controller.exec("pkill", "-CONT", "-x", "slurmctld")
    assert waiting.end().code == "OK"


def test_a_check_that_outlasts_the_callers_deadline_says_so_itself(stub, hung_controller):
    start = time.monotonic()
    failure = refusal(stub.Check, pb.CheckRequest(node=hung_controller.name, probe="slurmctld"), timeout=2)
    assert time.monotonic() - start < 2
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert failure.metadata == {"node": hung_controller.name, "probe": "slurmctld"}


# --- containers come and go -------------------------------------------------------------------


def test_a_container_that_exits_while_it_is_waited_for_ends_the_wait(wait, stub):
    node = make_booted("killed", "--label", "sind.role=worker")
    waiting = wait([node.name], timeout=60)
    # Nothing starts the node's slurmd.
    waiting.until(lambda report: report.reason.startswith("slurmd: "))
    docker("kill", node.name)
    killed = time.monotonic()
    result = assert_terminal(waiting.end(), node.name, "container")
    assert time.monotonic() - killed < 5
    assert f"container {node.name} is exited (exit code 137)" in result.message
    (report,) = result.nodes
    assert state(report) == "TERMINAL"
    assert outcomes(report.probes)["container"] == "TERMINAL"

    seen = snapshot(stub, node.name)
    assert not seen.ready
    assert dict(seen.services) == {"munge": False, "sshd": False, "slurmd": False}
    for name in probes_of("worker"):
        found = check(stub, node.name, name)
        assert outcome(found) == "TERMINAL"
        assert found.reason == f"container {node.name} is exited (exit code 137)"


def test_a_container_that_is_created_during_the_wait_becomes_ready(wait):
    name = unique("late")
    waiting = wait([name], timeout=90)
    first = waiting.next()
    assert first.WhichOneof("event") == "node"
    assert "does not exist yet" in first.node.reason and name in first.node.reason
    make("late", "--label", "sind.role=submitter")
    ended = waiting.end()
    assert ended.code == "OK", ended.reasons()
    assert verdict(ended.result) == "READY"
    (report,) = ended.result.nodes
    assert (state(report), report.role) == ("READY", pb.ROLE_SUBMITTER)


def test_a_container_that_never_comes_is_waited_for_until_the_limit(wait):
    name = unique("never")
    ended = wait([name], timeout=1).end()
    result = assert_timed_out(ended, name, "container")
    assert f"container {name} does not exist yet" in result.message


def test_a_container_that_is_removed_while_it_is_waited_for_ends_the_wait(wait):
    node = make("removed", "--label", "sind.role=worker")
    waiting = wait([node.name], timeout=60)
    waiting.until(lambda report: report.probes[0].outcome == pb.OUTCOME_PASSED)
    docker("rm", "-fv", node.name)
    result = assert_terminal(waiting.end(), node.name, "container")
    assert f"container {node.name}" in result.message


def test_a_container_that_is_restarted_while_it_is_waited_for_ends_the_wait(wait):
    node = make("restarted", "--label", "sind.role=submitter")
    waiting = wait([node.name], timeout=60, stable_for=50, probes=["container"], poll_interval=0.01)
    waiting.until(lambda report: report.probes[0].outcome == pb.OUTCOME_PASSED)
    docker("restart", "--time", "0", node.name)
    result = assert_terminal(waiting.end(), node.name, "container")
    # On a busy machine the engine starts the next run before anybody can see that the last has ended.
    is_exited = f"container {node.name} is exited"
    is_another_run = f"container {node.name} has ended, and was started again"
    assert is_exited in result.message or is_another_run in result.message


def test_a_paused_container_fails_and_is_said_to_be_paused(wait, stub, paused):
    seen = snapshot(stub, paused.name)
    assert not seen.ready
    assert dict(seen.services) == {"munge": False, "sshd": False}
    assert outcomes(seen.probes) == dict.fromkeys(BASE, "FAILED")
    for name in BASE:
        report = check(stub, paused.name, name)
        assert outcome(report) == "FAILED"
        assert report.reason == f"container {paused.name} is paused"

    ended = wait([paused.name], timeout=1).end()
    result = assert_timed_out(ended, paused.name, "container")
    assert "is paused" in result.message


def test_a_paused_container_that_goes_on_becomes_ready(wait, healthy):
    pause(healthy.name)
    try:
        waiting = wait([healthy.name], timeout=60)
        waiting.until(lambda report: "is paused" in report.reason)
    finally:
        docker("unpause", healthy.name)
    assert waiting.end().code == "OK"


def test_a_label_that_is_no_role_is_named(wait, stub):
    node = make("odd-role", "--label", "sind.role=login")
    seen = snapshot(stub, node.name)
    assert not seen.ready
    assert seen.role == pb.ROLE_UNSPECIFIED
    container = probe(seen.probes, "container")
    assert outcome(container) == "FAILED"
    assert "sind.role" in container.reason and "login" in container.reason
    ended = wait([node.name], timeout=1).end()
    assert_timed_out(ended, node.name, "container")


# --- unknown names and probes -----------------------------------------------------------------


def test_an_unknown_name_is_not_found(stub):
    name = unique("nobody")
    for failure in (
        refusal(stub.Snapshot, pb.SnapshotRequest(node=name)),
        refusal(stub.Check, pb.CheckRequest(node=name, probe="munge")),
    ):
        assert (failure.code, failure.reason) == ("NOT_FOUND", "NODE_NOT_FOUND")
        assert failure.metadata["node"] == name
        assert name in failure.message


def test_an_unknown_probe_is_refused_and_the_known_ones_are_listed(stub):
    for call, request, field in (
        (stub.Check, pb.CheckRequest(node="n", probe="frobnicate"), "probe"),
        (
            stub.WaitReady,
            pb.WaitReadyRequest(nodes=[pb.NodeTarget(node="n")], probes=["munge", "frobnicate"]),
            "probes[1]",
        ),
    ):
        failure = refusal(call, request)
        assert_invalid(failure, [field])
        ((_, description),) = failure.violations
        assert "frobnicate" in description
        assert all(name in description for name in KNOWN)


# --- violations -------------------------------------------------------------------------------


def test_all_violations_of_a_request_are_told_at_once(stub):
    failure = refusal(
        stub.WaitReady,
        pb.WaitReadyRequest(
            nodes=[
                pb.NodeTarget(node="a/b"),
                pb.NodeTarget(node=""),
                pb.NodeTarget(node="n", role=42),
                pb.NodeTarget(node="twice", role=pb.ROLE_WORKER),
                pb.NodeTarget(node="twice", role=pb.ROLE_DB),
            ],
            probes=["frobnicate", "munge", "munge"],
            timeout=Duration(seconds=-1),
            poll_interval=Duration(nanos=1_000_000),
            stable_for=Duration(seconds=1, nanos=-1),
            failure_policy=9,
        ),
    )
    assert_invalid(
        failure,
        [
            "nodes[0].node",
            "nodes[1].node",
            "nodes[2].role",
            "nodes[4].role",
            "probes[0]",
            "probes[2]",
            "timeout",
            "poll_interval",
            "stable_for",
            "failure_policy",
        ],
    )


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.WaitReadyRequest(), ["nodes"]),
        (
            pb.WaitReadyRequest(
                nodes=[pb.NodeTarget(node="n")],
                cluster=pb.ClusterSelector(realm="r", cluster="c"),
            ),
            ["cluster"],
        ),
        (pb.WaitReadyRequest(nodes=[pb.NodeTarget(node="n")] * 1001), ["nodes"]),
        (
            pb.WaitReadyRequest(nodes=[pb.NodeTarget(node="n")], timeout=duration(24 * 3600 + 1)),
            ["timeout"],
        ),
        (
            pb.WaitReadyRequest(nodes=[pb.NodeTarget(node="n")], poll_interval=duration(61)),
            ["poll_interval"],
        ),
        (
            pb.WaitReadyRequest(
                nodes=[pb.NodeTarget(node="n")], timeout=duration(2), stable_for=duration(2)
            ),
            ["stable_for"],
        ),
    ],
    ids=["no node", "nodes and cluster", "too many nodes", "over a day", "slow polls", "stable for too long"],
)
def test_a_wait_that_makes_no_sense_is_refused(stub, request_, fields):
    assert_invalid(refusal(stub.WaitReady, request_), fields)


def test_bad_snapshots_and_checks_are_refused(stub):
    assert_invalid(refusal(stub.Snapshot, pb.SnapshotRequest()), ["node"])
    assert_invalid(refusal(stub.Snapshot, pb.SnapshotRequest(node="../x", role=42)), ["node", "role"])
    assert_invalid(
        refusal(stub.Check, pb.CheckRequest(role=42, timeout=Duration(seconds=-1))),
        ["node", "probe", "timeout", "role"],
    )


@pytest.mark.parametrize(
    "bad",
    ["a/b", "é%" * 400, "\u202e\n" * 400],
    ids=["short", "long", "hostile"],
)
def test_sixteen_violations_are_told_and_the_rest_counted(stub, bad):
    failure = refusal(
        stub.WaitReady,
        pb.WaitReadyRequest(nodes=[pb.NodeTarget(node=bad) for _ in range(20)]),
    )
    assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    told, (_, last) = failure.violations[:-1], failure.violations[-1]
    assert [field for field, _ in told] == [f"nodes[{index}].node" for index in range(16)]
    assert last == "and 4 more"
    assert failure.trailer_bytes < 4096
    # The server does not return unprintable and bidi characters.
    assert all(text.isprintable() for _, text in failure.violations)
    assert failure.message.isprintable()


def test_twenty_unknown_probes_leave_room_for_the_known_ones(stub):
    failure = refusal(
        stub.WaitReady,
        pb.WaitReadyRequest(
            nodes=[pb.NodeTarget(node="n")], probes=[f"frobnicate-{n}" for n in range(20)]
        ),
    )
    assert len(failure.violations) == 17
    assert failure.violations[-1][1] == "and 4 more"
    assert all(name in failure.message for name in KNOWN)


# --- clusters ---------------------------------------------------------------------------------


def test_a_cluster_without_nodes_is_incomplete(wait):
    selector = pb.ClusterSelector(realm="readyd", cluster="no-such")
    ended = wait([], timeout=2, cluster=selector).end()
    assert ended.code == "DEADLINE_EXCEEDED"
    assert {message.WhichOneof("event") for message in ended.messages[:-1]} == {"cluster"}
    message = ended.messages[-1].result.message
    assert message == "not ready within 2s: cluster readyd/no-such has 0 of 1 node"


def test_a_bad_cluster_selector_is_refused_before_anything_else(stub):
    for selector, fields in (
        (pb.ClusterSelector(realm="readyd"), ["cluster.cluster"]),
        (pb.ClusterSelector(cluster="demo"), ["cluster.realm"]),
        (pb.ClusterSelector(), ["cluster.realm", "cluster.cluster"]),
    ):
        assert_invalid(refusal(stub.WaitReady, pb.WaitReadyRequest(cluster=selector)), fields)


def test_a_level_that_runs_jobs_is_refused(stub):
    wanted = pb.WaitReadyRequest(nodes=[pb.NodeTarget(node="any")], level=pb.LEVEL_JOBS)
    failure = refusal(stub.WaitReady, wanted)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "JOBS_NOT_ALLOWED")


# --- lists ------------------------------------------------------------------------------------


def test_every_node_is_in_one_page_alone(stub, healthy):
    request = pb.ListNodesRequest(page_size=1)
    names = []
    while True:
        page = stub.ListNodes(request)
        names += [node.node for node in page.nodes]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert len(names) == len(set(names))
    assert names == [node.node for node in stub.ListNodes(pb.ListNodesRequest(page_size=1000)).nodes]
    request.page_token = request.page_token[:-1] + "!"
    assert_invalid(refusal(stub.ListNodes, request), ["page_token"])


# --- limits -----------------------------------------------------------------------------------


def test_a_callers_own_deadline_ends_a_wait_with_its_result(wait, without_munge):
    ended = wait([without_munge.name], timeout=None, deadline=2).end()
    assert ended.elapsed < 2
    assert_timed_out(ended, without_munge.name, "munge")


def test_a_callers_own_deadline_is_never_a_race(wait):
    name = unique("nobody")

    def one(_):
        return wait([name], timeout=None, deadline=1).end()

    with ThreadPoolExecutor(20) as pool:
        for ended in pool.map(one, range(20)):
            assert ended.elapsed < 1
            assert_timed_out(ended, name, "container")


# --- failed units -----------------------------------------------------------------------------


def test_a_failed_unit_is_terminal_and_shows_its_journal(wait, failed_munge):
    ended = wait([(failed_munge.name, pb.ROLE_WORKER)], timeout=30).end()
    result = assert_terminal(ended, failed_munge.name, "munge")
    assert "munge.service" in result.message
    (report,) = result.nodes
    assert state(report) == "TERMINAL"
    assert outcomes(report.probes) == {
        "container": "PASSED",
        "systemd": "PASSED",
        "sshd": "PASSED",
        "munge": "TERMINAL",
        "slurmd": "SKIPPED",
    }
    detail = probe(report.probes, "munge").detail
    assert "munge.key" in detail
    assert 1 <= len(detail.splitlines()) <= 20
    assert len(detail.encode()) <= 8192
    # The failed unit makes systemd degraded, which passes with a reason.
    assert "munge.service" in probe(report.probes, "systemd").reason


def test_a_failed_unit_is_told_by_snapshot_and_check(stub, failed_munge):
    seen = snapshot(stub, failed_munge.name)
    assert not seen.ready
    assert dict(seen.services) == {"munge": False, "sshd": True}
    report = check(stub, failed_munge.name, "munge")
    assert outcome(report) == "TERMINAL"
    assert "munge.service" in report.reason
    assert "munge.key" in report.detail


def test_a_failed_unit_is_waited_for_if_the_caller_keeps_waiting(wait, failed_munge):
    ended = wait([failed_munge.name], timeout=2, failure_policy=pb.FAILURE_POLICY_KEEP_WAITING).end()
    result = assert_timed_out(ended, failed_munge.name, "munge")
    (report,) = result.nodes
    assert state(report) == "WAITING"
    munge = probe(report.probes, "munge")
    assert outcome(munge) == "FAILED"
    assert "munge.key" in munge.detail


def test_a_failed_unit_that_is_repaired_becomes_ready_if_the_caller_keeps_waiting(wait, failed_munge):
    waiting = wait([failed_munge.name], timeout=60, failure_policy=pb.FAILURE_POLICY_KEEP_WAITING)
    waiting.until(lambda report: report.reason.startswith("munge: "))
    repair_munge(failed_munge)
    assert waiting.end().code == "OK"


# --- stability --------------------------------------------------------------------------------


def test_a_node_has_to_stay_ready_for_as_long_as_was_asked(wait, healthy):
    ended = wait([healthy.name], timeout=30, stable_for=1.5).end()
    assert ended.code == "OK"
    assert ended.elapsed >= 1.5
    first = ended.reports()[0]
    assert state(first) == "WAITING"
    assert first.reason
    assert outcomes(first.probes) == dict.fromkeys(BASE, "PASSED")


def test_a_failure_in_between_starts_the_count_anew(wait, healthy):
    waiting = wait([healthy.name], timeout=60, stable_for=2, poll_interval=0.05)
    waiting.until(lambda report: set(outcomes(report.probes).values()) == {"PASSED"})
    healthy.exec("systemctl", "stop", "munge.service")
    try:
        waiting.until(lambda report: report.reason.startswith("munge: "))
    finally:
        started = time.monotonic()
        healthy.exec("systemctl", "start", "munge.service")
    ended = waiting.end()
    assert ended.code == "OK"
    assert time.monotonic() - started >= 2


# --- the server -------------------------------------------------------------------------------


def test_reflection_lists_the_service(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "readyd.v1.ReadinessService" in database.get_services()
    service = DescriptorPool(database).FindServiceByName("readyd.v1.ReadinessService")
    assert {method.name for method in service.methods} == {
        "Snapshot",
        "Check",
        "WaitReady",
        "ListNodes",
        "WatchNodes",
        "ListProbes",
    }
