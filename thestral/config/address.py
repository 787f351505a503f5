"""Addresses of the admin port: HOST:PORT, or unix:PATH."""

from __future__ import annotations

from dataclasses import dataclass

UNIX = "unix:"
# Where the commands look for the admin port unless told otherwise.
USUAL = "127.0.0.1:9100"
LARGEST_PORT = 65535


@dataclass(frozen=True)
class Address:
    """An address of the admin port.

    Attributes:
        host: name or address, without brackets; "" for a Unix socket.
        port: 0 to 65535.
        path: of a Unix socket; "" for TCP.
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return UNIX + self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(given: str) -> Address:
    """Read an address as --admin takes it.

    Raises:
        ValueError: it is neither HOST:PORT nor unix:PATH.
    """
    if given.startswith(UNIX):
        path = given.removeprefix(UNIX)
        if path and "\0" not in path:
            return Address(path=path)
    host, colon, port = given.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    is_number = port.isascii() and port.isdecimal() and int(port) <= LARGEST_PORT
    if not (colon and name and is_number) or (":" in name) != bracketed or "/" in name:
        raise ValueError(f"{given!r} given, expected HOST:PORT, [IPV6]:PORT or unix:PATH")
    return Address(name, int(port))


def checked_address(given: str) -> str:
    read_address(given)  # only a check
    return given
