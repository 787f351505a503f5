"""Listening sockets: TCP, Unix, and those inherited by descriptor or from systemd. They are bound
before anything expensive is done; if a port is in use, the error names the process that has it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Generator, Sequence
from typing import Any, Protocol

from thestral._core.socket import drop_syn
from thestral.errors import BindError
from thestral.logging.loggers import error_logger

LISTEN = "0A"  # state of a listening socket in /proc/net/tcp
FIRST_PASSED = 3  # the first descriptor that systemd passes, sd_listen_fds(3)
# A peer counts as dead after the idle time and this many unanswered probes.
KEEPALIVE_PROBES = 4
KEEPALIVE_INTERVAL = 15  # seconds between probes
PORT_ATTEMPTS = 10  # to find one free port for all addresses of port 0
LOCK_PATIENCE = 1.0  # seconds to wait for others that bind in the same directory
LOCK_STEP = 0.01  # seconds
ANY_IPV4 = "0.0.0.0"  # noqa: S104 (only if the user asked for it)


class UnixListener(socket.socket):
    """A Unix socket that deletes its path on close(), unless another socket is there by now."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = os.path.abspath(path)  # the application may change directory
        self._identity: tuple[int, int] | None = None

    def remember_file(self) -> None:
        """Remember which file was bound, to delete no other."""
        self._identity = identity(self._path)

    def close(self) -> None:
        if self._identity is not None and identity(self._path) == self._identity:
            with contextlib.suppress(OSError):  # the user may have changed since
                os.unlink(self._path)
        self._identity = None
        super().close()


class TCPListener(socket.socket):
    """A TCP socket that this server has bound: nobody else accepts from it when we have stopped."""


def identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Addresses(Protocol):
    """The fields of Config that say what to listen on."""

    fd: int | None
    uds: str | None
    uds_permissions: str
    port: int
    reuse_port: bool
    tcp_keepalive: float

    @property
    def hosts(self) -> Sequence[str]: ...


def open_all(config: Addresses) -> list[socket.socket]:
    """Open and bind the sockets that the options describe. They do not listen yet, apart from
    inherited sockets that already do.

    systemd's sockets take precedence, then --fd, then --uds, then --host and --port.

    Raises:
        BindError: with the address and the reason.
    """
    sockets = passed_by_systemd()
    if sockets:
        error_logger.info("Listening on %d sockets passed by systemd", len(sockets))
    elif config.fd is not None:
        sockets = [from_descriptor(config.fd)]
    elif config.uds is not None:
        sockets = [bind_unix(config.uds, int(config.uds_permissions, 8))]
    try:
        sockets = sockets or bind_hosts(config)
        for sock in sockets:
            keep_alive(sock, config.tcp_keepalive)
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def bind_hosts(config: Addresses) -> list[socket.socket]:
    """Bind every address of every host to the same port. For port 0, if the port chosen for the
    first address is in use on another, start again with a new port.

    Raises:
        BindError: see bind().
    """
    for attempt in range(PORT_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            for host in config.hosts:
                port = config.port or (sockets[0].getsockname()[1] if sockets else 0)
                # "::" takes both families, unless 0.0.0.0 is listed, too.
                both = ANY_IPV4 not in config.hosts
                sockets += bind(host, port, both=both, reuse_port=config.reuse_port)
        except BaseException as exc:
            close_all(sockets)
            cause = exc.__cause__
            taken = isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE
            if config.port or not taken or attempt == PORT_ATTEMPTS - 1:
                raise
        else:
            break
    return sockets


def duplicate(sock: socket.socket) -> socket.socket:
    """Duplicate a socket's descriptor, as a plain socket that can be sent to another process."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def let_go(sock: socket.socket) -> None:
    """Close our descriptor of a socket, but leave a Unix socket's path for close()."""
    socket.socket.close(sock)


def refuse_new(sock: socket.socket) -> None:
    """Make the kernel drop new connection attempts (SYN), on Linux. To be called before the last
    connections are accepted: one whose handshake completed between that and close() would be reset.
    A client whose SYN was dropped tries again after a second, and is refused or reaches a new
    server. Inherited sockets, which others may still use, are left alone.
    """
    if isinstance(sock, TCPListener):
        drop_syn(sock.fileno())


def take_waiting(sock: socket.socket, most: int) -> list[socket.socket]:
    """Accept up to `most` waiting connections, which closing the socket would reset."""
    found: list[socket.socket] = []
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # BlockingIOError: none is left; or out of descriptors
        while len(found) < most:
            connection, _ = sock.accept()
            connection.setblocking(False)
            found.append(connection)
    return found


def passed_by_systemd() -> list[socket.socket]:
    """Return the sockets of systemd's socket activation (sd_listen_fds(3)), and remove its
    variables from the environment, as they do not apply to child processes.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return [from_descriptor(FIRST_PASSED + number) for number in range(int(count))]


def from_descriptor(descriptor: int) -> socket.socket:
    """Make a socket object from an inherited descriptor.

    Raises:
        BindError: the descriptor is not a stream socket.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise BindError(f"File descriptor {descriptor}: {os.strerror(exc.errno or 0)}") from exc
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise BindError(f"File descriptor {descriptor} is not a stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def bind_unix(path: str, permissions: int) -> socket.socket:
    """Bind a Unix socket; a stale one, which no process has open, is replaced.

    Raises:
        BindError: a live server uses the path, it is not a socket, or it cannot be bound.
    """
    sock = UnixListener(path)
    try:
        with locked(os.path.dirname(path) or "."):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.stat(path).st_mode):
                    raise BindError(f"{path} exists and is not a socket")
                if is_live(path):
                    raise BindError(f"{path} is in use by another server")
                os.unlink(path)
            sock.bind(path)
            sock.remember_file()
        os.chmod(path, permissions)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise BindError(f"Cannot listen on {path}: {exc.strerror or exc}") from exc
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def locked(directory: str) -> Generator[None]:
    """Hold a lock on a directory. If two servers start at once and both find the same stale socket,
    the second must not delete the socket that the first has bound in its place.

    Locking the directory itself leaves no lock file behind. If the lock cannot be taken within
    LOCK_PATIENCE, go on without it.
    """
    try:
        import fcntl

        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError):  # not POSIX, or no permission
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_PATIENCE
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_STEP)
            except OSError:  # a file system without locks
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)


