"""Listening sockets: bound before anything expensive, with an error that says who is in the way."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from thestral.errors import BindError

LISTEN = "0A"  # state of a listening socket in /proc/net/tcp


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host; nothing listens yet.

    Args:
        host: name or address; IPv6 without brackets.
        port: 0 takes a free one, the same for each address.

    Raises:
        BindError: with the address and the reason.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise BindError(f"Cannot listen on {host!r}: {exc}") from exc
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(bind_one(family, kind, protocol, address))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_one(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise BindError(explain(exc, str(address[0]), int(str(address[1])))) from exc
    return sock


def listen(sock: socket.socket, backlog: int) -> None:
    """Begin to listen.

    Raises:
        BindError: another process began to listen on the same address meanwhile.
    """
    try:
        sock.listen(backlog)
    except OSError as exc:
        host, port = sock.getsockname()[:2]
        raise BindError(explain(exc, host, port)) from exc


def explain(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        by = f" by {holder}" if holder else ""
        return f"Port {port} is in use{by}. Choose another with --port, or 0 for a free one."
    return f"Cannot listen on {url_host(host)}:{port}: {os.strerror(exc.errno or 0)}"


def holder_of(port: int) -> str:
    """Name and PID of the process that listens on a TCP port; "" where that cannot be seen (not
    Linux, not ours).
    """
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in inodes:
                        name = (process / "comm").read_text().strip()
                        return f"{name} (PID {process.name})"
    return ""


def url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def url(sock: socket.socket) -> str:
    """The address as a user types it into a browser."""
    host, port = sock.getsockname()[:2]
    return f"http://{url_host(host)}:{port}"
