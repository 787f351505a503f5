"""Config: every option once, with its type, default, unit, help and environment. The command line
is made from it.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thestral._csrc import lib
from thestral.errors import ConfigError
from thestral.forwarded import TRUSTED_BY_DEFAULT, TrustedPeers, checked_fields
from thestral.logconfig import LOGGING_CONFIG as LOGGING_CONFIG  # uvicorn's place for it
from thestral.logconfig import changed_default
from thestral.logformat import DEFAULT, read_format
from thestral.logging import LOG_LEVELS
from thestral.option import Option, checked, checked_header, option, paths, wire_accepts, words
from thestral.sockets import close_all, open_all

if TYPE_CHECKING:
    from ssl import SSLContext

    from thestral.types import ASGIApplication

LOOPS = ("auto", "uvloop", "asyncio", "none")
# What None means where it is no value of the option's, and not its default: as under uvicorn.
MEANT_BY_NONE = {"host": [""], "loop": "none"}  # every address; asyncio
LARGEST_PORT = 65535
LARGEST_SIZE = 2**30  # bytes; what is bounded must fit memory, and the core counts in 32 bits
LARGEST_BODY = 2**64 - 1  # bytes, as the core counts them
LARGEST_BACKLOG = 2**31 - 1
LARGEST_COUNT = 4096  # processes
LARGEST_SSL_VERSION = 17  # ssl.PROTOCOL_TLS_SERVER
POSIX = os.name == "posix"
# They need Unix sockets, inherited descriptors, or a supervisor with its signals and pipes.
NEED_POSIX = (
    *("uds", "fd", "workers", "preload", "reload"),
    *("limit_max_requests", "limit_max_rss", "limit_worker_lifetime", "timeout_worker_blocked"),
)


@dataclass(kw_only=True, eq=False)
class Config:
    """Options of a server; see `thestral --help` for each.

    Args:
        app: "module:attribute", or an ASGI application.

    Raises:
        ConfigError: a value cannot be used.
    """

    app: str | ASGIApplication = dataclasses.field(kw_only=False)

    # ruff: noqa: RUF009  (option() makes a dataclass field, as dataclasses.field does)
    host: str | list[str] = option(
        ["127.0.0.1"],
        help="Address to listen on; repeatable. '::' is IPv6 and IPv4, 'localhost' both loopbacks.",
        group="Binding",
        kind=list,
        item="HOST",
    )
    port: int = option(
        8000,
        help="Port to listen on; 0 takes a free one and prints it.",
        group="Binding",
        kind=int,
        highest=LARGEST_PORT,
    )
    backlog: int = option(
        2048,
        help="Connections that may wait to be accepted.",
        group="Binding",
        kind=int,
        positive=True,
        highest=LARGEST_BACKLOG,
        unit="connections",
    )

    uds: str | None = option(
        None,
        help="Unix socket to listen on in place of host and port.",
        group="Binding",
        kind=str,
        item="PATH",
        optional=True,
    )
    uds_permissions: str = option(
        "666", help="Permissions of the Unix socket, octal.", group="Binding", kind=str
    )
    fd: int | None = option(
        None,
        help="Listen on this inherited file descriptor.",
        group="Binding",
        kind=int,
        optional=True,
        highest=LARGEST_BACKLOG,
    )
    reuse_port: bool = option(
        False,
        help="Set SO_REUSEPORT: a queue of connections for each worker in place of one for all.",
        group="Binding",
        kind=bool,
    )
    tcp_keepalive: float = option(
        60.0,
        help="Idle time after which the kernel asks whether a client is still there; 0 never asks.",
        group="Binding",
        kind=float,
        unit="seconds",
    )

    app_dir: str = option(
        "",
        help="Look for the application in this directory.",
        group="Application",
        kind=str,
        item="PATH",
    )
    factory: bool = option(
        False, help="The application is a function that makes one.", group="Application", kind=bool
    )
    lifespan: str = option(
        "auto",
        help="Run the application's lifespan; auto goes on without one, or one that raises.",
        group="Application",
        kind=str,
        choices=("auto", "on", "off"),
    )
    asgi_spec_version: str = option(
        "2.3",
        help="ASGI version of http scopes: with 2.5 send() raises OSError when the client is gone.",
        group="Application",
        kind=str,
        choices=("2.3", "2.5"),
    )
    pathsend: bool = option(
        False,
        help="Offer ASGI's http.response.pathsend, by which Starlette's FileResponse sends files.",
        group="Application",
        kind=bool,
    )
    zerocopysend: bool = option(
        False,
        help="Offer ASGI's http.response.zerocopysend: parts of open files in a body.",
        group="Application",
        kind=bool,
    )
    loop: str = option(
        "auto",
        help="Event loop: uvloop, asyncio, or MODULE:FUNCTION that makes one; auto is uvloop where"
        " it is installed, none is asyncio.",
        group="Application",
        kind=str,
    )
    interface: str = option(
        "auto",
        help="What the application is; auto knows ASGI 3 from ASGI 2. wsgi needs package a2wsgi.",
        group="Application",
        kind=str,
        choices=("auto", "asgi3", "asgi2", "wsgi"),
    )
    http: str = option(
        "auto",
        help="Accepted for uvicorn's sake: there is one parser.",
        group="Application",
        kind=str,
        choices=("auto", "h11", "httptools", "zttp"),
    )
    reset_contextvars: bool = option(
        False,
        help="Accepted for uvicorn's sake: no request sees another's context variables.",
        group="Application",
        kind=bool,
    )
    root_path: str = option(
        "", help="Path prefix that a proxy serves the application under.", group="HTTP", kind=str
    )
    headers: list[tuple[str, str]] = option(
        [],
        help='Field "Name: Value" for each response.',
        group="HTTP",
        kind=list,
        flag="header",
        item="NAME:VALUE",
    )
    server_header: bool = option(True, help="Send the Server field.", group="HTTP", kind=bool)
    date_header: bool = option(True, help="Send the Date field.", group="HTTP", kind=bool)

    limit_request_line: int = option(
        64 * 1024,
        help="Longest request line; more is 414.",
        group="Limits",
        kind=int,
        unit="bytes",
        positive=True,
        highest=LARGEST_SIZE,
    )
    limit_header_size: int = option(
        64 * 1024,
        help="Largest header section, and trailer section; more is 431.",
        group="Limits",
        kind=int,
        unit="bytes",
        positive=True,
        highest=LARGEST_SIZE,
    )
    limit_header_count: int = option(
        100,
        help="Most header fields of a request; more is 431.",
        group="Limits",
        kind=int,
        unit="fields",
        positive=True,
        highest=LARGEST_SIZE,
    )
    limit_request_body: int | None = option(
        None,
        help="Largest request body; more is 413.",
        group="Limits",
        kind=int,
        unit="bytes",
        positive=True,
        highest=LARGEST_BODY,
        optional=True,
    )

    h11_max_incomplete_event_size: int | None = option(
        None,
        help="uvicorn's name of limit_header_size.",
        group="Limits",
        kind=int,
        unit="bytes",
        positive=True,
        optional=True,
        highest=LARGEST_SIZE,
    )
    limit_concurrency: int | None = option(
        None,
        help="Most requests that run at once in a worker, WebSockets apart; more are 503.",
        group="Limits",
        kind=int,
        unit="requests",
        positive=True,
        optional=True,
        highest=LARGEST_BACKLOG,
    )
    limit_connections: int | None = option(
        None,
        help="Most connections that are open at once in a worker; more are 503.",
        group="Limits",
        kind=int,
        unit="connections",
        positive=True,
        optional=True,
        highest=LARGEST_BACKLOG,
    )

    timeout_head: float = option(
        10.0,
        help="Time for a request's head to arrive, from its first byte or the connection's start.",
        group="Time-outs",
        kind=float,
        unit="seconds",
        positive=True,
    )
    timeout_body: float = option(
        30.0,
        help="Longest pause within a request's body.",
        group="Time-outs",
        kind=float,
        unit="seconds",
        positive=True,
    )
    timeout_keep_alive: float = option(
        75.0,
        help="How long an idle connection waits for its next request; 0 closes it after each.",
        group="Time-outs",
        kind=float,
        unit="seconds",
    )
    timeout_write: float = option(
        60.0,
        help="How long a client may take none of a response.",
        group="Time-outs",
        kind=float,
        unit="seconds",
        positive=True,
    )
    timeout_request: float | None = option(
        None,
        help="Longest time that the application may take for a request; then it is cancelled.",
        group="Time-outs",
        kind=float,
        unit="seconds",
        positive=True,
        optional=True,
    )
    timeout_graceful_shutdown: float = option(
        30.0,
        help="How long running requests may go on after a signal to stop.",
        group="Time-outs",
        kind=float,
        unit="seconds",
    )

    ws: str = option(
        "auto",
        help="Take WebSockets; none leaves their handshakes to the application as plain HTTP. The"
        " names of uvicorn's libraries all mean auto.",
        group="WebSocket",
        kind=str,
        choices=("auto", "none", "websockets", "websockets-sansio", "wsproto"),
    )
    ws_max_size: int = option(
        16 * 1024 * 1024,
        help="Largest message; more closes the connection with 1009.",
        group="WebSocket",
        kind=int,
        unit="bytes",
        positive=True,
        highest=LARGEST_SIZE,
    )
    ws_max_queue: int = option(
        32,
        help="Messages that may wait for the application before reading pauses.",
        group="WebSocket",
        kind=int,
        unit="messages",
        positive=True,
        highest=LARGEST_SIZE,
    )
    ws_max_queue_size: int = option(
        64 * 1024,
        help="Size of the messages that may wait before reading pauses.",
        group="WebSocket",
        kind=int,
        unit="bytes",
        positive=True,
        highest=LARGEST_SIZE,
    )
    ws_ping_interval: float | None = option(
        20.0,
        help="Time between Pings; 0 sends none.",
        group="WebSocket",
        kind=float,
        unit="seconds",
        optional=True,
    )
    ws_ping_timeout: float | None = option(
        20.0,
        help="Time for anything to arrive after a Ping, else 1011; 0 waits for ever.",
        group="WebSocket",
        kind=float,
        unit="seconds",
        optional=True,
    )
    ws_close_timeout: float = option(
        10.0,
        help="Time for the client to answer a Close; at a shutdown 2 s at most.",
        group="WebSocket",
        kind=float,
        unit="seconds",
        positive=True,
    )
    ws_per_message_deflate: bool = option(
        True, help="Compress messages if the client can.", group="WebSocket", kind=bool
    )
    ws_deflate_server_window_bits: int = option(
        12,
        help="Size of our compression window, as a power of 2.",
        group="WebSocket",
        kind=int,
        unit="bits",
        lowest=9,
        highest=15,
    )
    ws_deflate_client_window_bits: int = option(
        12,
        help="Largest window of a client's compression, as a power of 2.",
        group="WebSocket",
        kind=int,
        unit="bits",
        lowest=9,
        highest=15,
    )
    ws_deflate_context_takeover: bool = option(
        True,
        help="Keep compression windows between messages: smaller messages, more memory.",
        group="WebSocket",
        kind=bool,
    )
    ws_deflate_level: int = option(
        6,
        help="Compression level of zlib: 1 is fastest, 9 smallest.",
        group="WebSocket",
        kind=int,
        unit="level",
        lowest=1,
        highest=9,
    )
    ws_deflate_memory_level: int = option(
        5,
        help="Memory level of zlib.",
        group="WebSocket",
        kind=int,
        unit="level",
        lowest=1,
        highest=9,
    )
    ws_deflate_min_size: int = option(
        128,
        help="Shorter messages are not compressed.",
        group="WebSocket",
        kind=int,
        unit="bytes",
        highest=LARGEST_SIZE,
    )

    workers: int | str | None = option(
        None,
        help="Processes that serve; auto is one for each processor that this process may use."
        " WEB_CONCURRENCY is the default.",
        group="Workers",
        kind=int,
        words=("auto",),
        optional=True,
        positive=True,
        highest=LARGEST_COUNT,
    )
    preload: bool = option(
        False,
        help="Import the application before the workers fork, so that they share its memory.",
        group="Workers",
        kind=bool,
    )
    limit_max_requests: int | None = option(
        None,
        help="Replace a worker after so many requests.",
        group="Workers",
        kind=int,
        unit="requests",
        positive=True,
        optional=True,
        highest=LARGEST_BACKLOG,
    )
    limit_max_requests_jitter: int | None = option(
        None,
        help="At most so many more, at random [default: 10 %].",
        group="Workers",
        kind=int,
        unit="requests",
        optional=True,
        highest=LARGEST_BACKLOG,
    )
    limit_max_rss: int | None = option(
        None,
        help="Replace a worker that holds more memory (Linux).",
        group="Workers",
        kind=int,
        unit="bytes",
        positive=True,
        optional=True,
    )
    limit_worker_lifetime: float | None = option(
        None,
        help="Replace a worker after this time, and up to 10 % more.",
        group="Workers",
        kind=float,
        unit="seconds",
        positive=True,
        optional=True,
    )
    timeout_worker_healthcheck: float = option(
        5.0,
        help="Kill a worker that has been deadlocked or stopped for this long, or three times as"
        " long if it also has threads that sleep or poll (Linux).",
        group="Workers",
        kind=float,
        unit="seconds",
        positive=True,
    )
    timeout_worker_blocked: float | None = option(
        None,
        help="Kill a worker whose event loop has been blocked for this long, whatever the reason"
        " [default: never].",
        group="Workers",
        kind=float,
        unit="seconds",
        lowest=1,
        optional=True,
    )
    timeout_worker_startup: float | None = option(
        None,
        help="Kill a worker that is not ready after this time [default: a reminder each minute].",
        group="Workers",
        kind=float,
        unit="seconds",
        positive=True,
        optional=True,
    )
    shutdown_delay: float = option(
        0.0,
        help="After a signal to stop accept for this time, each answer closing its connection.",
        group="Workers",
        kind=float,
        unit="seconds",
    )
    pid_file: str | None = option(
        None,
        help="Write the process's PID here.",
        group="Workers",
        kind=str,
        item="PATH",
        optional=True,
    )

    reload: bool = option(
        False, help="Start again when a file changes.", group="Development", kind=bool
    )
    reload_dirs: str | list[str] | None = option(
        [],
        help="Directory to watch [default: the working directory, and the application's].",
        group="Development",
        kind=list,
        flag="reload_dir",
        item="PATH",
    )
    reload_includes: str | list[str] | None = option(
        [],
        help="Pattern of files that matter, beside *.py.",
        group="Development",
        kind=list,
        flag="reload_include",
        item="PATTERN",
    )
    reload_excludes: str | list[str] | None = option(
        [],
        help="Pattern of files and directories that do not.",
        group="Development",
        kind=list,
        flag="reload_exclude",
        item="PATTERN",
    )
    reload_delay: float = option(
        0.25,
        help="Time to gather changes before starting again.",
        group="Development",
        kind=float,
        unit="seconds",
    )

    ssl_certfile: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = option(
        [],
        help="Certificate with its chain, PEM: speak TLS. Repeatable: the client's server name"
        " (SNI) chooses, and the first is for all other names.",
        group="TLS",
        kind=list,
        item="PATH",
    )
    ssl_keyfile: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = option(
        [],
        help="Key of the certificate, PEM, if it is not in the same file; repeated in the order of"
        " the certificates.",
        group="TLS",
        kind=list,
        item="PATH",
    )
    ssl_keyfile_password: str | None = option(
        None,
        help="Password of the keys; better in the environment.",
        group="TLS",
        kind=str,
        optional=True,
        secret=True,
    )
    ssl_version: int = option(
        17,
        help="Number of ssl.PROTOCOL_* in Python: 17 and 2 choose the version by themselves, 5 is"
        " TLS 1.2 alone.",
        group="TLS",
        kind=int,
        highest=LARGEST_SSL_VERSION,
    )
    ssl_min_version: str = option(
        "1.2", help="Oldest version of TLS.", group="TLS", kind=str, choices=("1.2", "1.3")
    )
    ssl_cert_reqs: int | str = option(
        0,
        help="Whether clients show a certificate: 0 or none, 1 or optional, 2 or required.",
        group="TLS",
        kind=int,
        words=("none", "optional", "required"),
        highest=2,
    )
    ssl_ca_certs: str | os.PathLike[str] | None = option(
        None,
        help="Certificates that clients' certificates are verified by, PEM.",
        group="TLS",
        kind=str,
        item="PATH",
        optional=True,
    )
    ssl_ciphers: str | None = option(
        None,
        help="Ciphers of TLS 1.2 in OpenSSL's words [default: Python's choice].",
        group="TLS",
        kind=str,
        optional=True,
    )
    timeout_tls_handshake: float = option(
        10.0,
        help="Time for a TLS handshake, from the connection's start.",
        group="TLS",
        kind=float,
        unit="seconds",
        positive=True,
    )
    # Makes the context in place of the options above, or on top of what the second argument gives.
    ssl_context_factory: Callable[[Config, Callable[[], SSLContext]], SSLContext] | None = None

    proxy_headers: bool = option(
        True,
        help="Take a request's client and scheme from the fields of trusted proxies.",
        group="Proxies",
        kind=bool,
    )
    forwarded_allow_ips: str | list[str] | None = option(
        None,
        help="Trusted proxies, comma-separated: addresses, networks, * for all, unix for all Unix"
        " sockets, or a socket's path [default: FORWARDED_ALLOW_IPS, else 127.0.0.1,::1,unix].",
        group="Proxies",
        kind=str,
        also=(list, tuple),
        optional=True,
    )
    forwarded_fields: str | list[str] = option(
        "x-forwarded-for,x-forwarded-proto",
        help="Fields that are read, comma-separated: x-forwarded-for, -proto, -host, -port and"
        " -prefix, or forwarded (RFC 7239). Name only what your proxy sets itself.",
        group="Proxies",
        kind=str,
        also=(list, tuple),
    )
    proxy_protocol: bool = option(
        False,
        help="Trusted proxies begin each connection with the PROXY protocol, version 1 or 2.",
        group="Proxies",
        kind=bool,
    )

    access_log_format: str = option(
        DEFAULT,
        help="Line of the access log: uvicorn, combined, json, or a text with Apache's and"
        " gunicorn's atoms.",
        group="Logging",
        kind=str,
    )
    log_config: str | dict[str, Any] | None = option(
        "",
        help="File that configures logging: .json, .yaml, .toml, else ini. From Python also a dict"
        " for logging.config.dictConfig, or None to leave logging alone.",
        group="Logging",
        kind=str,
        item="PATH",
        also=(dict,),
        optional=True,
    )
    use_colors: bool | None = option(
        None,
        help="Colours in the log [default: on a terminal, unless NO_COLOR is set].",
        group="Logging",
        kind=bool,
        optional=True,
    )
    # Of uvicorn's Config alone: an async function to call every so many seconds while we serve, and
    # a file of environment variables (--env-file).
    callback_notify: Callable[[], Awaitable[None]] | None = None
    timeout_notify: float = 30.0
    env_file: str | os.PathLike[str] | None = None

    log_level: str | int | None = option(
        None,
        help="Least level that is logged [default: info].",
        group="Logging",
        kind=str,
        choices=tuple(LOG_LEVELS),
        also=(int,),
        optional=True,
    )
    access_log: bool = option(
        True, help="Log each request.", group="Logging", kind=bool, words=tuple(LOG_LEVELS)
    )

    def __post_init__(self) -> None:
        if self.env_file is not None:
            from thestral.settings import load_environment  # which needs this module

            load_environment(os.fspath(self.env_file))
        if self.callback_notify is not None and not callable(self.callback_notify):
            raise ConfigError(
                "callback_notify", f"{self.callback_notify!r} given, expected an async function"
            )
        seconds = Option(help="", group="", kind=float, unit="seconds", positive=True)
        self.timeout_notify = checked("timeout_notify", seconds, self.timeout_notify)
        if self.log_config == "":
            self.log_config = changed_default() or ""
        if self.workers is None:
            self.workers = workers_of_environment()
        self.ssl_certfile, self.ssl_keyfile = self.certificate_files, self.key_files
        # By path, what thestral.tls has read of pipes, which give it once. It goes to workers with
        # the options.
        self.read_once: dict[str, bytes] = {}
        for name, spec in options():
            value = getattr(self, name)
            if value is None and not spec.optional:
                value = MEANT_BY_NONE.get(name, default_of(name))
            setattr(self, name, checked(name, spec, value))
        self.access_log = bool(self.access_log)  # a level's name, which uvicorn takes for True
        for name in () if POSIX else NEED_POSIX:
            if getattr(self, name):
                raise ConfigError(name, "needs POSIX, and this system is another")
        if self.root_path and not (
            self.root_path.startswith("/") and wire_accepts(lib.th_is_visible, self.root_path)
        ):
            raise ConfigError(
                "root_path", f"{self.root_path!r} is not a path: expected '/' and visible ASCII"
            )
        if self.h11_max_incomplete_event_size is not None:
            self.limit_header_size = self.h11_max_incomplete_event_size
        self.headers = [checked_header(header) for header in self.headers]
        TrustedPeers(self.trusted_proxies)
        self.proxy_fields  # noqa: B018  (it checks them)
        if self.loop not in LOOPS and ":" not in self.loop:
            known = ", ".join(LOOPS)
            raise ConfigError(
                "loop", f"{self.loop!r} given, expected one of {known}, module:function"
            )
        read_format(self.access_log_format)
        if not self.host or not all(isinstance(host, str) for host in self.host):
            raise ConfigError("host", f"{self.host!r} given, expected one address or more")
        if not re.fullmatch("0?[0-7]{1,3}", self.uds_permissions):
            raise ConfigError(
                "uds_permissions", f"{self.uds_permissions!r} given, expected octal, as 660"
            )

    @property
    def hosts(self) -> list[str]:
        return [self.host] if isinstance(self.host, str) else self.host

    @property
    def certificate_files(self) -> list[str]:
        return paths("ssl_certfile", self.ssl_certfile)

    @property
    def key_files(self) -> list[str]:
        """In the order of certificate_files; empty if each holds its own."""
        return paths("ssl_keyfile", self.ssl_keyfile)

    @property
    def trusted_proxies(self) -> list[str]:
        """Entries of forwarded_allow_ips."""
        given = self.forwarded_allow_ips
        if given is None:
            given = os.environ.get("FORWARDED_ALLOW_IPS", TRUSTED_BY_DEFAULT)
        return words("forwarded_allow_ips", given)

    @property
    def proxy_fields(self) -> list[bytes]:
        """Names in forwarded_fields, lower-case."""
        names = words("forwarded_fields", self.forwarded_fields)
        return checked_fields([name.lower() for name in names])

    @property
    def is_ssl(self) -> bool:
        return bool(self.ssl_certfile or self.ssl_context_factory)

    @property
    def encoded_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """headers as bytes, valid on the wire."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]

    @property
    def worker_count(self) -> int:
        """Of processes that serve; with "auto" as many as there are processors to use."""
        if self.workers == "auto":
            from thestral.cpus import available  # not needed in most processes

            return available()
        return int(self.workers or 1)

    @property
    def needs_supervisor(self) -> bool:
        """Whether the options ask for worker processes beside this one."""
        return bool(
            self.worker_count > 1
            or self.limit_max_requests
            or self.limit_max_rss
            or self.limit_worker_lifetime
            or self.timeout_worker_blocked
            or self.preload
            or self.reload
        )

    @property
    def log_level_number(self) -> int | None:
        if isinstance(self.log_level, str):
            return LOG_LEVELS[self.log_level]
        return self.log_level

    def bind_socket(self) -> socket.socket:
        """A socket bound to the one address that the options name, for Server.run(sockets=[...]).

        Raises:
            BindError: it cannot be had.
            ConfigError: the options name several.
        """
        found = open_all(self)
        if len(found) > 1:
            close_all(found)
            raise ConfigError("host", f"{self.host!r} is {len(found)} addresses, expected one")
        return found[0]


def workers_of_environment() -> int | str | None:
    """What WEB_CONCURRENCY, which platforms set, says of the number of processes.

    Raises:
        ConfigError: neither a number of at least 1 nor "auto".
    """
    given = os.environ.get("WEB_CONCURRENCY", "")
    if given in ("", "auto"):
        return given or None
    if not (given.isdecimal() and int(given) > 0):
        raise ConfigError("workers", f"WEB_CONCURRENCY is {given!r}, expected a number or 'auto'")
    return int(given)


def options() -> Iterable[tuple[str, Option]]:
    """Every option in the order of Config's fields, with its field's name."""
    for field in dataclasses.fields(Config):
        if "option" in field.metadata:
            yield field.name, field.metadata["option"]


def default_of(name: str) -> Any:
    for field in dataclasses.fields(Config):
        if field.name == name:
            if field.default_factory is not dataclasses.MISSING:
                return field.default_factory()
            return field.default
    raise KeyError(name)
