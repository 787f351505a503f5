"""What proxies say of a request's client, and whom to believe: X-Forwarded-*, and Forwarded
(RFC 7239).

A proxy appends to what it was sent, so these fields are read from right to left: an entry is as
good as the hop that wrote it. The first hop that is not trusted is the client.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from thestral._csrc import lib
from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger

# A peer's or listener's host and port, as in a scope.
Address = tuple[str, int | None]

TRUSTED_BY_DEFAULT = "127.0.0.1,::1,unix"
FOR = b"x-forwarded-for"
PROTO = b"x-forwarded-proto"
HOST = b"x-forwarded-host"
PORT = b"x-forwarded-port"
PREFIX = b"x-forwarded-prefix"
FORWARDED = b"forwarded"
FIELDS = (FOR, PROTO, HOST, PORT, PREFIX, FORWARDED)
# A WebSocket's scheme follows from these.
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
DEFAULT_PORTS = {"http": "80", "https": "443"}
# Of a longer list only its end is read: what stands before it the client may have made up.
MAX_HOPS = 100
ADDRESSES_KEPT = 4096
LONGEST_NODE = 64  # bytes: what is kept is bounded, too

CHARACTER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # of a token
# Possessive throughout, so that no value takes more than linear time.
PAIR = re.compile(
    rf'[ \t]*+(?:({CHARACTER}++)=(?:({CHARACTER}++)|"((?:[^"\\]|\\.)*+)"))?+[ \t]*+(;|,|$)'
)
# What `root_path` may be, and no other host ("//"), and nothing that would be decoded or resolved.
PREFIX_TEXT = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[!$&'()*+,.:;=@~\w-]+)+", re.ASCII)


class Proxied(NamedTuple):
    """What the PROXY head of a trusted peer says of the connection that it passes on.

    Attributes:
        client, server: its ends.
        secure: whether the client has connected to the proxy over TLS.
        tls: ASGI's tls extension of that, if the head says enough.
    """

    client: tuple[str, int] | None
    server: Address | None
    secure: bool
    tls: dict[str, Any] | None


class TrustedPeers:
    """Addresses whose word is taken.

    Args:
        texts: IP addresses, networks ("10.0.0.0/8"), "*" for everybody, "unix" for every Unix
            socket, or the path of one that the server listens on.

    Raises:
        ConfigError: a text is none of these.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.everybody = False
        self._unix = False
        self._paths: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for text in texts:
            if text == "*":
                self.everybody = True
            elif text == "unix":
                self._unix = True
            elif text.startswith("/"):
                self._paths.add(text)
            else:
                try:
                    self._networks.append(ipaddress.ip_network(text))
                except ValueError as exc:
                    raise ConfigError(
                        "forwarded_allow_ips",
                        f"{exc}; expected addresses, networks, '*', 'unix' or a socket's path",
                    ) from None
        # Peers are few, and each hop of each request asks.
        self.trusts: Callable[[str], bool] = lru_cache(ADDRESSES_KEPT)(self._trusts)

    def _trusts(self, host: str) -> bool:
        """Whether an IP address is trusted."""
        if self.everybody:
            return True
        address = plain_address(host)
        return address is not None and any(address in network for network in self._networks)

    def trusts_peer(self, client: Address | None, server: Address | None) -> bool:
        """Whether the peer of a connection is; on a Unix socket it has no address of its own."""
        if client is not None:
            return self.trusts(client[0])
        if self.everybody or self._unix:
            return True
        return server is not None and os.path.abspath(server[0]) in self._paths


def checked_fields(names: Iterable[str]) -> list[bytes]:
    """Names of fields to read, as lower-case bytes.

    A proxy sets one family of fields and hands the other on as the client has sent it, so only one
    may be read.

    Raises:
        ConfigError: not fields of proxies, or of both families.
    """
    fields = [name.lower().encode() for name in names]
    for field in fields:
        if field not in FIELDS:
            expected = ", ".join(known.decode() for known in FIELDS)
            reason = f"{field.decode()!r} given, expected some of {expected}"
            raise ConfigError("forwarded_fields", reason)
    if FORWARDED in fields and not {FOR, PROTO, HOST, PORT}.isdisjoint(fields):
        raise ConfigError(
            "forwarded_fields",
            "forwarded and x-forwarded-* cannot be combined: a proxy sets one of them, and clients"
            " can forge the other",
        )
    return fields


class Claims(NamedTuple):
    """What the hops that are trusted say, as texts; None for nothing."""

    client: tuple[str, int] | None
    proto: str | None
    host: str | None


