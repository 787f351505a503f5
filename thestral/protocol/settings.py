"""The options for connections, requests and responses, resolved once for a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from thestral.logging.format import needs_ids
from thestral.net.forwarded import Forwarding, TrustedPeers
from thestral.protocol.handshake import DeflateSettings
from thestral.protocol.trace import Tracer

if TYPE_CHECKING:
    from thestral.config import Config

# In this version of ASGI's HTTP format, send() does not report that the client is gone. From 2.4 on
# it raises an OSError at once.
LENIENT_SPEC_VERSION = "2.3"
# Extensions that are enabled by an option of the same name.
FILE_EXTENSIONS = ("pathsend", "zerocopysend")


class ParserLimits(NamedTuple):
    """Arguments of RequestParser: numbers of bytes, and of fields."""

    request_line: int
    head: int
    fields: int
    body: int


class HTTP2Settings(NamedTuple):
    """A number of streams, and of bytes."""

    max_streams: int
    connection_window: int


class WebSocketSettings(NamedTuple):
    """Sizes in bytes; max_queue is a number of messages."""

    max_size: int
    max_queue: int
    max_queue_size: int
    deflate: DeflateSettings | None


class Settings:
    """Resolved options. Read-only.

    Args:
        config: resolved options.

    Attributes:
        limits: limits of a request.
        limit_concurrency: most requests that run at once; 0 for no limit.
        limit_connections: most connections that are open at once; 0 for no limit.
        root_path: prefix of each path, without a slash at its end.
        proxy_protocol: whether connections of trusted peers begin with a PROXY head.
        trusted: peers whose PROXY heads and forwarded fields are believed.
        forwarding: reads the forwarded fields; None if they are ignored.
        websocket: None if WebSockets are not served.
        spec_version: version of ASGI's HTTP format.
        raises_when_gone: whether send() raises as soon as the client is gone.
        offered: names of the file extensions that scopes offer.
        send_date: whether responses get a Date field.
        server_head: the line of the Server field, or b"".
        extra_head: the lines of the fields of --header.
        own_fields: the same as (name, value) with lower-case names, the Server field first.
        http2: None if HTTP/2 is not served.
        tracer: makes requests' ids and times; None if no option needs them.
    """

    def __init__(self, config: Config) -> None:
        self.limits = ParserLimits(
            config.limit_request_line,
            config.limit_header_size,
            config.limit_header_count,
            config.limit_request_body or 0,
        )
        self.limit_concurrency = config.limit_concurrency or 0
        self.limit_connections = config.limit_connections or 0
        self.root_path = config.root_path.rstrip("/")
        self.proxy_protocol = config.proxy_protocol
        self.trusted = TrustedPeers(config.trusted_proxies)
        self.forwarding: Forwarding | None = None
        if config.proxy_headers:
            self.forwarding = Forwarding(self.trusted, config.proxy_fields)
        self.websocket = websocket_settings(config) if config.ws != "none" else None
        self.http2: HTTP2Settings | None = None
        if config.http2:
            self.http2 = HTTP2Settings(config.http2_max_streams, config.http2_connection_window)
        self.spec_version = config.asgi_spec_version
        self.raises_when_gone = config.asgi_spec_version != LENIENT_SPEC_VERSION
        files = [name for name in FILE_EXTENSIONS if getattr(config, name)]
        self.offered = frozenset(f"http.response.{name}" for name in files)
        # A field of --header replaces the server's own: each may be sent only once.
        given = {name.lower() for name, _ in config.encoded_headers}
        self.send_date = config.date_header and b"date" not in given
        send_server = config.server_header and b"server" not in given
        self.server_head = b"server: thestral\r\n" if send_server else b""
        server = [(b"server", b"thestral")] if send_server else []
        self.tracer = tracer_of(config, b"x-request-id" not in given)
        self.own_fields = [*server, *[(n.lower(), v) for n, v in config.encoded_headers]]
        self.extra_head = b"".join(
            name + b": " + value + b"\r\n" for name, value in config.encoded_headers
        )


def tracer_of(config: Config, sends_ids: bool) -> Tracer | None:
    is_json = config.log_format == "json"
    if not (
        config.request_id
        or config.server_timing
        or config.access_log_slow
        or is_json
        or needs_ids(config.access_log_format)
    ):
        return None
    marks = config.request_id or is_json
    return Tracer(config.request_id, sends_ids, marks, config.server_timing)


def websocket_settings(config: Config) -> WebSocketSettings:
    deflate = DeflateSettings(
        config.ws_deflate_server_window_bits,
        config.ws_deflate_client_window_bits,
        config.ws_deflate_context_takeover,
        config.ws_deflate_level,
        config.ws_deflate_memory_level,
        config.ws_deflate_min_size,
    )
    return WebSocketSettings(
        config.ws_max_size,
        config.ws_max_queue,
        config.ws_max_queue_size,
        deflate if config.ws_per_message_deflate else None,
    )
