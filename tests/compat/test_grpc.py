"""gRPC's own client, over HTTP/2 with and without TLS, directly and through nginx."""

from __future__ import annotations

import queue

import grpc
import pytest
from grpc_app import Service
from nginx import Nginx, free_port
from support import PATIENCE, wait_until


@pytest.fixture
def service():
    return Service()


@pytest.fixture(params=["h2c", "tls", "nginx"])
def channel(request, serve, service, certificate, tmp_path):
    options = [("grpc.enable_http_proxy", 0)]
    tls = request.param == "tls"
    running = serve(service, **(certificate.options if tls else {}))
    address = f"127.0.0.1:{running.port}"
    nginx = None
    if request.param == "nginx":
        port = free_port()
        nginx = Nginx(
            tmp_path,
            f"server {{ listen 127.0.0.1:{port} http2; "
            f"client_max_body_size 0; location / {{ grpc_pass grpc://{address}; }} }}",
        )
        nginx.wait(port)
        address = f"127.0.0.1:{port}"
    if tls:
        with open(certificate.authority, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(address, credentials, options)
    else:
        channel = grpc.insecure_channel(address, options)
    with channel:
        yield channel
    if nginx is not None:
        nginx.stop()
    assert {scope["http_version"] for scope in service.scopes} == {"2"}


def test_unary_call(channel, service):
    answer, call = channel.unary_unary("/tests.Service/Upper").with_call(
        b"luna",
        metadata=[("x-token", "a"), ("x-token", "b"), ("x-raw-bin", b"\0\xff")],
        timeout=PATIENCE,
    )
    assert answer == b"LUNA"
    assert call.code() is grpc.StatusCode.OK
    assert ("x-greeting", "hello") in call.initial_metadata()
    assert ("x-farewell", "bye") in call.trailing_metadata()
    (scope,) = service.scopes
    fields = scope["headers"]
    assert [value for name, value in fields if name == b"x-token"] == [b"a", b"b"]
    assert (b"te", b"trailers") in fields
    assert scope["method"] == "POST"


def test_many_unary_calls_at_once(channel):
    upper = channel.unary_unary("/tests.Service/Upper")
    calls = [upper.future(b"luna %d" % i, timeout=PATIENCE) for i in range(300)]
    assert [call.result() for call in calls] == [b"LUNA %d" % i for i in range(300)]


def test_large_messages(channel):
    message = b"x" * 3_000_000
    answer = channel.unary_unary("/tests.Service/Upper")(message, timeout=PATIENCE)
    assert answer == message.upper()


def test_stream_of_the_server(channel):
    call = channel.unary_stream("/tests.Service/Count")(b"5000", timeout=PATIENCE)
    assert list(call) == [b"%d" % number for number in range(5000)]
    assert call.code() is grpc.StatusCode.OK
    assert ("x-farewell", "bye") in call.trailing_metadata()


def test_stream_of_the_client(channel):
    parts = (bytes(10_000) for _ in range(300))
    assert channel.stream_unary("/tests.Service/Total")(parts, timeout=PATIENCE) == b"3000000"


def test_both_stream(channel):
    """The client sends each message once it has the answer to the one before."""
    said: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream("/tests.Service/Echo")(iter(said.get, None), timeout=PATIENCE)
    for number in range(100):
        said.put(b"luna %d" % number)
        assert next(call) == b"LUNA %d" % number
    said.put(None)
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("method", "code", "details"),
    [
        ("Refuse", grpc.StatusCode.INVALID_ARGUMENT, "on purpose"),
        ("Nothing", grpc.StatusCode.UNIMPLEMENTED, "no such method"),
    ],
)
def test_failure_in_the_head(channel, method, code, details):
    """Trailers-Only: a head that ends the stream."""
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary(f"/tests.Service/{method}")(b"x", timeout=PATIENCE)
        assert (failed.value.code(), failed.value.details()) == (code, details)


def test_failure_behind_a_message(channel):
    call = channel.unary_stream("/tests.Service/Break")(b"x", timeout=PATIENCE)
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError) as failed:
        next(call)
    assert failed.value.code() is grpc.StatusCode.DATA_LOSS


def test_call_that_is_cancelled(channel, service):
    """The application learns of it, and the channel goes on."""
    said: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream("/tests.Service/Wait")(iter(said.get, None), timeout=PATIENCE)
    wait_until(lambda: service.waiting)
    assert call.cancel()
    said.put(None)
    wait_until(lambda: service.cancelled)
    assert channel.unary_unary("/tests.Service/Upper")(b"x", timeout=PATIENCE) == b"X"
