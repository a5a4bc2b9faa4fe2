"""A stock client over the server's Unix socket, with gRPC's own defaults: it sends the socket's path as
the authority of each call."""

import grpc
import pytest
from readyd.v1 import readyd_pb2, readyd_pb2_grpc

from calls import Wait

FORMS = ["unix:{}", "unix://{}"]


@pytest.mark.parametrize("form", FORMS)
def test_a_stock_client_is_served_over_a_unix_socket(form, server, unix_socket, healthy):
    with grpc.insecure_channel(form.format(unix_socket)) as channel:
        stub = readyd_pb2_grpc.ReadinessServiceStub(channel)
        # Later calls refer to the headers of earlier ones.
        for _ in range(3):
            snapshot = stub.Snapshot(readyd_pb2.SnapshotRequest(node=healthy.name), timeout=30)
            assert snapshot.ready
        wait = Wait(stub, [healthy.name], timeout=60).end()
        assert wait.code == "OK"
        with pytest.raises(grpc.RpcError) as refused:
            stub.Snapshot(readyd_pb2.SnapshotRequest(node="no-such-node"), timeout=30)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("authority", ["localhost", "%2Ftmp%2Fr.sock", "/tmp/r.sock", "unix:/tmp/r.sock", "a b"])
def test_an_authority_says_nothing_over_a_unix_socket(authority, server, unix_socket, healthy):
    options = [("grpc.default_authority", authority)]
    with grpc.insecure_channel(f"unix:{unix_socket}", options=options) as channel:
        stub = readyd_pb2_grpc.ReadinessServiceStub(channel)
        assert stub.Snapshot(readyd_pb2.SnapshotRequest(node=healthy.name), timeout=30).ready
