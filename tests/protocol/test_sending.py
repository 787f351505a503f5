"""The result of send() behaves like a coroutine."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import warnings

import anyio
import pytest
from apps import GET_CLOSE, http_only
from asgiref.sync import iscoroutinefunction
from support import read_head, wait_until

START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"done"}


def test_it_is_awaitable_and_a_task_may_be_made_of_it(serve):
    @http_only
    async def app(scope, receive, send):
        step = send(START | {"headers": [(b"content-length", b"4")]})
        assert inspect.isawaitable(step)
        assert iscoroutinefunction(send)
        assert iscoroutinefunction(receive)
        assert asyncio.iscoroutine(step)
        assert await asyncio.create_task(step) is None
        assert await asyncio.wait_for(send(BODY), 5) is None

    assert serve(app).raw(GET_CLOSE).endswith(b"\r\n\r\ndone")


def test_nothing_happens_before_it_is_awaited(serve):
    @http_only
    async def app(scope, receive, send):
        later = send(BODY)
        await send(START)
        await later

    assert serve(app).raw(GET_CLOSE).endswith(b"\r\n\r\ndone")


def test_it_is_awaited_once(serve):
    raised = []

    @http_only
    async def app(scope, receive, send):
        step = send(START)
        await step
        try:
            await step
        except RuntimeError as exc:
            raised.append(str(exc))
        await send(BODY)

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
    assert "already" in raised[0]


def test_one_that_is_never_awaited_is_told_of(serve):
    told = []

    @http_only
    async def app(scope, receive, send):
        await send(START)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            send(BODY)
            gc.collect()
        told.extend(str(warning.message) for warning in caught)
        await send(BODY)

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
    assert len(told) == 1
    assert "was never awaited" in told[0]


def test_one_that_somebody_keeps_is_not_used_again(serve):
    raised = []

    @http_only
    async def app(scope, receive, send):
        first = send(START)
        await first
        second = send(BODY)
        try:
            await first
        except RuntimeError as exc:
            raised.append(str(exc))
        await second

    running = serve(app)
    for _ in range(3):
        assert running.raw(GET_CLOSE).endswith(b"done")
    assert raised == ["send() was awaited already"] * 3 or sys.version_info < (3, 12)


def test_messages_that_are_made_before_any_is_awaited(serve):
    @http_only
    async def app(scope, receive, send):
        bodies = [
            {"type": "http.response.body", "body": b"%d," % n, "more_body": True} for n in range(5)
        ]
        for step in [send(START), *map(send, bodies), send(BODY)]:
            await step

    running = serve(app)
    for _ in range(3):
        assert b"0,1,2,3,4,done" in running.raw(b"GET / HTTP/1.0\r\n\r\n")


def test_what_is_wrong_is_raised_where_it_is_awaited(serve):
    raised = []

    @http_only
    async def app(scope, receive, send):
        step = send({"type": "nonsense"})
        try:
            await step
        except Exception as exc:
            raised.append(str(exc))
        await send(START)
        await send(BODY)

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
    assert "nonsense" in raised[0]


@pytest.mark.parametrize("how", ["cancel", "wait_for", "anyio"])
def test_a_wait_for_the_client_can_be_cancelled(serve, how):
    ended = []

    @http_only
    async def app(scope, receive, send):
        async def flood():
            while True:
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})

        await send(START)
        if how == "cancel":
            task = asyncio.create_task(flood())
            await wait_for_pause(scope)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flood(), 0.2)
        else:
            with anyio.move_on_after(0.2) as scope_of_time:
                await flood()
            assert scope_of_time.cancelled_caught
        ended.append(how)

    async def wait_for_pause(scope):
        while not any(one.write_paused for one in running.context.connections):
            await asyncio.sleep(0.005)

    running = serve(app)
    with running.connect(receive_buffer=4096) as sock:
        sock.sendall(GET_CLOSE)
        read_head(sock)
        wait_until(lambda: ended)
    wait_until(lambda: not running.context.cycles)


def test_close_ends_it(serve):
    @http_only
    async def app(scope, receive, send):
        step = send(BODY)
        step.close()
        with pytest.raises(RuntimeError, match="already"):
            await step
        with pytest.raises(KeyError):
            send(BODY).throw(KeyError("x"))
        await send(START)
        await send(BODY)

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
