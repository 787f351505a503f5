"""Which client, scheme and host a proxy's fields give. tests/protocol/test_proxies.py has the same
over sockets.
"""

import logging
import random

import pytest

from thestral import Config
from thestral.errors import ConfigError
from thestral.net.forwarded import (
    FIELDS,
    MAX_HOPS,
    Forwarding,
    TrustedPeers,
    read_forwarded,
    read_node,
)

PEER = ("127.0.0.1", 50000)
SERVER = ("127.0.0.1", 8000)
X_FIELDS = FIELDS[:-1]


def applied(trusted: str, *headers: tuple[str, str], fields=X_FIELDS, client=PEER, server=SERVER):
    """Return a scope after the proxies' fields, given beside Host, have been applied."""
    scope = {
        "client": client,
        "scheme": "http",
        "root_path": "",
        "headers": [(b"host", b"inner:8000")]
        + [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    Forwarding(TrustedPeers(trusted.split(",")), fields).apply(scope, client, server)
    return scope


def client_of(trusted: str, *lines: str, **options) -> tuple[str, int] | None:
    headers = [("x-forwarded-for", line) for line in lines]
    return applied(trusted, *headers, **options)["client"]


# --- Trusted peers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),  # a dual-stack socket shows IPv4 peers so
        ("127.0.0.1", "0:0:0:0:0:ffff:7f00:1", True),
        ("127.0.0.1", "nonsense", False),
        ("127.0.0.1", "", False),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("0.0.0.0/0", "1.2.3.4", True),
        ("0.0.0.0/0", "::1", False),
        ("::/0", "1.2.3.4", False),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("2001:db8::/32", "2001:DB8::5", True),
        ("2001:db8::/32", "2001:db9::5", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("*", "1.2.3.4", True),
        ("unix", "127.0.0.1", False),
        ("/run/a.sock", "127.0.0.1", False),
    ],
)
def test_trusted_address(trusted, host, expected):
    assert TrustedPeers([trusted]).trusts_peer((host, 1), SERVER) is expected


@pytest.mark.parametrize(
    ("trusted", "path", "expected"),
    [
        ("unix", "/run/a.sock", True),
        ("unix", "", True),
        ("/run/a.sock", "/run/a.sock", True),
        ("/run/a.sock", "/run/b.sock", False),
        ("/run/a.sock", "/run/../run/a.sock", True),
        ("127.0.0.1", "/run/a.sock", False),
        ("*", "/run/a.sock", True),
    ],
)
def test_trusted_unix_socket(trusted, path, expected):
    assert TrustedPeers([trusted]).trusts_peer(None, (path, None)) is expected


def test_a_peer_without_an_address_is_not_trusted():
    assert not TrustedPeers(["127.0.0.1", "/run/a"]).trusts_peer(None, None)


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "1.2.3", "a.sock"])
def test_invalid_address_of_a_trusted_peer_is_refused(text):
    with pytest.raises(ConfigError, match="expected addresses, networks") as caught:
        Config("a:b", forwarded_allow_ips=f"127.0.0.1,{text}")
    assert caught.value.option == "forwarded_allow_ips"
    assert text.partition("/")[0] in str(caught.value)


def test_the_default_and_the_environment(monkeypatch):
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    assert Config("a:b").trusted_proxies == ["127.0.0.1", "::1", "unix"]
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8, 192.0.2.1 ,")
    assert Config("a:b").trusted_proxies == ["10.0.0.0/8", "192.0.2.1"]
    assert Config("a:b", forwarded_allow_ips="*").trusted_proxies == ["*"]
    assert Config("a:b", forwarded_allow_ips="").trusted_proxies == []
    assert Config("a:b", forwarded_allow_ips=["::1", "unix"]).trusted_proxies == ["::1", "unix"]
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "localhost")
    with pytest.raises(ConfigError, match="localhost"):
        Config("a:b")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("X-Forwarded-For, x-forwarded-prefix", [b"x-forwarded-for", b"x-forwarded-prefix"]),
        (["forwarded", "x-forwarded-prefix"], [b"forwarded", b"x-forwarded-prefix"]),
        ("", []),
        ("x-real-ip", "x-real-ip"),
        ("forwarded,x-forwarded-for", "a proxy sets one of them"),
        ("forwarded,x-forwarded-port", "a proxy sets one of them"),
        ([1], "expected strings"),
    ],
)
def test_forwarded_fields(fields, expected):
    if isinstance(expected, list):
        assert Config("a:b", forwarded_fields=fields).proxy_fields == expected
        return
    with pytest.raises(ConfigError, match=expected) as caught:
        Config("a:b", forwarded_fields=fields)
    assert caught.value.option == "forwarded_fields"


