"""thestral.run(): runs a server, or a supervisor with workers, as the options ask; and the end of
the process if that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from thestral.config import Config
from thestral.errors import ThestralError
from thestral.logging.loggers import error_logger
from thestral.process.server import Server

if TYPE_CHECKING:
    from thestral.process.supervisor import Supervisor

FAILED = 1  # exit status of a server that has served, and then failed


def run(app: str | Any, **options: Any) -> None:
    """Serve an application until told to stop.

    An error that keeps the server from starting is logged, by default on stderr, and ends the
    process, as in the command; `Server.run()` and `Server.serve()` raise it instead.

    Args:
        app: "module:attribute", or an ASGI application.
        options: fields of Config.

    Raises:
        TypeError: an option is not a field of Config.
        ConfigError: an option has an invalid value.
        SystemExit: the server could not start: status 3 if the application or a worker failed to
            start, 1 if the port is not available, 2 if something that an option names cannot be
            used, such as a certificate. Also 1 if it failed after it had served. The ThestralError
            is the `__cause__`.
        KeyboardInterrupt: SIGINT or SIGTERM came before the server handled signals itself.
    """
    config = Config(app, **options)
    server: Server | Supervisor | None = None
    try:
        server = server_for(config)
        server.run()
    except ThestralError as error:
        end(error, server)


def server_for(config: Config) -> Server | Supervisor:
    """The server or supervisor for a configuration, not started yet.

    Raises:
        ConfigError: an option cannot be used with worker processes.
    """
    if config.needs_supervisor:
        from thestral.process.supervisor import (
            Supervisor,  # not at the top: a server without workers starts faster without it
        )

        return Supervisor(config)
    return Server(config)


def end(error: ThestralError, server: Server | Supervisor | None) -> NoReturn:
    """Log the error that ended a server, and end the process.

    Raises:
        SystemExit: always.
    """
    error_logger.error("%s", error)
    status = FAILED if server is not None and server.started else error.exit_status
    raise SystemExit(status) from error
