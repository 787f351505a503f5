"""A client of the admin port, for the commands."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

from thestral.config.address import Address

PATIENCE = 5.0  # seconds to wait for the server
# Keys of /status that the commands read.
NEEDED = {"version", "pid", "state", "now", "uptime", "workers", "workers_wanted"}


class AdminError(Exception):
    """The admin port cannot be reached, or has not answered; the message is for the user."""


@dataclass(frozen=True)
class Answer:
    """A response of the admin port."""

    status: int
    body: str


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection through a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._patience = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self._patience)
        self.sock.connect(self._path)


def ask(address: Address, method: str, target: str, timeout: float = PATIENCE) -> Answer:
    """Send a request and return the response.

    Args:
        timeout: longest wait for the server, in seconds.

    Raises:
        AdminError: there was no response.
    """
    connection: http.client.HTTPConnection
    if address.path:
        connection = UnixConnection(address.path, timeout)
    else:
        connection = http.client.HTTPConnection(address.host, address.port, timeout)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode())
    except (OSError, http.client.HTTPException, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
        raise AdminError(f"No answer from {address}: {reason}") from exc
    finally:
        connection.close()


def read_status(address: Address, timeout: float = PATIENCE) -> dict[str, Any]:
    """Return the answer of /status.

    Raises:
        AdminError: there was none, or it is not that of thestral's admin port.
    """
    answer = ask(address, "GET", "/status", timeout)
    if answer.status != 200:
        raise AdminError(f"{address} answers {answer.status}: {answer.body.strip()[:200]}")
    found: Any = None
    with contextlib.suppress(ValueError):
        found = json.loads(answer.body)
    if not isinstance(found, dict) or not found.keys() >= NEEDED:
        raise AdminError(f"The server at {address} is not thestral's admin port")
    return found
