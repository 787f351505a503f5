"""thestral.run(): the server, or the supervisor of several, whichever the options ask for."""

from __future__ import annotations

from typing import Any

from thestral.config import Config
from thestral.server import Server


def run(app: str | Any, **options: Any) -> None:
    """Serve an application until told to stop.

    Args:
        app: "module:attribute", or an ASGI application.
        options: fields of Config.

    Raises:
        ConfigError: an option has a value that cannot be used.
        ThestralError: it could not start.
    """
    config = Config(app, **options)
    if config.needs_supervisor:
        from thestral.supervisor import Supervisor  # a part of the time to start: only if needed

        Supervisor(config).run()
    else:
        Server(config).run()