class Forwarding:
    """Reads the fields of proxies into scopes.

    Args:
        trusted: whose fields are read.
        fields: names of the fields that are read, in lower case.
    """

    def __init__(self, trusted: TrustedPeers, fields: Iterable[bytes]) -> None:
        self._trusted = trusted
        self._fields = frozenset(fields)
        self._warned = False

    def apply(
        self,
        scope: dict[str, Any],
        client: Address | None,
        server: Address | None,
        proxied: bool = False,
    ) -> None:
        """Set a scope's client, scheme, Host field and root_path as proxies say.

        Args:
            scope: of a request, before its root_path is put in front of its path.
            client, server: the ends of its connection.
            proxied: whether a PROXY head names these: the peer itself is trusted then, and the
                client is its word for the nearest hop.
        """
        found: dict[bytes, str] = {}
        for name, value in scope["headers"]:
            if name in self._fields:
                text = value.decode("latin-1")
                found[name] = f"{found[name]},{text}" if name in found else text
        if not found:
            return
        trusted = self._trusted.trusts_peer(client, server)
        if not (trusted or proxied):
            self._warn(next(iter(found)), client)
            return
        entries = {name: elements(text) for name, text in found.items() if name != FORWARDED}
        if FORWARDED in found:
            claims = self._read_forwarded(found[FORWARDED], trusted)
            hops, index = 0, 0
        else:
            hops = len(entries.get(FOR, ()))
            index, address = self._walk(entries.get(FOR, []), trusted)
            claims = Claims(
                address, pick(entries, PROTO, index, hops), pick(entries, HOST, index, hops)
            )
        if claims.client is not None:
            scope["client"] = claims.client
        scheme = SCHEMES.get((claims.proto or "").lower())
        if scheme is not None:
            scope["scheme"] = scheme
        if claims.host is not None and is_host(claims.host):
            set_host(scope["headers"], claims.host)
        port = pick(entries, PORT, index, hops)
        if port is not None and re.fullmatch(r"[1-9][0-9]{0,4}", port) and int(port) <= 65535:
            set_port(scope["headers"], port, scope["scheme"])
        prefix = pick(entries, PREFIX, index, hops)
        if prefix is not None and PREFIX_TEXT.fullmatch(prefix.rstrip("/")):
            scope["root_path"] = prefix.rstrip("/")

    def _warn(self, name: bytes, client: Address | None) -> None:
        """Say once that somebody is not believed: a proxy that was forgotten, or a liar."""
        if not self._warned:
            self._warned = True
            error_logger.warning(
                "%s from %s is not read: forwarded_allow_ips does not name it. This is said once.",
                name.decode().title(),
                client[0] if client else "a Unix socket",
            )

    def _walk(self, nodes: list[str], trusted: bool) -> tuple[int, tuple[str, int] | None]:
        """Go from hop to hop, from the right, as far as each is trusted.

        Args:
            nodes: what the hops say whom they serve.
            trusted: whether the client of the connection is a hop whose word counts. One that a
                PROXY head names may have written all of `nodes` itself.

        Returns:
            Index of the entry that names the client, and its host and port; the number of entries,
            and None, if the last one is no address already.
        """
        index, client = len(nodes), None
        if not trusted:
            return index, client
        for position in range(len(nodes) - 1, max(-1, len(nodes) - 1 - MAX_HOPS), -1):
            node = read_node(nodes[position])
            if node is None:
                break  # "unknown", or nonsense: whom the hop before spoke with stays unknown
            index, client = position, node
            if not self._trusted.trusts(node[0]):
                break
        return index, client

    def _read_forwarded(self, text: str, trusted: bool) -> Claims:
        """What the hop that names the client says (RFC 7239 section 5)."""
        hops = read_forwarded(text)
        if not hops:
            return Claims(None, None, None)
        index, client = self._walk([hop.get("for", "") for hop in hops], trusted)
        hop = hops[min(index, len(hops) - 1)]
        return Claims(client, hop.get("proto"), hop.get("host"))


def elements(text: str) -> list[str]:
    """Entries of a comma-separated list; empty ones are none (RFC 9110 section 5.6.1)."""
    return [entry for part in text.split(",") if (entry := part.strip(" \t"))]


def pick(entries: dict[bytes, list[str]], name: bytes, index: int, hops: int) -> str | None:
    """The entry of a field that belongs to the hop `index` of `hops`.

    Where not every hop has written one, it is the last: that one our own peer has seen or made.
    """
    values = entries.get(name)
    if not values:
        return None
    return values[index] if len(values) == hops and index < hops else values[-1]


def read_forwarded(text: str) -> list[dict[str, str]]:
    """Elements of a Forwarded field, parameters by lower-case name (RFC 7239 section 4).

    All of the field's lines, joined by commas. Empty if anything in it is malformed: where one
    element ends and the next begins is not sure then.
    """
    found: list[dict[str, str]] = []
    element: dict[str, str] = {}
    position = 0
    while True:
        match = PAIR.match(text, position)
        if match is None:
            return []
        name, token, quoted, end = match.groups()
        if name is not None:
            name = name.lower()
            if name in element:
                return []  # "MUST NOT occur more than once"
            element[name] = token if token is not None else re.sub(r"\\(.)", r"\1", quoted)
        if end != ";" and element:
            found.append(element)
            element = {}
        position = match.end()
        if end == "" or (position == len(text) and end == ","):
            return found


def read_node(text: str) -> tuple[str, int] | None:
    """Host and port (0 if unknown) of "192.0.2.1", "192.0.2.1:80", "::1" or "[::1]:80"; else None
    (RFC 7239 section 6).
    """
    return _read_node(text) if len(text) <= LONGEST_NODE else None


@lru_cache(ADDRESSES_KEPT)
def _read_node(text: str) -> tuple[str, int] | None:
    port = ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host = text
    address = plain_address(host)
    if address is None:
        return None
    known = re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535
    return str(address), int(port) if known else 0


def plain_address(text: str | bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address from text, or from its 4 or 16 bytes, without its zone; IPv4 also where a
    dual-stack socket dresses it as IPv6.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0] if isinstance(text, str) else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_host(text: str) -> bool:
    data = text.encode("latin-1")
    return bool(lib.th_is_host(data, len(data)))


def set_host(headers: list[tuple[bytes, bytes]], host: str) -> None:
    """Give the Host field another value."""
    for position, (name, _) in enumerate(headers):
        if name == b"host":
            headers[position] = (name, host.encode("latin-1"))
            return
    headers.insert(0, (b"host", host.encode("latin-1")))


def set_port(headers: list[tuple[bytes, bytes]], port: str, scheme: str) -> None:
    """Give the Host field another port, or none if it is the scheme's own."""
    for name, value in headers:
        if name == b"host":
            host = re.sub(r":[0-9]*$", "", value.decode("latin-1"))
            set_host(headers, host if DEFAULT_PORTS[scheme] == port else f"{host}:{port}")
            return
