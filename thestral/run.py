"""thestral.run(): the server, or the supervisor of several, whichever the options ask for; and what
becomes of the process if that does not start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from thestral.config import Config
from thestral.errors import ThestralError
from thestral.logging.loggers import error_logger
from thestral.process.server import Server

if TYPE_CHECKING:
    from thestral.process.supervisor import Supervisor

FAILED = 1  # exit status of what has served, and then failed


def run(app: str | Any, **options: Any) -> None:
    """Serve an application until told to stop.

    What keeps it from starting is one line in the log, by default on stderr, and ends the process,
    as the command does; `Server.run()` and `Server.serve()` raise it.

    Args:
        app: "module:attribute", or an ASGI application.
        options: fields of Config.

    Raises:
        TypeError: an option is none of Config's.
        ConfigError: an option has a value that it cannot have.
        SystemExit: it could not start: 3 if the application or a worker did not, 1 if the port was
            not to be had, 2 if an option names what cannot be used, as a certificate. Or 1: it has
            served, and then failed. The ThestralError is its `__cause__`.
        KeyboardInterrupt: SIGINT, or SIGTERM, came before it took signals itself.
    """
    config = Config(app, **options)
    server: Server | Supervisor | None = None
    try:
        server = server_for(config)
        server.run()
    except ThestralError as error:
        end(error, server)


def server_for(config: Config) -> Server | Supervisor:
    """What serves such a configuration; not started.

    Raises:
        ConfigError: an option cannot be had in worker processes.
    """
    if config.needs_supervisor:
        from thestral.process.supervisor import (
            Supervisor,  # a part of the time to start: only if needed
        )

        return Supervisor(config)
    return Server(config)


def end(error: ThestralError, server: Server | Supervisor | None) -> NoReturn:
    """Say what has ended a server, and end the process.

    Raises:
        SystemExit: always.
    """
    error_logger.error("%s", error)
    status = FAILED if server is not None and server.started else error.exit_status
    raise SystemExit(status) from error
