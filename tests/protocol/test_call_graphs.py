"""What asyncio shows of the applications of requests, for those who look for one that hangs."""

from __future__ import annotations

import asyncio
import sys

import httpx
import pytest


class Waiting:
    """Requests to /wait stay until one to /look has looked at their tasks."""

    def __init__(self, look):
        self.look = look
        self.arrived = asyncio.Event()
        self.may_end = asyncio.Event()
        self.found = None

    async def deeper(self):
        self.arrived.set()
        await self.may_end.wait()

    async def __call__(self, scope, receive, send):
        assert scope["type"] == "http"
        if scope["path"] == "/wait":
            await self.deeper()
        else:
            await self.arrived.wait()
            (task,) = asyncio.all_tasks() - {asyncio.current_task(), *self.before}
            self.found = self.look(task)
            self.may_end.set()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@pytest.fixture
def looked(serve):
    """Function (look): what it returns for the task of a request that waits."""

    def start(look):
        waiting = Waiting(look)

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            else:
                await waiting(scope, receive, send)

        running = serve(app)
        waiting.before = asyncio.all_tasks(running.loop)

        async def ask():
            async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
                answers = await asyncio.gather(client.get("/wait"), client.get("/look"))
            assert [answer.status_code for answer in answers] == [204, 204]

        asyncio.run(ask())
        return waiting.found

    return start


def test_a_task_has_the_stack_of_its_application(looked):
    (frame,) = looked(lambda task: task.get_stack())
    assert frame.f_code.co_name in ("app", "__call__")


def test_coroutines_can_be_followed_to_the_one_that_waits(looked):
    def names(task):
        found, step = [], task.get_coro()
        while step is not None and hasattr(step, "cr_await"):
            found.append(step.cr_frame.f_code.co_name)
            step = step.cr_await
        return found

    # The first is that of Run, which behaves like the application's coroutine.
    assert looked(names)[-3:] == ["__call__", "deeper", "wait"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")
def test_the_call_graph_leads_from_the_application_to_what_waits(looked):
    def names(task):
        graph = asyncio.capture_call_graph(task)
        return [entry.frame.f_code.co_name for entry in graph.call_stack]

    found = looked(names)
    assert found[:3] == ["wait", "deeper", "__call__"]


def test_a_stack_can_be_printed(looked, capsys):
    looked(lambda task: task.print_stack())
    assert f'File "{__file__}"' in capsys.readouterr().err
