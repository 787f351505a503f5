"""Listening sockets: TCP, Unix, given by file descriptor or by systemd. Bound before anything
expensive, with an error that says who is in the way.
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
FIRST_PASSED = 3  # sd_listen_fds(3): descriptors that systemd hands over begin here
# A dead peer is seen after the idle time and this many probes.
KEEPALIVE_PROBES = 4
KEEPALIVE_INTERVAL = 15  # seconds between them
PORT_ATTEMPTS = 10  # until a free port is free for each address
LOCK_PATIENCE = 1.0  # seconds, for others that bind in the same directory
LOCK_STEP = 0.01  # seconds
ANY_IPV4 = "0.0.0.0"  # noqa: S104 (a name for what a user has asked for)


class UnixListener(socket.socket):
    """A Unix socket whose path goes with it, unless another has taken the path meanwhile."""

    def __init__(self, path: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = os.path.abspath(path)  # the application may change the directory
        self._identity: tuple[int, int] | None = None

    def own_path(self) -> None:
        """The path is bound: remember which file it is."""
        self._identity = identity(self._path)

    def close(self) -> None:
        if self._identity is not None and identity(self._path) == self._identity:
            with contextlib.suppress(OSError):  # the folder may have become another user's
                os.unlink(self._path)
        self._identity = None
        super().close()


class TCPListener(socket.socket):
    """A TCP socket that we have bound, so that nobody accepts from it once we are gone."""


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
    """The sockets that the options ask for, bound; nothing listens yet but what was given so.

    systemd's sockets come first, then --fd, then --uds, then --host and --port.

    Raises:
        BindError: with the address and the reason.
    """
    sockets = passed_by_systemd()
    if sockets:
        error_logger.info("Listening on %d sockets given by systemd", len(sockets))
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
    """Every address of every host, on one port. One that was free for the first and is taken for
    another is given up for a new one.

    Raises:
        BindError: as bind().
    """
    for attempt in range(PORT_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            for host in config.hosts:
                port = config.port or (sockets[0].getsockname()[1] if sockets else 0)
                # "::" is both families, unless 0.0.0.0 is asked for beside it.
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
    """The same socket under a descriptor of its own; a plain one, that can be sent to a process."""
    return socket.socket(fileno=os.dup(sock.fileno()))


def close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def let_go(sock: socket.socket) -> None:
    """Give up our descriptor of a socket; a Unix socket's path stays until close()."""
    socket.socket.close(sock)


def refuse_new(sock: socket.socket) -> None:
    """Have the kernel begin no more connections, before the last of those that have begun are
    accepted: one whose handshake ends later would be reset. Its client asks again after a second,
    and is refused or finds our successor. Linux; and not for a socket that others may go on using.
    """
    if isinstance(sock, TCPListener):
        drop_syn(sock.fileno())


def take_waiting(sock: socket.socket, most: int) -> list[socket.socket]:
    """Accept what waits in a socket's queue, at most so many: closing it would reset them."""
    found: list[socket.socket] = []
    sock.setblocking(False)
    with contextlib.suppress(OSError):  # BlockingIOError: no more; or no descriptors are left
        while len(found) < most:
            connection, _ = sock.accept()
            connection.setblocking(False)
            found.append(connection)
    return found