def is_live(path: str) -> bool:
    """Whether a process has a stream socket bound to a path, even if it does not listen yet."""
    # A datagram socket gets EPROTOTYPE from a stream socket (unix(7)), so the probe never shows up
    # there as a connection.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # EPROTOTYPE, or no permission
    return True


def bind(
    host: str,
    port: int,
    *,
    both: bool = True,
    reuse_port: bool = False,
    option: str = "--port",
) -> list[socket.socket]:
    """Bind every address of a host, without listening.

    Args:
        host: name or address; IPv6 with or without brackets; "" for all addresses.
        port: 0 picks a free port, the same for each address.
        both: whether "::" accepts IPv4, too.
        reuse_port: whether other sockets may bind the same port (SO_REUSEPORT).
        option: that chooses the port, for messages.

    Raises:
        BindError: with the address and the reason.
    """
    name = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not name and socket.has_ipv6:
        name = "::"
    both = both and name == "::"
    try:
        found = socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise BindError(f"Cannot listen on {host!r}: {exc}") from exc
    sockets: list[socket.socket] = []
    refused: BindError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(bind_one(family, address, both, reuse_port, option))
            except BindError as exc:
                # A name may resolve to a family that is disabled on this machine.
                if not is_unavailable(exc.__cause__):
                    raise
                refused = refused or exc
    except BaseException:
        close_all(sockets)
        raise
    if not host and not sockets:
        return bind(ANY_IPV4, port, reuse_port=reuse_port, option=option)
    if refused is not None and not sockets:
        raise refused
    return sockets


def bind_one(
    family: int, address: tuple[Any, ...], both: bool, reuse_port: bool, option: str = "--port"
) -> socket.socket:
    """Return a socket bound to one address.

    Raises:
        BindError: with the OSError as its cause.
    """
    sock = None
    try:
        # asyncio sets TCP_NODELAY only if the socket was made with IPPROTO_TCP.
        sock = TCPListener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind(address)
        sock.setblocking(False)
    except OSError as exc:
        if sock is not None:
            sock.close()
        raise BindError(explain(exc, str(address[0]), int(address[1]), option)) from exc
    return sock


def is_unavailable(exc: BaseException | None) -> bool:
    """Whether an error says that this machine lacks the address or its family."""
    return isinstance(exc, OSError) and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def own_queue(sock: socket.socket, idle: float) -> socket.socket | None:
    """Bind another socket to the same address, with its own queue of connections (SO_REUSEPORT).

    Args:
        sock: a socket that open_all() returned.
        idle: see keep_alive().

    Returns:
        None for a Unix socket, and for an inherited socket.
    """
    if sock.family == socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return None
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None  # inherited, and nobody would accept from the original
    twin = bind_one(sock.family, sock.getsockname(), accepts_both(sock), True)
    keep_alive(twin, idle)
    return twin


def accepts_both(sock: socket.socket) -> bool:
    """Whether a socket accepts both IPv6 and IPv4."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def keep_alive(sock: socket.socket, idle: float) -> None:
    """Have the kernel probe peers that have been silent for `idle` seconds (0 for never). Accepted
    connections inherit the setting.
    """
    if not idle or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(idle))),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):  # macOS has other names, and its own defaults
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listen(sock: socket.socket, backlog: int) -> None:
    """Start listening.

    Raises:
        BindError: another process has started to listen on the same address.
    """
    try:
        sock.listen(backlog)
    except OSError as exc:
        name = sock.getsockname()
        if not isinstance(name, tuple):
            raise BindError(f"Cannot listen on {name}: {exc.strerror}") from exc
        raise BindError(explain(exc, name[0], name[1])) from exc


def explain(exc: OSError, host: str, port: int, option: str = "--port") -> str:
    if exc.errno == errno.EADDRINUSE:
        holder = holder_of(port)
        by = f" by {holder}" if holder else ""
        return f"Port {port} is in use{by}. Choose another with {option}, or 0 for a free one."
    return f"Cannot listen on {url_host(host)}:{port}: {os.strerror(exc.errno or 0)}"


def holder_of(port: int) -> str:
    """Return the name and PID of the process that listens on a TCP port; "" if it cannot be found:
    not on Linux, or another user's process.
    """
    from pathlib import Path  # only needed for an error

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


def url(sock: socket.socket, tls: bool = False) -> str:
    """Return the address as a URL for a browser, or unix: and the path of a Unix socket."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{os.fsdecode(name)}"
    return f"{'https' if tls else 'http'}://{url_host(name[0])}:{name[1]}"
