"""Serves an application in a thread, for tests of applications."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Any

from thestral.config import Config
from thestral.net.sockets import url
from thestral.process.server import Server

PATIENCE = 60.0  # seconds for the server to start, and again to stop


@contextlib.contextmanager
def run(app: str | Any, **options: Any) -> Generator[str]:
    """Serve an application in a thread; yields its URL. At the end the server drains and stops.

        with thestral.testing.run(app) as base_url:
            httpx.get(base_url)

    Args:
        app: an ASGI application, or "module:attribute".
        options: fields of Config. By default the port is a free one, requests are not logged, and
            the log level is "warning".

    Raises:
        ThestralError: the server could not start.
        TimeoutError: the server did not start or stop within a minute.
    """
    settings: dict[str, Any] = {"port": 0, "access_log": False, "log_level": "warning"}
    server = Server(Config(app, **(settings | options)), install_signal_handlers=False)
    failures: list[BaseException] = []
    known = threading.Event()

    def serve() -> None:
        try:
            server.run()
        except BaseException as exc:
            failures.append(exc)
        finally:
            known.set()

    server.on_started = known.set
    thread = threading.Thread(target=serve, name="thestral")
    thread.start()
    try:
        if not known.wait(PATIENCE):
            raise TimeoutError("the server did not start")
        if failures:
            raise failures[0]
        yield url(server.sockets[0])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    if thread.is_alive():
        raise TimeoutError("the server did not stop")
    if failures:
        raise failures[0]