def passed_by_systemd() -> list[socket.socket]:
    """Sockets of systemd's socket activation (sd_listen_fds(3)); the variables are taken away, so
    that no child believes them.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    return [from_descriptor(FIRST_PASSED + number) for number in range(int(count))]


def from_descriptor(descriptor: int) -> socket.socket:
    """A socket of the family and kind that the descriptor has.

    Raises:
        BindError: it is none that could listen.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise BindError(f"File descriptor {descriptor}: {os.strerror(exc.errno or 0)}") from exc
    if sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise BindError(f"File descriptor {descriptor} is no stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


def bind_unix(path: str, permissions: int) -> socket.socket:
    """Bind a Unix socket; one that no process has any more is replaced.

    Raises:
        BindError: a live server, or a file that is no socket, has the path.
    """
    sock = UnixListener(path)
    try:
        with locked(os.path.dirname(path) or "."):
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.stat(path).st_mode):
                    raise BindError(f"{path} exists and is no socket")
                if is_live(path):
                    raise BindError(f"{path} is in use by another server")
                os.unlink(path)
            sock.bind(path)
            sock.own_path()
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
    """Have a directory to ourselves among those that ask: of two servers that start at once and
    find the same dead socket, the second must not remove what the first has put in its place.

    Nothing is left behind, as a lock file would be. Where it cannot be had in time we go on.
    """
    try:
        import fcntl

        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError):  # not ours to read
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
    """Whether a process has a stream socket bound to a path, listening already or not yet."""
    # A socket of another type is told so (EPROTOTYPE, unix(7)), and never becomes a connection.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True  # EPROTOTYPE, or it is not ours to talk to
    return True


def bind(
    host: str, port: int, *, both: bool = True, reuse_port: bool = False
) -> list[socket.socket]:
    """Bind every address of a host; nothing listens yet.

    Args:
        host: name or address; IPv6 with or without brackets; "" for every address there is.
        port: 0 takes a free one, the same for each address.
        both: "::" takes IPv4 too.
        reuse_port: other sockets may be bound to the same port (SO_REUSEPORT).

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
                sockets.append(bind_one(family, address, both, reuse_port))
            except BindError as exc:
                # A name may stand for a family that this machine has not switched on.
                if not is_absent(exc.__cause__):
                    raise
                refused = refused or exc
    except BaseException:
        close_all(sockets)
        raise
    if not host and not sockets:
        return bind(ANY_IPV4, port, reuse_port=reuse_port)
    if refused is not None and not sockets:
        raise refused
    return sockets


def bind_one(family: int, address: tuple[Any, ...], both: bool, reuse_port: bool) -> socket.socket:
    """A socket bound to one address.

    Raises:
        BindError: from the OSError.
    """
    sock = None
    try:
        # asyncio sets TCP_NODELAY where it sees the protocol's number.
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
        raise BindError(explain(exc, str(address[0]), int(address[1]))) from exc
    return sock


def is_absent(exc: BaseException | None) -> bool:
    """Whether the machine has no such address, or nothing of its family."""
    return isinstance(exc, OSError) and exc.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def own_queue(sock: socket.socket, idle: float) -> socket.socket | None:
    """Another socket on the same address, with a queue of connections of its own (SO_REUSEPORT).

    Args:
        sock: one of bind().
        idle: as keep_alive().

    Returns:
        None for a socket that was given to us, or a Unix socket.
    """
    if sock.family == socket.AF_UNIX or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        return None
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return None  # it was given, and nobody would take what comes to it
    twin = bind_one(sock.family, sock.getsockname(), takes_both(sock), True)
    keep_alive(twin, idle)
    return twin


def takes_both(sock: socket.socket) -> bool:
    """Whether an IPv6 socket takes IPv4, too."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def keep_alive(sock: socket.socket, idle: float) -> None:
    """Have the kernel probe peers that are silent for `idle` seconds (0 for not); accepted
    connections inherit it.
    """
    if not idle or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", max(1, round(idle))),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):  # macOS has its own names, and its own defaults
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def listen(sock: socket.socket, backlog: int) -> None:
    """Begin to listen.

    Raises:
        BindError: another process began to listen on the same address meanwhile.
    """
    try:
        sock.listen(backlog)
    except OSError as exc:
        name = sock.getsockname()
        if not isinstance(name, tuple):
            raise BindError(f"Cannot listen on {name}: {exc.strerror}") from exc
        raise BindError(explain(exc, name[0], name[1])) from exc


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
    from pathlib import Path  # not needed where all is well

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
    """The address as a user types it into a browser, or a Unix socket's path."""
    name = sock.getsockname()
    if not isinstance(name, tuple):
        return f"unix:{os.fsdecode(name)}"
    return f"{'https' if tls else 'http'}://{url_host(name[0])}:{name[1]}"
