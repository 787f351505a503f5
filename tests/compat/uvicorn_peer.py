"""uvicorn, run like thestral: it shows the behaviour that authors of applications have tested."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from process import Command
from support import BY_LOOP, Running


class UvicornServer(uvicorn.Server):
    """A Server with the attributes that Running needs."""

    async def serve_only(self) -> None:
        await self.serve()

    @property
    def sockets(self) -> Any:
        return self.servers[0].sockets

    @property
    def context(self) -> Any:
        state = self.server_state
        return SimpleNamespace(connections=state.connections, cycles=state.tasks)


class RunningUvicorn(Running):
    """uvicorn in a thread."""

    @staticmethod
    def new_server(app: Any, **options: Any) -> Any:
        config = uvicorn.Config(app, port=0, http="httptools", log_config=None, **options)
        return UvicornServer(config)


class UvicornCommand(Command):
    """`python -m uvicorn ARGUMENTS`."""

    program = ("-m", "uvicorn")
    server_name = "Uvicorn"


UVICORN = pytest.param(RunningUvicorn, id="uvicorn")
# For a test whose `serve` runs uvicorn, too: it shows that the test expects common behaviour.
beside_uvicorn = pytest.mark.parametrize("serve", ["uvloop", "asyncio", UVICORN], indirect=True)
every_transport_beside_uvicorn = pytest.mark.parametrize(
    "serve", ["uvloop", "asyncio", *BY_LOOP, UVICORN], indirect=True
)
# The same for a test that starts the command.
commands = pytest.mark.parametrize(
    "command_class", [Command, UvicornCommand], ids=["thestral", "uvicorn"]
)
