"""Applications that raise, return early, or send to a client that is gone."""

import asyncio
import copy
import logging

import pytest
from apps import (
    GET,
    GET_CLOSE,
    Gate,
    get,
    hello,
    http_only,
    post,
    read_to_end,
    respond,
    take_replies,
)
from support import read_response, wait_until

from thestral.errors import ClientDisconnected, LocalProtocolError

START = {"type": "http.response.start", "status": 200, "headers": []}
MORE = {"type": "http.response.body", "body": b"x", "more_body": True}


# --- Clients that are gone ------------------------------------------------------------------------


def gone_app(caught, gate, swallow=False):
    @http_only
    async def app(scope, receive, send):
        await gate.wait()
        try:
            await send(START)
            while True:
                await send({**MORE, "body": b"x" * 65536})
                await asyncio.sleep(0)
        except OSError as exc:
            caught.append(exc)
            with pytest.raises(ClientDisconnected):  # and again
                await send(MORE)
            if not swallow:
                raise

    return app


@pytest.mark.parametrize("swallow", [False, True])
def test_send_to_a_client_that_is_gone_raises_oserror_and_is_quiet(serve, errors, swallow):
    caught = []
    gate = Gate()
    running = serve(gone_app(caught, gate, swallow))
    with running.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: gate.reached)
    gate.open(running)
    wait_until(lambda: not running.context.cycles)
    assert [type(exc) for exc in caught] == [ClientDisconnected]
    wait_until(lambda: not running.context.connections)
    assert errors() == []


def test_disconnect_out_of_a_task_group_is_quiet(serve, errors):
    caught = []
    gate = Gate()
    inner = gone_app(caught, gate)

    @http_only
    async def app(scope, receive, send):
        async with asyncio.TaskGroup() as group:
            group.create_task(inner(scope, receive, send))

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: gate.reached)
    gate.open(running)
    wait_until(lambda: not running.context.cycles)
    assert len(caught) == 1
    assert errors() == []


def test_other_error_after_the_client_is_gone_is_logged(serve, errors):
    @http_only
    async def app(scope, receive, send):
        await receive()
        gate.reached += 1
        await receive()
        raise RuntimeError("on purpose")

    gate = Gate()
    running = serve(app)
    with running.connect() as sock:
        sock.sendall(GET)
        wait_until(lambda: gate.reached)
    wait_until(lambda: errors())
    (record,) = errors()
    assert "on purpose" in str(record.exc_info[1])


# --- Applications that fail -----------------------------------------------------------------------


class OwnBaseException(BaseException):
    pass


FAILURES = [
    RuntimeError("on purpose"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    OwnBaseException("on purpose"),
    ExceptionGroup("on purpose", [ValueError("x")]),
    BaseExceptionGroup("on purpose", [KeyboardInterrupt()]),
    OSError("not about the client"),
    LocalProtocolError("not raised by us"),
    StopIteration(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
def test_raising_before_start_is_500_and_logged(serve, errors, failure):
    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/raise":
            raise copy.copy(failure)  # its traceback would keep the request alive
        await hello(scope, receive, send)

    running = serve(app)
    with running.connect() as sock:
        sock.settimeout(3)
        for path in ("/raise", "/raise?again"):
            sock.sendall(get(path))
            head, body = read_response(sock)
            assert head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
            assert b"content-type: text/plain; charset=utf-8\r\n" in head
            assert body == b"Internal Server Error"
        sock.sendall(GET)  # and the connection goes on
        assert read_response(sock)[1] == b"hello"
    for record in errors():
        assert record.name == "uvicorn.error"
        assert record.exc_info[1] is not None
        assert record.exc_info[2] is not None
        assert "GET /raise" in record.getMessage()
    assert len(errors()) == 2
    wait_until(lambda: not running.context.cycles)


def test_raising_with_the_head_held_is_500(serve, errors):
    """The head was held and not sent, so the response can still become a 500."""

    @http_only
    async def app(scope, receive, send):
        await send({**START, "headers": [(b"x-a", b"1"), (b"content-length", b"99")]})
        raise RuntimeError("on purpose")

    replies = take_replies(serve(app).raw(GET + GET_CLOSE))
    assert [reply.status for reply in replies] == [500, 500]
    assert not replies[0].all(b"x-a")
    assert len(errors()) == 2


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"100")]])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("raises", [True, False])
def test_ending_within_the_body_closes_the_connection(serve, errors, headers, version, raises):
    @http_only
    async def app(scope, receive, send):
        await send({**START, "headers": headers})
        await send(MORE)
        if raises:
            raise RuntimeError("on purpose")

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n" + GET)
        raw = read_to_end(sock)
    assert raw.count(b"HTTP/1.1") <= 1
    assert b"0\r\n\r\n" not in raw.partition(b"\r\n\r\n")[2]  # never looks complete
    assert len(errors()) == 1
    wait_until(lambda: not running.context.connections)


def test_raising_after_completion_keeps_the_connection(serve, errors):
    @http_only
    async def app(scope, receive, send):
        await respond(send, b"done")
        raise RuntimeError("on purpose")

    replies = take_replies(serve(app).raw(GET + GET_CLOSE))
    assert [reply.body for reply in replies] == [b"done", b"done"]
    wait_until(lambda: len(errors()) == 2)


def test_returning_without_a_response_is_500(serve, errors):
    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/start":
            await send(START)

    replies = take_replies(serve(app).raw(GET + get("/start") + GET_CLOSE))
    assert [reply.status for reply in replies] == [500, 500, 500]
    assert [record.levelno for record in errors()] == [logging.ERROR] * 3
    assert "without" in errors()[0].getMessage()
    assert "GET /start" in errors()[1].getMessage()


def test_raising_with_body_unread_is_500_and_in_step(serve):
    @http_only
    async def app(scope, receive, send):
        raise RuntimeError("on purpose")

    raw = serve(app).raw(post(b"x" * 100_000) + GET_CLOSE)
    assert [reply.status for reply in take_replies(raw)] == [500, 500]
