"""The fixture that gives real servers, and what leaves a test as it was found."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from support import Running

from thestral.config.cpus import available
from thestral.logging.loggers import SharedLogger


@pytest.hookimpl(optionalhook=True)  # xdist may be absent where one test is run by hand
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For -n auto: tests wait for processes and deadlines half of their time."""
    return 2 * available()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Unless --dist says otherwise, have a worker that has finished take over tests of another: the
    slow ones are in few directories, and by default they all go to one worker.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


# Tests of plain HTTP/1.1, which both loops run, are repeated there over HTTP/2 and over TLS. What
# those add does not depend on the loop.
ONE_LOOP = ("tests/over_http2/", "tests/tls/test_plain_rules.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out a repeated test for the second loop."""
    names = {item.nodeid for item in items}
    twins = [
        item
        for item in items
        if item.nodeid.startswith(ONE_LOOP)
        and "asyncio" in item.nodeid
        and item.nodeid.replace("asyncio", "uvloop") in names
    ]
    if twins:
        left_out = set(twins)
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=twins)


@pytest.fixture(scope="module", autouse=True)
def heap_of_imports() -> None:
    """Frameworks, also those that tests import, leave a large heap; no collection needs to walk it
    after each test.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def signals_as_usual() -> None:
    """Under nohup SIGHUP is ignored, and in the background of a shell SIGINT and SIGQUIT, by us and
    by the servers that are started here.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server_class() -> type[Running]:
    """The class of the servers that tests get; a directory's conftest.py may choose another."""
    return Running


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(
    request: pytest.FixtureRequest, server_class: type[Running]
) -> Iterator[Callable[..., Running]]:
    """Function (app, **options) that gives a server, stopped after the test; on both loops.

    A parameter is the name of a loop, or another class of servers.
    """
    if isinstance(request.param, str):
        start = functools.partial(server_class, loop=request.param)
    else:
        start = request.param
    with contextlib.ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(start(app, **options))
    gc.collect()  # what a test leaves behind must complain in that test


@pytest.fixture
def client(serve):
    """Function (app, **options) that gives an httpx client and the running server."""
    clients = []

    def connect(app, **options):
        running = serve(app, **options)
        clients.append(httpx.Client(base_url=running.url, trust_env=False, timeout=10))
        return clients[-1], running

    yield connect
    for each in clients:
        each.close()


@pytest.fixture
def errors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[logging.LogRecord]]:
    """What has been logged at ERROR or above, whatever another test did to the loggers."""
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [record for record in caplog.records if record.levelno >= logging.ERROR]


LOGGERS = ["uvicorn", "uvicorn.error", "uvicorn.access"]


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """What a server in this process has set up ends with its test."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    states = [copy.copy(logger.__dict__) for logger in loggers]
    lists = [(logger.handlers[:], logger.filters[:]) for logger in loggers]
    yield
    for logger, state, (handlers, filters) in zip(loggers, states, lists, strict=True):
        logger.__dict__.update(state, handlers=handlers, filters=filters)
        logger.setLevel(state["level"])  # forgets what was remembered of levels
    SharedLogger.first_names_used = None
