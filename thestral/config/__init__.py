"""Config: every option, declared once. The command line, the environment variables, the keys in
files, `--help`, the tables in the documents and the checks of values are derived from it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from thestral.config.address import checked_address
from thestral.config.environment import load_environment
from thestral.config.option import (
    ABOVE_ZERO,
    LARGEST_SIZE,
    Option,
    checked,
    checked_files,
    checked_headers,
    checked_hosts,
    checked_octal,
    checked_path,
    count,
    flag,
    integer,
    path,
    seconds,
    several,
    size,
    text,
    words,
)
from thestral.errors import ConfigError
from thestral.logging.format import DEFAULT, read_format
from thestral.logging.loggers import LOG_LEVELS
from thestral.logging.setup import LOGGING_CONFIG as LOGGING_CONFIG  # uvicorn's place for it
from thestral.logging.setup import changed_default
from thestral.net.forwarded import TRUSTED_BY_DEFAULT, TrustedPeers, checked_fields
from thestral.net.sockets import close_all, open_all

if TYPE_CHECKING:
    from ssl import SSLContext

    from thestral.types import ASGIApplication

    Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None

LOOPS = ("auto", "uvloop", "asyncio", "none")
# Meaning of None, as under uvicorn, for options for which it is neither a value nor the default.
MEANT_BY_NONE = {"host": [""], "loop": "none"}  # every address; asyncio
KIB = 1024  # bytes
MIB = 1024 * KIB
LARGEST_PORT = 65535
LARGEST_BODY = 2**64 - 1  # bytes, as the core counts them
LARGEST_WORKERS = 4096
LARGEST_SSL_VERSION = 17  # ssl.PROTOCOL_TLS_SERVER
POSIX = os.name == "posix"
# Options that need Unix sockets, inherited descriptors, or the supervisor's signals and pipes.
NEED_POSIX = (
    *("uds", "fd", "workers", "preload", "reload"),
    *("limit_max_requests", "limit_max_rss", "limit_worker_lifetime", "timeout_worker_blocked"),
    *("on_worker_start", "on_worker_exit", "admin"),
)
# Options that say how the default configuration of logging writes; log_config replaces that.
NEED_OWN_LOGGING = ("log_format", "log_timestamps", "log_file", "access_log_file")
NOTIFY_SPEC = Option("", "", float, "seconds", ABOVE_ZERO)  # for uvicorn's timeout_notify


def checked_loop(name: str) -> str:
    if name not in LOOPS and ":" not in name:
        raise ValueError(f"{name!r} given, expected one of {', '.join(LOOPS)}, module:function")
    return name


def checked_function(given: str) -> str:
    module, _, function = given.partition(":")
    if not module or module.startswith(".") or not function:
        raise ValueError(f"{given!r} given, expected MODULE:FUNCTION")
    return given


def checked_format(given: str) -> str:
    read_format(given)  # only a check: the access log of each process reads it again
    return given


def checked_accelerate(given: list[str]) -> list[str]:
    for value in given:
        from thestral.accelerate.groups import read  # most servers do without

        read(value)  # only a check: each process reads it again before it imports the application
    return given


def checked_log_file(given: str) -> str:
    """Return the absolute path: the application may change the working directory."""
    if not given:
        raise ValueError("'' given, expected a path")
    return os.path.abspath(given)


@dataclass(kw_only=True, eq=False)
class Config:
    """Options of a server; see `thestral --help` for each.

    Args:
        app: "module:attribute", or an ASGI application.

    Raises:
        ConfigError: a value cannot be used.
    """

    app: str | ASGIApplication = dataclasses.field(kw_only=False)

    # ruff: noqa: RUF009  (each call makes a dataclass field)
    # A table, formatted by hand: an option's type and bounds, then its help text on the next line.
    # fmt: off
    host: str | list[str] = several(["127.0.0.1"], "Binding", item="HOST", convert=checked_hosts,
        help="Address to listen on; repeatable. '::' is IPv6 and IPv4, 'localhost' both loopbacks.")
    port: int = integer(8000, "Binding", highest=LARGEST_PORT,
        help="Port to listen on; 0 picks a free port and prints it.")
    backlog: int = count(2048, "Binding", unit="connections",
        help="Maximum connections waiting to be accepted.")
    uds: str | None = path(None, "Binding",
        help="Unix socket to listen on instead of host and port.")
    uds_permissions: str = text("666", "Binding", convert=checked_octal,
        help="Permissions of the Unix socket, in octal.")
    fd: int | None = integer(None, "Binding", help="Listen on this inherited file descriptor.")
    reuse_port: bool = flag(False, "Binding",
        help="Set SO_REUSEPORT: one queue of connections per worker instead of a shared one.")
    tcp_keepalive: float = seconds(60.0, "Binding", lowest=0,
        help="Idle time before the kernel probes whether a client is still there; 0 never probes.")

    app_dir: str = path("", "Application", help="Directory to look for the application in.")
    factory: bool = flag(False, "Application",
        help="The application is a function that returns one.")
    lifespan: str = text("auto", "Application", choices=("auto", "on", "off"),
        help="Run the application's lifespan; auto continues if it is unsupported or raises.")
    asgi_spec_version: str = text("2.3", "Application", choices=("2.3", "2.5"),
        help="ASGI version of HTTP scopes; with 2.5, send() raises OSError if the client is gone.")
    pathsend: bool = flag(False, "Application",
        help="Offer ASGI's http.response.pathsend, which Starlette's FileResponse uses.")
    zerocopysend: bool = flag(False, "Application",
        help="Offer ASGI's http.response.zerocopysend, which sends parts of open files.")
    loop: str = text("auto", "Application", convert=checked_loop,
        help="Event loop: uvloop, asyncio, or MODULE:FUNCTION that returns one; auto is uvloop if"
             " it is installed, none is asyncio.")
    accelerate: str | list[str] = several([], "Application", item="WHAT",
        convert=checked_accelerate,
        help="Make FastAPI cost less: fastapi, or threads for any framework that uses anyio;"
             " repeatable. fastapi=router,stacks is some of it, fastapi=require all of it or an"
             " error.")
    interface: str = text("auto", "Application", choices=("auto", "asgi3", "asgi2", "wsgi"),
        help="Application interface; auto tells ASGI 3 from ASGI 2, wsgi needs the a2wsgi package.")
    http: str = text("auto", "Application", choices=("auto", "h11", "httptools", "zttp"),
        help="Accepted for compatibility with uvicorn; there is only one parser.")
    reset_contextvars: bool = flag(False, "Application",
        help="Accepted for compatibility with uvicorn; requests never share context variables.")

    root_path: str = text("", "HTTP", convert=checked_path,
        help="Path prefix under which a proxy serves the application.")
    headers: list[tuple[str, str]] = several([], "HTTP", flag="header", item="NAME:VALUE",
        also=(list, tuple), convert=checked_headers,
        help='Header "Name: Value" to add to each response; repeatable.')
    server_header: bool = flag(True, "HTTP", help="Send the Server header.")
    date_header: bool = flag(True, "HTTP", help="Send the Date header.")
    http2: bool = flag(True, "HTTP",
        help="Accept HTTP/2: with TLS by ALPN, without TLS from clients that begin with it.")
    http2_max_streams: int = count(128, "HTTP", unit="streams", highest=LARGEST_SIZE,
        help="Maximum concurrent streams of an HTTP/2 connection; clients wait to open more.")
    http2_connection_window: int = size(MIB, "HTTP", lowest=64 * KIB - 1,
        help="Request bodies that an HTTP/2 connection may send before the application reads them.")

    limit_request_line: int = size(64 * KIB, "Limits",
        help="Longest request line; a longer one gets 414.")
    limit_header_size: int = size(64 * KIB, "Limits",
        help="Largest header or trailer section; a larger one gets 431.")
    limit_header_count: int = count(100, "Limits", unit="fields", highest=LARGEST_SIZE,
        help="Maximum header fields per request; more get 431.")
    limit_request_body: int | None = size(None, "Limits", highest=LARGEST_BODY,
        help="Largest request body; a larger one gets 413.")
    h11_max_incomplete_event_size: int | None = size(None, "Limits",
        help="uvicorn's name for --limit-header-size.")
    limit_concurrency: int | None = count(None, "Limits", unit="requests",
        help="Maximum concurrent requests per worker, not counting WebSockets; further ones get"
             " 503.")
    limit_connections: int | None = count(None, "Limits", unit="connections",
        help="Maximum open connections per worker; further ones get 503.")

    timeout_head: float = seconds(10.0, "Timeouts",
        help="Time for a request head to arrive, from its first byte or the connection's start.")
    timeout_body: float = seconds(30.0, "Timeouts", help="Longest pause within a request body.")
    timeout_keep_alive: float = seconds(75.0, "Timeouts", lowest=0,
        help="How long an idle connection waits for its next request; 0 closes it after each.")
    timeout_write: float = seconds(60.0, "Timeouts",
        help="Longest time a client may go without reading any of the response.")
    timeout_request: float | None = seconds(None, "Timeouts",
        help="Longest time the application may spend on a request before it is cancelled.")
    timeout_graceful_shutdown: float = seconds(30.0, "Timeouts", lowest=0,
        help="How long running requests may continue after a signal to stop.")

    ws: str = text("auto", "WebSocket",
        choices=("auto", "none", "websockets", "websockets-sansio", "wsproto"),
        help="Accept WebSockets; none leaves their handshakes to the application as plain HTTP."
             " The names of uvicorn's libraries all mean auto.")
    ws_max_size: int = size(16 * MIB, "WebSocket",
        help="Largest message; a larger one closes the connection with 1009.")
    ws_max_queue: int = count(32, "WebSocket", unit="messages", highest=LARGEST_SIZE,
        help="Maximum messages waiting for the application before reading pauses.")
    ws_max_queue_size: int = size(64 * KIB, "WebSocket",
        help="Total size of the waiting messages at which reading pauses.")
    ws_ping_interval: float | None = seconds(20.0, "WebSocket", lowest=0, optional=True,
        help="Time between pings; 0 sends none.")
    ws_ping_timeout: float | None = seconds(20.0, "WebSocket", lowest=0, optional=True,
        help="Time for any data to arrive after a ping, or the connection closes with 1011; 0"
             " waits forever.")
    ws_close_timeout: float = seconds(10.0, "WebSocket",
        help="Time for the client to answer a Close; at most 2 s during a shutdown.")
    ws_per_message_deflate: bool = flag(True, "WebSocket",
        help="Compress messages if the client supports it.")
    ws_deflate_server_window_bits: int = integer(12, "WebSocket", unit="bits", lowest=9, highest=15,
        help="Size of the server's compression window, as a power of 2.")
    ws_deflate_client_window_bits: int = integer(12, "WebSocket", unit="bits", lowest=9, highest=15,
        help="Largest compression window the client may use, as a power of 2.")
    ws_deflate_context_takeover: bool = flag(True, "WebSocket",
        help="Keep compression windows between messages: smaller messages, more memory.")
    ws_deflate_level: int = integer(6, "WebSocket", item="LEVEL", lowest=1, highest=9,
        help="zlib's compression level, from 1 (fastest) to 9 (smallest).")
    ws_deflate_memory_level: int = integer(5, "WebSocket", item="LEVEL", lowest=1, highest=9,
        help="zlib's memory level.")
    ws_deflate_min_size: int = size(128, "WebSocket", lowest=0,
        help="Size of the smallest message to compress.")

    workers: int | str | None = count(None, "Workers", words=("auto",), highest=LARGEST_WORKERS,
        help="Number of worker processes, beside a supervisor; auto is one for each available"
             " processor [default: WEB_CONCURRENCY, else none: one process].")
    preload: bool = flag(False, "Workers",
        help="Import the application before the workers fork, so that they share its memory.")
    limit_max_requests: int | None = count(None, "Workers", unit="requests",
        help="Replace a worker after this many requests.")
    limit_max_requests_jitter: int | None = integer(None, "Workers", unit="requests",
        help="Add up to this many requests, at random, to --limit-max-requests [default: 10 %].")
    limit_max_rss: int | None = size(None, "Workers", highest=math.inf,
        help="Replace a worker that uses more memory than this (Linux).")
    limit_worker_lifetime: float | None = seconds(None, "Workers",
        help="Replace a worker after this time, plus up to 10 %.")
    timeout_worker_healthcheck: float = seconds(5.0, "Workers",
        help="Kill a worker that has been deadlocked or stopped for this long, or three times as"
             " long if it also has threads that sleep or poll (Linux).")
    timeout_worker_blocked: float | None = seconds(None, "Workers", lowest=1,
        help="Kill a worker whose event loop has been blocked for this long, even by computation"
             " [default: never].")
    watchdog: float = seconds(1.0, "Workers", lowest=0,
        help="Log where the event loop is blocked, and in which request, when it has been for this"
             " long; 0 never does.")
    timeout_worker_startup: float | None = seconds(None, "Workers",
        help="Kill a worker that is not ready after this time [default: log a reminder each"
             " minute].")
    shutdown_delay: float = seconds(0.0, "Workers", lowest=0,
        help="Keep accepting for this long after a signal to stop, closing each connection after"
             " its response.")
    pid_file: str | None = path(None, "Workers", help="Write the process ID to this file.")
    on_worker_start: str | None = text(None, "Workers", item="MODULE:FUNCTION",
        convert=checked_function,
        help="Function to call in each worker, before it imports the application:"
             " f(number, pid).")
    on_worker_exit: str | None = text(None, "Workers", item="MODULE:FUNCTION",
        convert=checked_function,
        help="Function to call in the supervisor when a worker has ended: f(number, pid, status).")

    reload: bool = flag(False, "Development", help="Restart when a file changes.")
    reload_dirs: str | list[str] | None = several([], "Development", flag="reload_dir", item="PATH",
        help="Directory to watch; repeatable [default: the working directory and the"
             " application's].")
    reload_includes: str | list[str] | None = several([], "Development", flag="reload_include",
        item="PATTERN",
        help="Pattern of files to watch besides *.py; repeatable.")
    reload_excludes: str | list[str] | None = several([], "Development", flag="reload_exclude",
        item="PATTERN",
        help="Pattern of files and directories to ignore; repeatable.")
    reload_delay: float = seconds(0.25, "Development", lowest=0,
        help="Time to collect changes before restarting.")

    ssl_certfile: Paths = several([], "TLS", item="PATH", convert=checked_files,
        help="Certificate with its chain, in PEM; turns TLS on. Repeatable: the client's server"
             " name (SNI) selects one, and the first serves all other names.")
    ssl_keyfile: Paths = several([], "TLS", item="PATH", convert=checked_files,
        help="Private key of the certificate, in PEM, if it is in another file. Repeat it in the"
             " order of the certificates.")
    ssl_keyfile_password: str | None = text(None, "TLS", secret=True,
        help="Password of the private keys; safer in the environment.")
    ssl_version: int = integer(17, "TLS", highest=LARGEST_SSL_VERSION,
        help="Number of a ssl.PROTOCOL_* constant: 17 and 2 negotiate the version, 5 is TLS 1.2"
             " only.")
    ssl_min_version: str = text("1.2", "TLS", choices=("1.2", "1.3"),
        help="Oldest TLS version to accept.")
    ssl_cert_reqs: int | str = integer(0, "TLS", words=("none", "optional", "required"), highest=2,
        help="Whether clients send a certificate: 0 or none, 1 or optional, 2 or required.")
    ssl_ca_certs: str | os.PathLike[str] | None = path(None, "TLS",
        help="CA certificates that verify client certificates, in PEM.")
    ssl_ciphers: str | None = text(None, "TLS",
        help="TLS 1.2 ciphers, as an OpenSSL cipher list [default: those that HTTP/2 may use, or"
             " Python's choice with --no-http2].")
    timeout_tls_handshake: float = seconds(10.0, "TLS",
        help="Time for a TLS handshake, from the start of the connection.")
    # Called with this Config and a function that makes the context from the options above; returns
    # the context to use. Only in Python.
    ssl_context_factory: Callable[[Config, Callable[[], SSLContext]], SSLContext] | None = None

    proxy_headers: bool = flag(True, "Proxies",
        help="Take a request's client and scheme from the headers of trusted proxies.")
    forwarded_allow_ips: str | list[str] | None = text(None, "Proxies", also=(list, tuple),
        help="Trusted proxies, comma-separated: addresses, networks, * for all, unix for all"
             " Unix sockets, or a socket's path [default: FORWARDED_ALLOW_IPS, else"
             " 127.0.0.1,::1,unix].")
    forwarded_fields: str | list[str] = text("x-forwarded-for,x-forwarded-proto", "Proxies",
        also=(list, tuple),
        help="Headers to read, comma-separated: x-forwarded-for, -proto, -host, -port and -prefix,"
             " or forwarded (RFC 7239). Name only those that your proxy sets itself.")
    proxy_protocol: bool = flag(False, "Proxies",
        help="Trusted proxies start each connection with the PROXY protocol, version 1 or 2.")

    log_format: str = text("text", "Logging", choices=("text", "json"),
        help="Format of every line of the log: text, or an object of JSON.")
    log_timestamps: bool = flag(False, "Logging",
        help="Begin each line of text with the time, in UTC.")
    log_file: str | None = path(None, "Logging", convert=checked_log_file,
        help="Write the log to this file instead of stderr; SIGUSR1 reopens it.")
    access_log_file: str | None = path(None, "Logging", convert=checked_log_file,
        help="Write the access log to this file instead of stdout; SIGUSR1 reopens it.")
    access_log_format: str = text(DEFAULT, "Logging", convert=checked_format,
        help="Format of the access log: uvicorn, combined, json, or a string with Apache's and"
             " gunicorn's atoms.")
    access_log_exclude: list[str] = several([], "Logging", item="GLOB",
        help="Leave requests for these paths out of the access log, such as /healthz or"
             " '/static/*'; repeatable.")
    access_log_slow: float | None = seconds(None, "Logging",
        help="Log a warning for each request that takes longer, also without access log.")
    request_id: bool = flag(False, "Logging",
        help="Give each request an id: X-Request-ID of a trusted proxy, else a new UUID. The"
             " application, the response and the log get it.")
    server_timing: bool = flag(False, "Logging",
        help="Send Server-Timing: how long the request waited, and how long the application took.")
    log_config: str | dict[str, Any] | None = path("", "Logging", also=(dict,), optional=True,
        help="Logging configuration file: .json, .yaml, .toml, otherwise INI. In Python also a"
             " dict for logging.config.dictConfig, or None to leave logging alone.")
    use_colors: bool | None = flag(None, "Logging",
        help="Use colours in the log [default: on a terminal, unless NO_COLOR is set].")
    # Only in Python, as in uvicorn's Config: an async function to call every `timeout_notify`
    # seconds while serving, and a file of environment variables (the command has --env-file).
    callback_notify: Callable[[], Awaitable[None]] | None = None
    timeout_notify: float = 30.0
    env_file: str | os.PathLike[str] | None = None

    log_level: str | int | None = text(None, "Logging", choices=tuple(LOG_LEVELS), also=(int,),
        help="Lowest level to log [default: info].")
    access_log: bool = flag(True, "Logging", words=tuple(LOG_LEVELS), convert=bool,
        help="Log each request.")

    admin: str | None = text(None, "Observability", item="ADDRESS", convert=checked_address,
        help="Serve metrics, probes and the status on this address: HOST:PORT, or unix:PATH, where"
             " the server also takes orders.")
    health_path: str = text("", "Observability", convert=checked_path,
        help="Answer GET requests for this path on the application's port, without the application:"
             " 200, or 503 during a shutdown.")
    metrics_routes: bool = flag(True, "Observability",
        help="Count requests by route, too (Starlette, FastAPI).")
    # fmt: on

    def __post_init__(self) -> None:
        if self.env_file is not None:
            load_environment(os.fspath(self.env_file))
        if self.callback_notify is not None and not callable(self.callback_notify):
            raise ConfigError(
                "callback_notify", f"{self.callback_notify!r} given, expected an async function"
            )
        self.timeout_notify = checked("timeout_notify", NOTIFY_SPEC, self.timeout_notify)
        if self.log_config == "":
            self.log_config = changed_default() or ""
        if self.workers is None:
            self.workers = workers_of_environment()
        for name, spec in options():
            value = getattr(self, name)
            if value is None and not spec.optional:
                value = MEANT_BY_NONE.get(name, default_of(name))
            setattr(self, name, checked(name, spec, value))
        for name in () if POSIX else NEED_POSIX:
            if getattr(self, name):
                raise ConfigError(name, "needs a POSIX system")
        for name in NEED_OWN_LOGGING if self.log_config != "" else ():
            if getattr(self, name) != default_of(name):
                raise ConfigError(
                    name,
                    "not possible with a logging configuration of your own (log_config, or a"
                    " changed LOGGING_CONFIG), which names its formatters and files itself",
                )
        if self.h11_max_incomplete_event_size is not None:
            self.limit_header_size = self.h11_max_incomplete_event_size
        peers = self.forwarded_allow_ips
        if peers is None:
            peers = os.environ.get("FORWARDED_ALLOW_IPS", TRUSTED_BY_DEFAULT)
        # The trusted proxies, and the lower-case names of the headers to read from them.
        self.trusted_proxies = words("forwarded_allow_ips", peers)
        TrustedPeers(self.trusted_proxies)  # only a check: each process makes its own
        self.proxy_fields = checked_fields(words("forwarded_fields", self.forwarded_fields))
        # Contents, by path, of the pipes that thestral.net.tls has read. A pipe can be read only
        # once; workers get its contents with the options.
        self.read_once: dict[str, bytes] = {}
        # Where the values come from, by name, as far as that is known.
        self.sources: dict[str, str] = {}

    @property
    def hosts(self) -> list[str]:
        return [self.host] if isinstance(self.host, str) else self.host

    @property
    def certificate_files(self) -> list[str]:
        return cast("list[str]", self.ssl_certfile)

    @property
    def key_files(self) -> list[str]:
        """Key files in the order of certificate_files; empty if those contain the keys."""
        return cast("list[str]", self.ssl_keyfile)

    @property
    def is_ssl(self) -> bool:
        return bool(self.ssl_certfile or self.ssl_context_factory)

    @property
    def encoded_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Return `headers` as bytes."""
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]

    @property
    def worker_count(self) -> int:
        """Number of worker processes, with "auto" resolved."""
        if self.workers == "auto":
            from thestral.config.cpus import available  # not needed in most processes

            return available()
        return int(self.workers or 1)

    @property
    def needs_supervisor(self) -> bool:
        """Whether the options need worker processes, and a supervisor for them."""
        return bool(
            self.worker_count > 1
            # A single worker is supervised if the command was told so. A program that passes
            # workers=1 to run() gets one process, as with uvicorn: a worker would import its main
            # module again.
            or self.sources.get("workers", "default") != "default"
            or self.on_worker_start
            or self.on_worker_exit
            or self.limit_max_requests
            or self.limit_max_rss
            or self.limit_worker_lifetime
            or self.timeout_worker_blocked
            or self.preload
            or self.reload
            or self.admin is not None
        )

    @property
    def log_level_number(self) -> int | None:
        if isinstance(self.log_level, str):
            return LOG_LEVELS[self.log_level]
        return self.log_level

    def bind_socket(self) -> socket.socket:
        """Bind the one address that the options name, for Server.run(sockets=[...]).

        Raises:
            BindError: the address cannot be bound.
            ConfigError: the options name several addresses.
        """
        found = open_all(self)
        if len(found) > 1:
            close_all(found)
            reason = f"{self.host!r} resolves to {len(found)} addresses, expected one"
            raise ConfigError("host", reason)
        return found[0]


def workers_of_environment() -> int | str | None:
    """Read WEB_CONCURRENCY, which hosting platforms set to a number of processes; None if unset.

    Raises:
        ConfigError: it is neither an integer above 0 nor "auto".
    """
    given = os.environ.get("WEB_CONCURRENCY", "")
    if given in ("", "auto"):
        return given or None
    if not (given.isdecimal() and int(given) > 0):
        reason = f"WEB_CONCURRENCY is {given!r}, expected an integer above 0 or 'auto'"
        raise ConfigError("workers", reason)
    return int(given)


def options() -> Iterable[tuple[str, Option]]:
    """Yield the field name and the Option of each option, in the order of Config's fields."""
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
