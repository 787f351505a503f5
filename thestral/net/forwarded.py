"""A request's client as reported by trusted proxies: X-Forwarded-* and Forwarded (RFC 7239).

Each proxy appends its entry to the field it received, so these fields are read from right to left:
an entry is as trustworthy as the hop that wrote it. The first untrusted hop is the client.
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

# Host and port of the client or the server, as in a scope.
Address = tuple[str, int | None]

TRUSTED_BY_DEFAULT = "127.0.0.1,::1,unix"
FOR = b"x-forwarded-for"
PROTO = b"x-forwarded-proto"
HOST = b"x-forwarded-host"
PORT = b"x-forwarded-port"
PREFIX = b"x-forwarded-prefix"
FORWARDED = b"forwarded"
FIELDS = (FOR, PROTO, HOST, PORT, PREFIX, FORWARDED)
# X-Forwarded-Proto to a request's scheme; a WebSocket's scheme is derived from that.
SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
DEFAULT_PORTS = {"http": "80", "https": "443"}
# Entries read of each field, from its end: the client may have made up any number before them.
MAX_HOPS = 100
ADDRESSES_KEPT = 4096
LONGEST_NODE = 64  # bytes; bounds the memory of the cache

# A character of a token, as csrc/ascii.c has it: RFC 9110 section 5.6.2.
TCHARS = bytes(code for code in range(128) if lib.th_is_token(bytes([code]), 1))
TCHAR = f"[{re.escape(TCHARS.decode())}]"
# Possessive throughout, so that no value takes more than linear time.
PAIR = re.compile(rf'[ \t]*+(?:({TCHAR}++)=(?:({TCHAR}++)|"((?:[^"\\]|\\.)*+)"))?+[ \t]*+(;|,|$)')
# A valid `root_path`: no other host ("//"), no percent-escapes, no "." or ".." segments.
PREFIX_TEXT = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[!$&'()*+,.:;=@~\w-]+)+", re.ASCII)


class Proxied(NamedTuple):
    """What a trusted peer's PROXY head says about the connection that it forwards.

    Attributes:
        client, server: addresses of the forwarded connection's two ends.
        secure: whether the client connected to the proxy over TLS; None if the head does not say.
        tls: ASGI's tls extension for that TLS connection, if the head has enough for one.
    """

    client: tuple[str, int] | None
    server: Address | None
    secure: bool | None
    tls: dict[str, Any] | None


class TrustedPeers:
    """The proxies that the server trusts (--forwarded-allow-ips).

    Args:
        texts: IP addresses, networks ("10.0.0.0/8"), "*" for all peers, "unix" for all Unix
            sockets, or the path of a Unix socket that the server listens on.

    Raises:
        ConfigError: an entry is none of these.
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
        # Cached: each hop of each request asks, and proxies are few.
        self.trusts: Callable[[str], bool] = lru_cache(ADDRESSES_KEPT)(self._trusts)

    def _trusts(self, host: str) -> bool:
        """Whether an IP address is trusted."""
        if self.everybody:
            return True
        address = plain_address(host)
        return address is not None and any(address in network for network in self._networks)

    def trusts_peer(self, client: Address | None, server: Address | None) -> bool:
        """Whether a connection's peer is trusted. Over a Unix socket it has no address."""
        if client is not None:
            return self.trusts(client[0])
        if self.everybody or self._unix:
            return True
        return server is not None and os.path.abspath(server[0]) in self._paths