# --- X-Forwarded-For ------------------------------------------------------------------------------

HOPS = "127.0.0.1,10.0.0.0/8"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1.2.3.4"], ("1.2.3.4", 0)),
        (["1.2.3.4:5678"], ("1.2.3.4", 5678)),
        (["1.2.3.4:65536"], ("1.2.3.4", 0)),
        (["1.2.3.4:_port"], ("1.2.3.4", 0)),
        (["2001:DB8::1"], ("2001:db8::1", 0)),
        (["[2001:db8::1]"], ("2001:db8::1", 0)),
        (["[2001:db8::1]:99"], ("2001:db8::1", 99)),
        (["::ffff:1.2.3.4"], ("1.2.3.4", 0)),
        (
            ["6.6.6.6, 1.2.3.4"],
            ("1.2.3.4", 0),
        ),  # addresses that the client invented stand further left
        (["6.6.6.6, 1.2.3.4, 10.0.0.1"], ("1.2.3.4", 0)),
        (["6.6.6.6", "1.2.3.4", "10.0.0.1, 10.0.0.2"], ("1.2.3.4", 0)),
        (
            ["10.0.0.9, 10.0.0.1"],
            ("10.0.0.9", 0),
        ),  # all are trusted proxies: the first is the client
        (["1.2.3.4,,\t10.0.0.1 ,"], ("1.2.3.4", 0)),
        (["unknown"], PEER),
        (["1.2.3.4, unknown"], PEER),
        (["1.2.3.4, unknown, 10.0.0.1"], ("10.0.0.1", 0)),
        ([""], PEER),
        ([", ,"], PEER),
        (["localhost"], PEER),
        (["1.2.3.4\xff"], PEER),
        (["[::1"], PEER),
        (["[::1]x"], PEER),
        (["01.2.3.4"], PEER),
        (["[2001:db8::1]" + ":" * 51], ("2001:db8::1", 0)),
        (["[2001:db8::1]" + ":" * 52], PEER),  # longer than any address
    ],
)
def test_client(lines, expected):
    assert client_of(HOPS, *lines) == expected


def test_fields_of_an_untrusted_peer_are_ignored():
    for header in X_FIELDS:
        for value in ("1.2.3.4", "https", "/x", "443"):
            before = applied(HOPS, client=("6.6.6.6", 1))
            after = applied(HOPS, (header.decode(), value), client=("6.6.6.6", 1))
            after["headers"].pop()
            assert after == before


def test_fields_of_every_peer_are_applied_if_all_are_trusted():
    assert client_of("*", "6.6.6.6, 1.2.3.4") == ("6.6.6.6", 0)
    assert client_of("*", "6.6.6.6", client=None) == ("6.6.6.6", 0)


def test_a_unix_socket_has_no_client_of_its_own():
    place = {"client": None, "server": ("/run/a.sock", None)}
    assert client_of("unix", "1.2.3.4", **place) == ("1.2.3.4", 0)
    assert client_of("unix", "unknown", **place) is None
    assert client_of("127.0.0.1", "1.2.3.4", **place) is None


def test_number_of_trusted_hops_limits_how_far_the_list_is_read():
    inner = ["10.0.0.1"] * (MAX_HOPS - 1)
    assert client_of(HOPS, ",".join(["1.2.3.4", *inner])) == ("1.2.3.4", 0)
    assert client_of(HOPS, ",".join(["1.2.3.4", "10.0.0.2", *inner])) == ("10.0.0.2", 0)


# --- The other fields -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https", "https"),
        ("http", "http"),
        ("HTTPS", "https"),
        ("wss", "https"),
        ("ws", "http"),
        (" https ", "https"),
        ("https,http", "http"),  # the last value is about our peer's connection
        ("ftp", "http"),
        ("", "http"),
        ("\xe9", "http"),
    ],
)
def test_scheme(value, expected):
    assert applied(HOPS, ("x-forwarded-proto", value))["scheme"] == expected


