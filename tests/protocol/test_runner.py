"""The task of a request: what may run in it, how it looks to others, and how it ends."""

from __future__ import annotations

import asyncio
import copy
import sys
import types

import pytest
from apps import GET, GET_CLOSE, hello, http_only
from support import Running, read_response, wait_until

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]}
BODY = {"type": "http.response.body", "body": b"done"}


async def respond(send):
    await send(START)
    await asyncio.sleep(0)
    await send(BODY)


class Awaitable:
    def __init__(self, send):
        self.send = send

    def __await__(self):
        return respond(self.send).__await__()


@types.coroutine
def of_a_generator(send):
    yield from respond(send).__await__()


async def no_lifespan():
    raise NotImplementedError


@pytest.mark.parametrize("kind", [respond, Awaitable, of_a_generator])
def test_application_may_return_any_awaitable(serve, kind):
    def app(scope, receive, send):
        return kind(send) if scope["type"] == "http" else no_lifespan()

    assert serve(app).raw(GET_CLOSE).endswith(b"\r\n\r\ndone")


@pytest.mark.parametrize("returned", [None, 3, (lambda: None)])
def test_application_that_returns_nothing_to_await_is_500(serve, errors, returned):
    def app(scope, receive, send):
        return returned if scope["type"] == "http" else no_lifespan()

    assert serve(app).raw(GET_CLOSE).startswith(b"HTTP/1.1 500 ")
    kind, raised, _ = errors()[0].exc_info
    assert kind is TypeError
    assert type(returned).__name__ in str(raised)


def test_debuggers_see_the_application(serve):
    seen = []

    @http_only
    async def app(scope, receive, send):
        task = asyncio.current_task()
        await asyncio.sleep(0)
        seen.append(repr(task))
        seen.append([frame.f_code.co_name for frame in task.get_stack()])
        await respond(send)

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
    assert "test_debuggers_see_the_application" in seen[0]
    assert seen[1]


class OwnBaseException(BaseException):
    pass


@pytest.mark.parametrize(
    "failure",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        OwnBaseException(),
        asyncio.CancelledError(),
        GeneratorExit(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_whatever_is_raised_in_whatever_step_ends_the_request_alone(serve, errors, failure, steps):
    @http_only
    async def app(scope, receive, send):
        if b"raise" not in scope["query_string"]:
            return await hello(scope, receive, send)
        for _ in range(steps):
            await asyncio.sleep(0)
        raise copy.copy(failure)

    running = serve(app)
    with running.connect() as sock:
        sock.sendall(b"GET /?raise HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_response(sock)[0].startswith(b"HTTP/1.1 500 ")
        sock.sendall(GET)
        assert read_response(sock)[1] == b"hello"
    assert [type(record.exc_info[1]) for record in errors()] == [type(failure)]
    wait_until(lambda: not running.context.cycles)
    assert running.context.running == 0


def test_cancellation_may_be_caught_and_answered(serve):
    """As a time limit does that ends before the application."""
    ended = []

    @http_only
    async def app(scope, receive, send):
        try:
            async with asyncio.timeout(0.01):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            await respond(send)
        ended.append(asyncio.current_task().cancelling())

    assert serve(app).raw(GET_CLOSE).endswith(b"done")
    wait_until(lambda: ended == [0])


def test_task_cancelled_before_its_first_step(serve, errors):
    """Python 3.11 starts it in the loop's next turn."""
    running = serve(http_only(hello))

    def factory(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        if type(coroutine).__name__ == "Run":
            task.cancel()
        return task

    running.context.eager = False
    running.loop.set_task_factory(factory)
    with running.connect() as sock:
        sock.sendall(GET)
        assert read_response(sock)[0].startswith(b"HTTP/1.1 500 ")
        wait_until(lambda: not running.context.cycles)
        assert running.context.running == 0
    assert len(errors()) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
def test_tasks_of_an_eager_factory_are_forgotten():
    """On asyncio's loop: uvloop 0.23 cannot call such a factory on Python 3.13."""

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await http_only(hello)(scope, receive, send)

    with Running(app, loop="asyncio") as running:
        for _ in range(3):
            assert running.raw(GET_CLOSE).endswith(b"hello")
        assert not running.context.cycles
        assert running.context.running == 0
