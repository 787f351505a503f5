"""What a user writes against the public API; checked by mypy --strict and pyright, never run.

Each name of `thestral.__all__` and of the documented modules stands here: tests/test_typing.py.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable

import thestral
import thestral.testing
from thestral import Config, Server, errors, shutdown_event
from thestral.logging import AccessFormatter, DefaultFormatter
from thestral.types import ASGIApplication, Headers, Message, Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    message: Message = await receive()
    headers: Headers = [(b"content-length", b"0")]
    print(message["type"], scope["type"])
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    with contextlib.suppress(errors.ClientDisconnected):  # an OSError, as ASGI asks for
        await send({"type": "http.response.body"})


class Application:
    """An instance is an application, too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)


def middleware(inner: ASGIApplication) -> ASGIApplication:
    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    return outer


def context(config: Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    made = default()
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


async def notify() -> None: ...


async def main() -> None:
    config = Config(
        middleware(Application()),
        port=0,
        limit_request_body=1024,
        headers=[("x-served-by", "a")],
        ssl_context_factory=context,
        callback_notify=notify,
    )
    server = Server(config, install_signal_handlers=False)
    task: asyncio.Task[None] = asyncio.create_task(server.serve())
    await server.started.wait()
    started: bool = bool(server.started)
    port: int = server.sockets[0].getsockname()[1]
    print(port, started, thestral.__version__, server.server_state.total_requests)
    print(config.is_ssl, config.hosts, server.certificates, server.servers, server.lifespan)
    event: asyncio.Event = shutdown_event()
    print(event.is_set())
    server.should_exit = True
    server.force_exit = False
    await task


def serve() -> None:
    try:
        Server(Config("main:app", host="0.0.0.0", port=8000, log_level="warning")).run()
    except errors.ConfigError as error:
        option: str = error.option
        print(option, error.reason)
    except (errors.AccelerateError, errors.BindError):
        raise
    except (errors.ImportFailedError, errors.LifespanError):
        thestral.run("main:app", host="0.0.0.0", port=8001, log_level="warning")
    except errors.ThestralError as error:
        status: int = error.exit_status
        print(error, status)


def test() -> None:
    with thestral.testing.run(app, root_path="/a") as url:
        text: str = url
        print(text)


def formatters() -> list[logging.Formatter]:
    return [DefaultFormatter("%(message)s"), AccessFormatter("%(message)s", use_colors=False)]


handle: Callable[[Scope, Receive, Send], Awaitable[None]] = app
