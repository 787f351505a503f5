"""Careless applications, apart from their messages: how they end, what they leave running, and how
they use scope, receive() and send() when the request is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc

import pytest
from apps import GET, GET_CLOSE, Gate, get, http_only, post, read_body, respond, take_replies
from support import on_every_transport, read_all, read_response, wait_until

from thestral.errors import LocalProtocolError

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"done"}
MORE = {"type": "http.response.body", "body": b"part", "more_body": True}
DISCONNECT = {"type": "http.disconnect"}


class Wordless(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


def group():
    return ExceptionGroup("two", [ValueError("a"), ExceptionGroup("one", [KeyError("b")])])


FAILURES = {
    "SystemExit": lambda: SystemExit(7),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopAsyncIteration": StopAsyncIteration,
    "StopIteration": StopIteration,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "group": group,
    "group of exits": lambda: BaseExceptionGroup("x", [SystemExit(1), ValueError()]),
    "without words": Wordless,
}
STAGES = {
    "before start": [],
    "behind start": [START],
    "within the body": [START, MORE],
    "within a counted body": [START | {"headers": [(b"content-length", b"9")]}, MORE],
    "behind the end": [START, BODY],
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("stage", STAGES)
def test_raising_at_any_stage_ends_the_request_alone(serve, errors, failure, stage):
    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/next":
            return await respond(send, b"next")
        for message in STAGES[stage]:
            await send(message)
        raise FAILURES[failure]()

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get())
        if "within" in stage:
            raw = read_all(sock)
            assert raw.startswith(b"HTTP/1.1 200 ")
            assert b"part" in raw
            assert not raw.endswith(b"0\r\n\r\n")
        else:
            head, _ = read_response(sock)
            assert head.startswith(b"HTTP/1.1 200 " if "end" in stage else b"HTTP/1.1 500 ")
            sock.sendall(get("/next"))
            assert read_response(sock)[1] == b"next"
    with running.connect() as sock:
        sock.sendall(get("/next"))
        assert read_response(sock)[1] == b"next"
    wait_until(lambda: not running.context.cycles)
    assert running.context.running == 0
    assert len(errors()) == 1


@on_every_transport
@pytest.mark.parametrize("how", ["raises", "returns", "is too short"])
def test_what_was_sent_before_the_end_arrives(serve, how, errors):
    """Such as an event that says what went wrong, though the client has not read all before."""
    headers = [(b"content-length", b"3000000")] if how == "is too short" else []
    count = 30
    part = b"x" * 65536

    @http_only
    async def app(scope, receive, send):
        await send(START | {"headers": headers})
        for _ in range(count):
            await send(MORE | {"body": part})
        await send(MORE | {"body": b"event: error", "more_body": how != "is too short"})
        if how == "raises":
            raise ValueError

    running = serve(app)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(GET)
        raw = read_all(sock)
    assert len(errors()) == 1
    assert raw.count(b"x") >= count * len(part)
    assert raw.removesuffix(b"\r\n").endswith(b"event: error")


# --- Applications that are none -------------------------------------------------------------------


def synchronous(scope, receive, send):
    """Looks like an application, and nobody awaits its coroutine."""
    if scope["type"] != "http":
        raise NotImplementedError
    send(START).close()


def test_a_function_that_gives_nothing_to_await_is_500(serve, errors):
    running = serve(synchronous)
    with running.connect() as sock:
        for _ in range(2):
            sock.sendall(GET)
            assert read_response(sock)[0].startswith(b"HTTP/1.1 500 ")
    assert [type(record.exc_info[1]) for record in errors()] == [TypeError, TypeError]


# --- Behind the end -------------------------------------------------------------------------------


def test_receive_behind_the_response_says_disconnect_again_and_again(serve):
    """HTTP: Disconnect, "receive is called after a response has been sent"."""
    got = []

    @http_only
    async def app(scope, receive, send):
        await respond(send, b"x")
        got.extend([await receive() for _ in range(3)])

    (reply,) = take_replies(serve(app).raw(get("/", "Connection: close")))
    assert reply.body == b"x"
    wait_until(lambda: got == [DISCONNECT] * 3)


def test_receive_behind_a_disconnect_says_it_again(serve):
    got = []

    @http_only
    async def app(scope, receive, send):
        while len(got) < 5:
            got.append(await receive())

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(post(b"abcdef")[:-3])
        wait_until(lambda: got)
    wait_until(lambda: not running.context.cycles)
    assert got[1:] == [DISCONNECT] * 4


@pytest.mark.parametrize("answers", [True, False])
def test_what_a_task_does_behind_the_applications_end_changes_nothing(serve, errors, answers):
    """The task receives and sends on a connection that already has another request."""
    gate = Gate()
    left = []
    raised = []

    async def late(receive, send):
        await gate.wait()
        assert await receive() == DISCONNECT
        for message in (START, BODY):
            try:
                await send(message)
            except LocalProtocolError as exc:
                raised.append(str(exc))

    @http_only
    async def app(scope, receive, send):
        if scope["path"] == "/wait":
            await gate.wait()
            await asyncio.gather(*left)
        elif answers or scope["path"] == "/next":
            await respond(send, b"first")
        if scope["path"] == "/":
            left.append(asyncio.ensure_future(late(receive, send)))
            return
        await respond(send, b"second") if scope["path"] == "/wait" else None

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(get())
        assert read_response(sock)[1] == (b"first" if answers else b"Internal Server Error")
        sock.sendall(get("/wait"))
        wait_until(lambda: gate.reached == 2)
        gate.open(running)
        assert read_response(sock)[1] == b"second"
        sock.sendall(get("/next"))
        assert read_response(sock)[1] == b"first"
    assert len(raised) == 2
    assert all("complete" in said for said in raised)
    assert len(errors()) == (0 if answers else 1)


def test_a_task_left_running_does_not_keep_the_server(serve):
    started = []

    @http_only
    async def app(scope, receive, send):
        async def forever():
            started.append(True)
            await asyncio.get_running_loop().create_future()

        app.task = asyncio.ensure_future(forever())
        await respond(send, b"x")

    assert serve(app).raw(get("/", "Connection: close")).endswith(b"x")
    wait_until(lambda: started)
    # The fixture now stops the server, and fails if it does not end.


def test_a_send_that_two_tasks_race_for_is_whole(serve):
    """Parts from several tasks: each is whole, and the last ends the response."""

    @http_only
    async def app(scope, receive, send):
        await send(START)
        parts = [MORE | {"body": bytes([65 + number]) * 70_000} for number in range(8)]
        await asyncio.gather(*[send(part) for part in parts])
        await send({"type": "http.response.body"})

    (reply,) = take_replies(serve(app).raw(get("/", "Connection: close")))
    assert reply.body == b"".join(bytes([65 + number]) * 70_000 for number in range(8))


@pytest.mark.parametrize("step", ["receive", "send"])
def test_another_thread_is_told_so(serve, errors, step):
    """It would write to objects that all connections share."""

    @http_only
    async def app(scope, receive, send):
        async def elsewhere():
            await (receive() if step == "receive" else send(START))

        with pytest.raises(LocalProtocolError, match="in another thread"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        await respond(send, await read_body(receive))

    (reply,) = take_replies(serve(app).raw(post(b"hello", "Connection: close")))
    assert reply.body == b"hello"
    assert not errors()


# --- The scope ------------------------------------------------------------------------------------


def test_what_an_application_does_to_its_scope_stays_there(serve, errors):
    """ASGI, Middleware: a change must not reach another request, nor is it trusted."""
    seen = []

    @http_only
    async def app(scope, receive, send):
        seen.append(copy.deepcopy({key: value for key, value in scope.items() if key != "state"}))
        seen.append(dict(scope["state"]))
        scope["headers"].append((b"x-mine", b"1"))
        scope["extensions"].clear()
        scope["state"]["mine"] = 1
        scope["method"] = "HEAD"
        scope["http_version"] = "1.0"
        for key in ("path", "client", "type", "headers"):
            del scope[key]
        await send(START)
        await send(MORE)
        await send(BODY)

    running = serve(app, access_log=True)
    with running.connect() as sock:
        sock.sendall(get("/a") + get("/a", "Connection: close"))
        raw = b""
        while data := sock.recv(65536):
            raw += data
    replies = take_replies(raw)
    assert [reply.body for reply in replies] == [b"partdone"] * 2
    first, state, second, second_state = seen
    assert state == second_state == {}
    for key, value in first.items():
        if key not in ("headers", "extensions", "method"):
            assert second[key] == value, key
    assert second["method"] == "GET"
    assert second["extensions"] == first["extensions"] != {}
    assert (b"x-mine", b"1") not in second["headers"]
    assert errors() == []


def test_raising_with_an_emptied_scope_is_logged(serve, errors):
    @http_only
    async def app(scope, receive, send):
        scope.clear()
        raise ValueError("mine")

    running = serve(app, access_log=True)
    assert running.raw(get("/", "Connection: close")).startswith(b"HTTP/1.1 500 ")
    assert len(errors()) == 1


def test_polling_leaves_no_futures(serve):
    """Each receive() that is cancelled, as by wait_for(receive(), 0.1), had created one."""
    left = []

    @http_only
    async def app(scope, receive, send):
        await read_body(receive)
        for _ in range(300):
            waiting = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        del waiting
        left.extend(type(o) for o in gc.get_objects() if isinstance(o, asyncio.Future))
        await respond(send)

    gc.freeze()
    gc.disable()
    try:
        running = serve(app)
        (reply,) = take_replies(running.raw(GET_CLOSE))
    finally:
        gc.enable()
    assert reply.status == 200
    assert len(left) < 30
