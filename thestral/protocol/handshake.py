"""The opening handshake of a WebSocket (RFC 6455 section 4.2), and what it negotiates: subprotocols
and permessage-deflate (RFC 7692).
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from thestral.errors import RemoteProtocolError
from thestral.net.forwarded import TCHAR

if TYPE_CHECKING:
    from thestral._core.head import RequestHead
    from thestral.types import Headers

VERSION = b"13"
KEY_SIZE = 16  # bytes, before base64
KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
UPGRADE_REQUIRED = [
    (b"sec-websocket-version", VERSION),
    (b"upgrade", b"websocket"),
    (b"connection", b"upgrade"),
]

TOKEN = TCHAR.encode() + b"+"  # RFC 9110 section 5.6.2
# Empty elements of a list are ignored: RFC 9110 section 5.6.1.2.
SEPARATOR = re.compile(rb"[ \t]*(?:,[ \t]*)*")
NAME = re.compile(TOKEN)
# RFC 6455 section 9.1; a quoted value must be a token once it is unquoted.
PARAMETER = re.compile(
    rb"[ \t]*;[ \t]*(" + TOKEN + rb")(?:[ \t]*=[ \t]*(?:(" + TOKEN + rb')|"((?:[^"\\]|\\.)*)"))?'
)
ESCAPE = re.compile(rb"\\(.)", re.DOTALL)

LARGEST_WINDOW = 15  # bits
WINDOW_BITS = {str(bits).encode(): bits for bits in range(8, LARGEST_WINDOW + 1)}
# zlib makes no smaller window, and with this one never refers further back than 8 bits reach.
SMALLEST_WINDOW = 9

Parameters = list[tuple[bytes, bytes | None]]


class DeflateSettings(NamedTuple):
    """The server's limits for compression: Config's ws_deflate options."""

    server_window_bits: int
    client_window_bits: int
    context_takeover: bool
    level: int
    memory_level: int
    min_size: int


class Deflate(NamedTuple):
    """The negotiated parameters of permessage-deflate."""

    server_window_bits: int
    client_window_bits: int
    server_takeover: bool
    client_takeover: bool
    settings: DeflateSettings
    response: bytes  # value of Sec-WebSocket-Extensions


def accept_token(head: RequestHead) -> bytes:
    """Check a handshake, and return the value of Sec-WebSocket-Accept.

    Raises:
        RemoteProtocolError: the handshake is invalid: 400, or 426 for another version (section
            4.4).
    """
    if head.method != "GET":
        raise refused("the method is not GET")
    if not head.upgrade:
        raise refused("no HTTP/1.1 with 'Upgrade: websocket' and 'Connection: Upgrade'")
    if head.chunked or head.content_length:
        raise refused("it has a body")
    check_version(head)
    keys = values(head.headers, b"sec-websocket-key")
    if len(keys) != 1 or not is_key(keys[0]):
        raise refused("not one Sec-WebSocket-Key of 16 bytes in base64")
    import hashlib  # here, because only WebSockets need it

    digest = hashlib.sha1(keys[0] + KEY_SUFFIX, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def check_version(head: RequestHead) -> None:
    """Check Sec-WebSocket-Version, which a handshake over HTTP/2 has, too (RFC 8441 section 5).

    Raises:
        RemoteProtocolError: it is missing: 400, or another version: 426.
    """
    versions = values(head.headers, b"sec-websocket-version")
    if len(versions) != 1:
        raise refused("not one Sec-WebSocket-Version")
    if versions[0] != VERSION:
        raise RemoteProtocolError(
            426, "WebSocket version is not 13", versions[0], headers=UPGRADE_REQUIRED
        )


def is_key(value: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == KEY_SIZE
    except binascii.Error:
        return False


def offered_subprotocols(headers: Headers) -> list[str]:
    """Return the subprotocols that the client offers, in its order of preference.

    Raises:
        RemoteProtocolError: the field is not a list of tokens.
    """
    lines = values(headers, b"sec-websocket-protocol")
    if not lines:
        return []
    value = b",".join(lines)
    names = []
    position = skip(SEPARATOR, value, 0)
    while match := NAME.match(value, position):
        names.append(match[0].decode())
        position = next_element(value, match.end())
    if not names or position < len(value):
        raise refused("Sec-WebSocket-Protocol is not a list of tokens")
    return names


def agree_on_deflate(headers: Headers, settings: DeflateSettings) -> Deflate | None:
    """Return the answer to the first acceptable offer of permessage-deflate; None if there is none
    (RFC 7692 section 5).

    Raises:
        RemoteProtocolError: the field does not follow its grammar.
    """
    agreed = None
    for name, parameters in extensions(headers):
        if agreed is None and name == b"permessage-deflate":
            agreed = accepted(parameters, settings)
    return agreed


def extensions(headers: Headers) -> Iterator[tuple[bytes, Parameters]]:
    """Yield the extensions that the client offers (RFC 6455 section 9.1).

    Raises:
        RemoteProtocolError: the field does not follow its grammar.
    """
    lines = values(headers, b"sec-websocket-extensions")
    if not lines:
        return
    value = b",".join(lines)
    offers = 0
    position = skip(SEPARATOR, value, 0)
    while match := NAME.match(value, position):
        name = match[0]
        position = match.end()
        parameters: Parameters = []
        while match := PARAMETER.match(value, position):
            parameters.append((match[1], unquoted(match)))
            position = match.end()
        position = next_element(value, position)
        offers += 1
        yield name, parameters
    if not offers or position < len(value):
        raise refused("Sec-WebSocket-Extensions is not a list of extensions")


def unquoted(match: re.Match[bytes]) -> bytes | None:
    if match[3] is None:
        return match[2]
    value = ESCAPE.sub(rb"\1", match[3])
    if not NAME.fullmatch(value):
        raise refused("Sec-WebSocket-Extensions has a quoted value that is not a token")
    return value


def accepted(parameters: Parameters, settings: DeflateSettings) -> Deflate | None:
    """Answer one offer (RFC 7692 section 7.1), or decline it."""
    server_bits = settings.server_window_bits
    client_bits = settings.client_window_bits
    server_takeover = client_takeover = settings.context_takeover
    given = dict(parameters)
    if len(given) < len(parameters):
        return None
    for name, value in parameters:
        if name == b"server_no_context_takeover" and value is None:
            server_takeover = False
        elif name == b"client_no_context_takeover" and value is None:
            client_takeover = False
        elif name == b"server_max_window_bits" and value in WINDOW_BITS:
            server_bits = min(server_bits, WINDOW_BITS[value])
        elif name == b"client_max_window_bits" and (value is None or value in WINDOW_BITS):
            client_bits = min(client_bits, LARGEST_WINDOW if value is None else WINDOW_BITS[value])
        else:
            return None
    parts = [b"permessage-deflate"]
    if server_bits < LARGEST_WINDOW or b"server_max_window_bits" in given:
        parts.append(b"server_max_window_bits=%d" % server_bits)
    if b"client_max_window_bits" in given:
        parts.append(b"client_max_window_bits=%d" % client_bits)
    elif client_bits < LARGEST_WINDOW:
        # The client does not support a smaller window, so it is told not to keep its window.
        client_bits = LARGEST_WINDOW
        client_takeover = False
    if not server_takeover:
        parts.append(b"server_no_context_takeover")
    if not client_takeover:
        parts.append(b"client_no_context_takeover")
    return Deflate(
        max(server_bits, SMALLEST_WINDOW),
        max(client_bits, SMALLEST_WINDOW),
        server_takeover,
        client_takeover,
        settings,
        b"; ".join(parts),
    )


def refused(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(400, f"WebSocket handshake: {reason}")


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for given, value in headers if given == name]


def next_element(value: bytes, position: int) -> int:
    """Return the position of the next element of a list.

    Raises:
        RemoteProtocolError: no comma follows at `position`.
    """
    end = skip(SEPARATOR, value, position)
    if end < len(value) and b"," not in value[position:end]:
        raise refused("a field is not a list")
    return end


def skip(pattern: re.Pattern[bytes], value: bytes, position: int) -> int:
    match = pattern.match(value, position)
    assert match is not None  # the pattern also matches an empty string
    return match.end()