@pytest.mark.parametrize(
    ("clients", "protos", "expected"),
    [
        ("1.2.3.4, 10.0.0.1", "https, http", "https"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.1", "http, https, http", "https"),
        ("6.6.6.6, 1.2.3.4", "https, http", "http"),
        ("1.2.3.4, 10.0.0.1", "https", "https"),
        ("6.6.6.6, 1.2.3.4, 10.0.0.1", "https, http", "http"),
        ("unknown, unknown", "https, http", "http"),
    ],
)
def test_the_scheme_is_that_of_the_clients_hop(clients, protos, expected):
    headers = ("x-forwarded-for", clients), ("x-forwarded-proto", protos)
    assert applied(HOPS, *headers)["scheme"] == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "example.org"}, b"example.org"),
        ({"host": "example.org:81"}, b"example.org:81"),
        ({"host": "[::1]:81"}, b"[::1]:81"),
        ({"host": "a b"}, b"inner:8000"),
        ({"host": "a/b"}, b"inner:8000"),
        ({"host": "user@a"}, b"inner:8000"),
        ({"host": "a\xe9"}, b"inner:8000"),
        ({"host": ""}, b"inner:8000"),
        ({"port": "8443"}, b"inner:8443"),
        ({"port": "80"}, b"inner"),
        ({"port": "443"}, b"inner:443"),
        ({"port": "443", "proto": "https"}, b"inner"),
        ({"port": "0"}, b"inner:8000"),
        ({"port": "65536"}, b"inner:8000"),
        ({"port": "080"}, b"inner:8000"),
        ({"port": "8\xb2"}, b"inner:8000"),
        ({"host": "example.org:81", "port": "82"}, b"example.org:82"),
        ({"host": "[::1]", "port": "82"}, b"[::1]:82"),
    ],
)
def test_host(headers, expected):
    fields = [(f"x-forwarded-{name}", value) for name, value in headers.items()]
    assert applied(HOPS, *fields)["headers"][0] == (b"host", expected)


def test_a_host_where_there_was_none():
    scope = {"client": PEER, "scheme": "http", "root_path": "", "headers": []}
    scope["headers"] += [(b"x-forwarded-host", b"a"), (b"x-forwarded-port", b"81")]
    Forwarding(TrustedPeers(["*"]), X_FIELDS).apply(scope, PEER, SERVER)
    assert scope["headers"][0] == (b"host", b"a:81")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/api", "/api"),
        ("/api/", "/api"),
        ("/api/v1.0/~x@y", "/api/v1.0/~x@y"),
        ("/..x/.y", "/..x/.y"),
        ("/", ""),
        ("api", ""),
        ("//evil.example", ""),
        ("/a//b", ""),
        ("/a/..", ""),
        ("/a/./b", ""),
        ("/a%2fb", ""),
        ("/a?b", ""),
        ("/a#b", ""),
        ("/a\\b", ""),
        ("/a b", ""),
        ("/\xe9", ""),
    ],
)
def test_prefix(value, expected):
    assert applied(HOPS, ("x-forwarded-prefix", value))["root_path"] == expected


def test_only_the_fields_that_are_named_are_read():
    given = {
        "x-forwarded-for": ("1.2.3.4", "client", ("1.2.3.4", 0)),
        "x-forwarded-proto": ("https", "scheme", "https"),
        "x-forwarded-prefix": ("/api", "root_path", "/api"),
        "forwarded": ("for=1.2.3.4", "client", ("1.2.3.4", 0)),
    }
    for name, (value, key, expected) in given.items():
        others = [field for field in FIELDS if field != name.encode()]
        assert applied(HOPS, (name, value), fields=others)[key] != expected
        assert applied(HOPS, (name, value), fields=[name.encode()])[key] == expected


# --- Forwarded, RFC 7239 --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("for=192.0.2.43", [{"for": "192.0.2.43"}]),
        ('For="[2001:db8:cafe::17]:4711"', [{"for": "[2001:db8:cafe::17]:4711"}]),
        (
            "for=192.0.2.60;proto=http;by=203.0.113.43",
            [{"for": "192.0.2.60", "proto": "http", "by": "203.0.113.43"}],
        ),
        ("for=1.1.1.1, for=2.2.2.2", [{"for": "1.1.1.1"}, {"for": "2.2.2.2"}]),
        (
            "for=_hidden, for=unknown,host=a",
            [{"for": "_hidden"}, {"for": "unknown"}, {"host": "a"}],
        ),
        ('for="a,b;c=\\"d\\\\"', [{"for": 'a,b;c="d\\'}]),
        ("for=1.1.1.1;", [{"for": "1.1.1.1"}]),
        ("for=1.1.1.1 ; proto=https", [{"for": "1.1.1.1", "proto": "https"}]),
        (",for=1.1.1.1,,", [{"for": "1.1.1.1"}]),
        ("", []),
        # If any part is malformed, the whole field is ignored.
        ("for=1.1.1.1, for", []),
        ("for=1.1.1.1, for =2.2.2.2", []),
        ("for=1.1.1.1;for=2.2.2.2", []),
        ('for="1.1.1.1', []),
        ('for="1.1.1.1"x', []),
        ("for=[::1]", []),  # a colon and brackets need quotes
        ("for=1.1.1.1:80", []),
        ("for=a b", []),
        ("=a", []),
        ("for=", []),
    ],
)
def test_forwarded_is_parsed(text, expected):
    assert read_forwarded(text) == expected