def checked_fields(names: Iterable[str]) -> list[bytes]:
    """Return the names of the fields to read, as lower-case bytes.

    A proxy sets either Forwarded or X-Forwarded-*, and passes on the other as the client sent it,
    so only one of the two may be read.

    Raises:
        ConfigError: an unknown field, or fields of both kinds.
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
    """What the trusted hops say, unchecked; None for what they do not say."""

    client: tuple[str, int] | None
    proto: str | None
    host: str | None


class Forwarding:
    """Applies the fields that proxies set to scopes.

    Args:
        trusted: peers whose fields are read.
        fields: names of the fields to read, in lower case.
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
        """Set a scope's client, scheme, Host field and root_path from the fields of proxies.

        Args:
            scope: of a request, before root_path is put in front of its path.
            client, server: addresses of the connection's ends.
            proxied: whether these come from a PROXY head. Then the peer itself is trusted, and
                `client` is the nearest hop that it reports.
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
        """Warn once about an untrusted peer: a proxy missing from the option, or a forger."""
        if not self._warned:
            self._warned = True
            error_logger.warning(
                "Ignoring %s from %s, which is not in forwarded_allow_ips. This is logged once.",
                name.decode().title(),
                client[0] if client else "a Unix socket",
            )

    def _walk(self, nodes: list[str], trusted: bool) -> tuple[int, tuple[str, int] | None]:
        """Go through the hops from the right for as long as they are trusted.

        Args:
            nodes: the client of each hop, as the hop reports it.
            trusted: whether the connection's client is a trusted hop. An untrusted one, as a PROXY
                head may report, could have written all of `nodes` itself.

        Returns:
            Index of the entry that names the client, and the client's host and port. The number of
            entries, and None, if the connection's client is not trusted or the last entry is not an
            address.
        """
        index, client = len(nodes), None
        if not trusted:
            return index, client
        for position in range(len(nodes) - 1, max(-1, len(nodes) - 1 - MAX_HOPS), -1):
            node = read_node(nodes[position])
            if node is None:
                break  # "unknown" or invalid: the client of this hop is not known
            index, client = position, node
            if not self._trusted.trusts(node[0]):
                break
        return index, client

    def _read_forwarded(self, text: str, trusted: bool) -> Claims:
        """Return the claims of the hop that names the client (RFC 7239 section 5)."""
        hops = read_forwarded(text)
        if not hops:
            return Claims(None, None, None)
        index, client = self._walk([hop.get("for", "") for hop in hops], trusted)
        hop = hops[min(index, len(hops) - 1)]
        return Claims(client, hop.get("proto"), hop.get("host"))


def elements(text: str) -> list[str]:
    """Split a comma-separated list, ignoring empty entries (RFC 9110 section 5.6.1)."""
    return [entry for part in text.split(",") if (entry := part.strip(" \t"))]


def pick(entries: dict[bytes, list[str]], name: bytes, index: int, hops: int) -> str | None:
    """Return the entry that hop `index` of `hops` wrote in a field.

    If the field does not have one entry for each hop, return the last: our peer wrote it, or passed
    it on.
    """
    values = entries.get(name)
    if not values:
        return None
    return values[index] if len(values) == hops and index < hops else values[-1]


def read_forwarded(text: str) -> list[dict[str, str]]:
    """Return the elements of a Forwarded field: parameters by lower-case name (RFC 7239 section 4).

    `text` is all of the field's lines, joined by commas. If any part is malformed the result is
    empty, because the elements can no longer be told apart.
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
    """Return host and port (0 if unknown) from "192.0.2.1", "192.0.2.1:80", "::1" or "[::1]:80";
    None for anything else (RFC 7239 section 6).
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
    """Return an IP address, without its zone, from text or from 4 or 16 bytes; None if invalid. An
    IPv4-mapped IPv6 address, as a dual-stack socket reports it, becomes IPv4.
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
    """Replace or add the Host field."""
    for position, (name, _) in enumerate(headers):
        if name == b"host":
            headers[position] = (name, host.encode("latin-1"))
            return
    headers.insert(0, (b"host", host.encode("latin-1")))


def set_port(headers: list[tuple[bytes, bytes]], port: str, scheme: str) -> None:
    """Replace the port in the Host field; the scheme's default port is left out."""
    for name, value in headers:
        if name == b"host":
            host = re.sub(r":[0-9]*$", "", value.decode("latin-1"))
            set_host(headers, host if DEFAULT_PORTS[scheme] == port else f"{host}:{port}")
            return
