"""Calls through the generated stubs, with replies in a form that is easy to assert on."""

import time

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from readyd.v1 import readyd_pb2 as pb

# The time limit of calls that set none themselves: a hang has to make the test fail.
PATIENCE = 30


def duration(seconds):
    made = Duration()
    made.FromNanoseconds(int(seconds * 1_000_000_000))
    return made


def outcome(report):
    name = pb.Outcome.Name(report.outcome).removeprefix("OUTCOME_")
    # Every reason has a code, and what needs no reason has none.
    needs_code = name not in ("PASSED", "SKIPPED")
    assert (report.code != pb.REASON_CODE_UNSPECIFIED) == needs_code, report
    return name


def outcomes(probes):
    """Returns the outcomes of reports, by probe, in their order."""
    return {report.probe: outcome(report) for report in probes}


def probe(probes, name):
    return next(report for report in probes if report.probe == name)


def state(node):
    return pb.NodeState.Name(node.state).removeprefix("NODE_STATE_")


def verdict(result):
    return pb.Verdict.Name(result.verdict).removeprefix("VERDICT_")


class Failure:
    """A status that is not OK, with its details."""

    def __init__(self, call):
        self.code = call.code().name
        self.message = call.details()
        # This raises if the code or the message differs from that of the google.rpc.Status.
        status = rpc_status.from_call(call)
        assert status is not None, f"no google.rpc.Status with {self.code}: {self.message}"
        self.trailer_bytes = _on_the_wire(call)
        assert self.trailer_bytes < 4096
        self.info = self._detail(status, error_details_pb2.ErrorInfo)
        assert self.info is not None, f"no ErrorInfo with {self.code}: {self.message}"
        assert self.info.domain == "readyd.v1"
        self.reason = self.info.reason
        self.metadata = dict(self.info.metadata)
        bad = self._detail(status, error_details_pb2.BadRequest)
        self.violations = (
            None if bad is None else [(v.field, v.description) for v in bad.field_violations]
        )

    @staticmethod
    def _detail(status, kind):
        found = [detail for detail in status.details if detail.Is(kind.DESCRIPTOR)]
        assert len(found) <= 1
        if not found:
            return None
        unpacked = kind()
        assert found[0].Unpack(unpacked)
        return unpacked


def _on_the_wire(call):
    """Returns the size of all trailers as a client's limit counts them (RFC 7541, section 4.1)."""
    # grpcio decodes binary values, and does not list these two trailers in the metadata.
    message = "".join(
        chr(byte) if 0x20 <= byte <= 0x7E and byte != 0x25 else f"%{byte:02X}"
        for byte in call.details().encode()
    )
    trailers = [("grpc-status", str(call.code().value[0])), ("grpc-message", message)]
    trailers += call.trailing_metadata() or ()
    return sum(
        len(key) + (-(-len(value) // 3) * 4 if key.endswith("-bin") else len(value)) + 32
        for key, value in trailers
    )


def refusal(call, request, timeout=PATIENCE):
    """Makes a call that has to fail, and returns its failure."""
    try:
        answer = call(request, timeout=timeout)
        if hasattr(answer, "__next__"):
            message = next(answer)
            answer.cancel()
            raise AssertionError(f"a message came where an error was due: {message}")
    except grpc.RpcError as error:
        return Failure(error)
    raise AssertionError(f"an answer came where an error was due: {answer}")


class Wait:
    """A WaitReady in progress."""

    def __init__(self, stub, nodes, *, timeout, deadline=None, **fields):
        targets = [
            pb.NodeTarget(node=node) if isinstance(node, str) else pb.NodeTarget(node=node[0], role=node[1])
            for node in nodes
        ]
        for name in ("poll_interval", "stable_for"):
            if name in fields:
                fields[name] = duration(fields[name])
        if timeout is not None:
            fields["timeout"] = duration(timeout)
        request = pb.WaitReadyRequest(nodes=targets, **fields)
        self._started = time.monotonic()
        self._call = stub.WaitReady(request, timeout=deadline or timeout + PATIENCE)
        self.messages = []
        self.elapsed = None

    def next(self):
        """Returns the next message; None once there is a status."""
        try:
            message = next(self._call)
        except (grpc.RpcError, StopIteration):
            self.elapsed = time.monotonic() - self._started
            return None
        self.messages.append(message)
        return message

    def until(self, seen):
        """Reads until `seen` accepts a node's report, and returns that report."""
        while (message := self.next()) is not None:
            if message.HasField("node") and seen(message.node):
                return message.node
        raise AssertionError(f"the wait ended before that was seen: {self.reasons()}, {self._call.details()}")

    def end(self):
        while self.next() is not None:
            pass
        return self

    def cancel(self):
        self._call.cancel()

    def reports(self):
        return [message.node for message in self.messages if message.HasField("node")]

    def reasons(self):
        return [report.reason for report in self.reports()]

    @property
    def code(self):
        return self._call.code().name

    @property
    def failure(self):
        return Failure(self._call)

    @property
    def result(self):
        """Returns the result, which is the last message and the only one of its kind."""
        kinds = [message.WhichOneof("event") for message in self.messages]
        assert kinds[-1:] == ["result"], f"{kinds}, then {self.code}: {self._call.details()}"
        assert set(kinds[:-1]) == {"node"}
        return self.messages[-1].result
