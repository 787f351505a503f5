"""What a user writes against the public API; checked by mypy --strict, never run."""

import asyncio
from typing import Any

import thestral


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def main() -> None:
    config = thestral.Config(app, port=0, limit_request_body=1024, headers=[("x-served-by", "a")])
    server = thestral.Server(config, install_signal_handlers=False)
    task = asyncio.create_task(server.serve())
    await server.started.wait()
    port: int = server.sockets[0].getsockname()[1]
    print(port, thestral.__version__, server.server_state.total_requests)
    print(thestral.shutdown_event().is_set())
    server.should_exit = True
    await task


def serve() -> None:
    thestral.run("main:app", host="0.0.0.0", port=8000, log_level="warning")