@pytest.mark.parametrize(
    ("text", "client", "scheme", "host"),
    [
        ("for=1.2.3.4", ("1.2.3.4", 0), "http", b"inner:8000"),
        ('for="1.2.3.4:5";proto=https;host=a', ("1.2.3.4", 5), "https", b"a"),
        ("for=6.6.6.6;proto=https, for=1.2.3.4", ("1.2.3.4", 0), "http", b"inner:8000"),
        (
            "for=1.2.3.4;proto=https;host=a, for=10.0.0.1;host=b",
            *(("1.2.3.4", 0), "https", b"a"),
        ),
        ("for=1.2.3.4;proto=https, for=unknown;host=b", PEER, "http", b"b"),
        ('for="[::9]:1";proto=wss', ("::9", 1), "https", b"inner:8000"),
        ("proto=https", PEER, "https", b"inner:8000"),
        ("for=1.2.3.4, for", PEER, "http", b"inner:8000"),
        ('host="a b"', PEER, "http", b"inner:8000"),
    ],
)
def test_forwarded(text, client, scheme, host):
    scope = applied(HOPS, ("forwarded", text), fields=[b"forwarded"])
    assert (scope["client"], scope["scheme"], scope["headers"][0][1]) == (client, scheme, host)


def test_forwarded_in_several_lines_is_one_list():
    lines = [
        ("forwarded", "for=6.6.6.6"),
        ("forwarded", "for=1.2.3.4"),
        ("forwarded", 'for="10.0.0.1"'),
    ]
    assert applied(HOPS, *lines, fields=[b"forwarded"])["client"] == ("1.2.3.4", 0)


@pytest.mark.parametrize(
    "text", [" " * 60_000, " \t" * 30_000 + "x", '"' * 60_000, "a" * 60_000, 'a="' + "\\" * 60_001]
)
def test_forwarded_of_any_length_takes_linear_time(text):
    """A pattern with quadratic time would take a minute for these values."""
    assert read_forwarded(text) == []
    assert read_forwarded("for=1.1.1.1," + text) in ([], [{"for": "1.1.1.1"}])


# --- All of it ------------------------------------------------------------------------------------


def test_ignored_fields_of_an_untrusted_peer_are_logged_once(caplog):
    forwarding = Forwarding(TrustedPeers(["10.0.0.1"]), X_FIELDS)
    scope = {"client": ("6.6.6.6", 1), "headers": [(b"x-forwarded-for", b"1.2.3.4")]}
    with caplog.at_level(logging.WARNING, "thestral.error"):
        for _ in range(3):
            forwarding.apply(scope, ("6.6.6.6", 1), SERVER)
        forwarding.apply(scope, None, ("/run/a", None))
    assert len(caplog.records) == 1
    assert "X-Forwarded-For from 6.6.6.6" in caplog.text
    assert "forwarded_allow_ips" in caplog.text


def test_random_bytes_never_raise():
    """Random values raise nothing, and the result is valid in a scope."""
    chance = random.Random(7239)
    words = [*'",;=[]:\\/ .%_\t', "for", "proto", "host", "1.2.3.4", "::1", "10.0.0.1", "https"]
    names = [field.decode() for field in FIELDS]
    for _ in range(20_000):
        text = "".join(
            chance.choice(words) if chance.random() < 0.9 else chr(chance.randrange(256))
            for _ in range(chance.randrange(12))
        )
        for fields in (X_FIELDS, [b"forwarded"]):
            scope = applied(HOPS, (chance.choice(names), text), fields=fields)
            host, port = scope["client"]
            assert read_node(host) == (host, 0)
            assert 0 <= port <= 65535
            assert scope["scheme"] in ("http", "https")
            assert scope["headers"][0][0] == b"host"
            assert scope["headers"][0][1].isascii()
