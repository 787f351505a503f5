"""For tests of applications: a real server in a thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from typing import Any

from thestral.config import Config
from thestral.net.sockets import url
from thestral.process.server import Server

PATIENCE = 60.0  # seconds for start-up, and for the end


@contextlib.contextmanager
def run(app: str | Any, **options: Any) -> Generator[str]:
    """Serve an application from a thread; gives its URL. It is drained and stopped at the end.

        with thestral.testing.run(app) as base_url:
            httpx.get(base_url)

    Args:
        app: an ASGI application, or "module:attribute".
        options: fields of Config; the port is a free one by default.

    Raises:
        ThestralError: it could not start.
        TimeoutError: it did not start or stop within a minute.
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
