"""Config: the values each option accepts, up to its bounds, and its message for any other value."""

from __future__ import annotations

import dataclasses
import ssl
from pathlib import Path

import pytest

from thestral import Config
from thestral.config import default_of, options
from thestral.errors import ConfigError, ThestralError

GIB = 2**30  # bytes; the upper bound of sizes
SIZES = [
    "limit_request_line",
    "limit_header_size",
    "limit_header_count",
    "ws_max_size",
    "ws_max_queue",
    "ws_max_queue_size",
    "h11_max_incomplete_event_size",
]
COUNTS = ["limit_max_requests", "limit_concurrency", "limit_connections"]

TIMEOUTS = [
    "timeout_head",
    "timeout_body",
    "timeout_write",
    "ws_close_timeout",
    "timeout_worker_healthcheck",
    "timeout_tls_handshake",
]
MAY_BE_ZERO = [
    "timeout_keep_alive",
    "timeout_graceful_shutdown",
    "ws_ping_interval",
    "ws_ping_timeout",
    "tcp_keepalive",
    "shutdown_delay",
    "watchdog",
    "reload_delay",
]
UNSET = [
    *("limit_request_body", "log_level", "ws_ping_interval", "ws_ping_timeout"),
    *(
        "uds",
        "fd",
        "workers",
        "pid_file",
        "on_worker_start",
        "on_worker_exit",
        "limit_max_requests",
        "limit_max_requests_jitter",
    ),
    *("limit_max_rss", "limit_worker_lifetime", "limit_concurrency", "limit_connections"),
    *("timeout_request", "timeout_worker_startup", "timeout_worker_blocked", "access_log_slow"),
    "h11_max_incomplete_event_size",
    *("ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers"),
    *("log_config", "log_file", "access_log_file", "use_colors", "forwarded_allow_ips", "admin"),
]
WINDOWS = ["ws_deflate_server_window_bits", "ws_deflate_client_window_bits"]
ZLIB_LEVELS = ["ws_deflate_level", "ws_deflate_memory_level"]
NUMBERS = {
    "port": (0, 65535),
    "backlog": (1, 2**31 - 1),
    **dict.fromkeys(SIZES, (1, GIB)),
    # The parser counts a body's bytes in an unsigned 64-bit integer.
    "limit_request_body": (1, 2**64 - 1),
    "http2_max_streams": (1, GIB),
    "http2_connection_window": (65535, GIB),
    **dict.fromkeys(WINDOWS, (9, 15)),
    **dict.fromkeys(ZLIB_LEVELS, (1, 9)),
    "ws_deflate_min_size": (0, GIB),
    "fd": (0, 2**31 - 1),
    "ssl_version": (0, 17),
    "ssl_cert_reqs": (0, 2),
    "workers": (1, 4096),
    **dict.fromkeys(COUNTS, (1, 2**31 - 1)),
    "limit_max_requests_jitter": (0, 2**31 - 1),
}
# Options whose least value is above zero, in seconds.
LOWEST = {"timeout_worker_blocked": 1}
UNBOUNDED = [
    *("limit_max_rss", "limit_worker_lifetime", "timeout_request", "timeout_worker_startup"),
    "access_log_slow",
]
# What uvicorn takes None for, where None is not our default.
MEANT_BY_NONE = {"host": [""], "loop": "none", "ssl_certfile": [], "ssl_keyfile": []}


def refused(name, value):
    """Return Config's reason for refusing a value."""
    with pytest.raises(ConfigError) as caught:
        Config("a:b", **{name: value})
    assert caught.value.option == name
    assert str(caught.value) == f"{name}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


def taken(name, value):
    return getattr(Config("a:b", **{name: value}), name)


def test_every_number_has_its_bounds_in_these_tables():
    numbers = {name for name, spec in options() if spec.kind in (int, float)}
    assert numbers == {*NUMBERS, *TIMEOUTS, *MAY_BE_ZERO, *UNBOUNDED, *LOWEST}


@pytest.mark.parametrize(("name", "lowest"), [(name, low) for name, (low, _) in NUMBERS.items()])
def test_integer_at_its_lower_bound(name, lowest):
    assert repr(lowest - 1) in refused(name, lowest - 1)
    assert taken(name, lowest) == lowest
    assert taken(name, lowest + 1) == lowest + 1


@pytest.mark.parametrize(("name", "highest"), [(name, high) for name, (_, high) in NUMBERS.items()])
def test_integer_at_its_upper_bound(name, highest):
    assert taken(name, highest - 1) == highest - 1
    assert taken(name, highest) == highest
    assert repr(highest + 1) in refused(name, highest + 1)


@pytest.mark.parametrize("name", TIMEOUTS)
def test_timeout_is_above_zero_and_finite(name):
    for value in (-1, -1e-9, 0, 0.0, float("inf"), float("-inf"), float("nan")):
        assert "expected a number of seconds above 0" in refused(name, value)
    assert taken(name, 1e-9) == 1e-9
    assert taken(name, 1) == 1.0
    assert type(taken(name, 1)) is float


@pytest.mark.parametrize("name", LOWEST)
def test_time_at_its_lower_bound(name):
    for value in (-1, 0, LOWEST[name] - 1e-9, float("inf"), float("nan")):
        assert f"expected a number of seconds of at least {LOWEST[name]}" in refused(name, value)
    assert taken(name, LOWEST[name]) == LOWEST[name]


@pytest.mark.parametrize("name", MAY_BE_ZERO)
def test_time_that_may_be_zero(name):
    for value in (-1e-9, -1, float("inf"), float("nan")):
        refused(name, value)
    assert taken(name, 0) == 0.0
    assert taken(name, 1e-9) == 1e-9


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["a", "", "1.0", 1.0, True, b"1", [1]])
def test_integer_of_another_type_is_refused(name, value):
    assert repr(value) in refused(name, value)


@pytest.mark.parametrize("name", TIMEOUTS)
@pytest.mark.parametrize("value", ["a", "", True, "inf"])
def test_timeout_of_another_type_is_refused(name, value):
    assert str(value) in refused(name, value)


def test_none_is_not_set():
    """Programs pass None for options that their own user has not set."""
    for name, spec in options():
        meant = None if spec.optional else MEANT_BY_NONE.get(name, default_of(name))
        assert taken(name, None) == meant
    assert {name for name, spec in options() if spec.optional} == set(UNSET)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("port", "8001", 8001),
        ("timeout_keep_alive", "5", 5.0),
        ("workers", "2", 2),
        ("workers", "auto", "auto"),
        ("ssl_cert_reqs", "2", 2),
        ("ssl_cert_reqs", "required", "required"),
        ("fd", "3", 3),
        ("log_level", "INFO", "info"),
        ("log_level", "10", 10),
        ("lifespan", "ON", "on"),
        ("ssl_min_version", 1.3, "1.3"),
        ("access_log", "info", True),
        ("access_log", "WARNING", True),
        ("use_colors", "off", False),
    ],
)
def test_text_means_what_it_means_on_the_command_line(name, text, value):
    found = taken(name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("lifespan", ["auto", "on", "off"]),
        ("loop", ["auto", "uvloop", "asyncio", "none", "module:function"]),
        ("ws", ["auto", "none", "websockets", "websockets-sansio", "wsproto"]),
        ("log_level", ["critical", "error", "warning", "info", "debug", "trace"]),
        ("log_format", ["text", "json"]),
    ],
)
def test_choice_is_one_of_those_named(name, choices):
    for choice in choices:
        assert taken(name, choice) == choice
    assert refused(name, "maybe") == f"'maybe' given, expected one of {', '.join(choices)}"
    refused(name, "")


SWITCHES = [
    "factory",
    "server_header",
    "date_header",
    "access_log",
    "log_timestamps",
    "request_id",
    "server_timing",
    "ws_per_message_deflate",
    "ws_deflate_context_takeover",
]


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_is_on_or_off(name):
    for value in (True, 1, "1", "true", "True", "yes", "on"):
        assert taken(name, value) is True
    for value in (False, 0, "0", "false", "no", "off", ""):
        assert taken(name, value) is False
    for value in (2, "maybe", b"1", [], {}):
        assert refused(name, value).endswith("expected True or False")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        # The reader can type the bound that a message shows.
        ("port", 65536, "an integer from 0 to 65535"),
        ("limit_header_count", 0, f"a whole number of fields from 1 to {GIB}"),
        ("limit_max_rss", 0, "a whole number of bytes of at least 1"),
        ("timeout_head", 0, "a number of seconds above 0"),
        ("timeout_keep_alive", -1, "a number of seconds of at least 0"),
        ("workers", 0, "an integer from 1 to 4096 or 'auto'"),
        ("ssl_cert_reqs", 3, "an integer from 0 to 2, 'none', 'optional' or 'required'"),
    ],
)
def test_message_of_a_number_names_value_unit_and_bounds(name, value, expected):
    assert refused(name, value) == f"{value} given, expected {expected}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("root_path", "a string"),
        ("uds", "a path"),
        ("headers", "a string or a list of strings"),
        ("ssl_certfile", "a path or a list of paths"),
        ("forwarded_allow_ips", "a string or a list of strings"),
        ("log_config", "a path or a dict"),
    ],
)
def test_message_of_another_type_names_what_is_taken(name, expected):
    assert refused(name, 5) == f"5 given, expected {expected}"


def test_defaults_are_finite_and_as_the_design_says():
    config = Config("a:b")
    assert (config.host, config.port, config.lifespan, config.loop) == (
        ["127.0.0.1"], 8000, "auto", "auto",
    )  # fmt: skip
    assert (config.limit_request_line, config.limit_header_size) == (64 * 1024, 64 * 1024)
    assert config.limit_header_count == 100
    assert config.limit_request_body is None
    assert [getattr(config, name) for name in TIMEOUTS] == [
        10.0, 30.0, 60.0, 10.0, 5.0, 10.0,
    ]  # fmt: skip
    assert [getattr(config, name) for name in MAY_BE_ZERO] == [
        75.0, 30.0, 20.0, 20.0, 60.0, 0.0, 1.0, 0.25,
    ]  # fmt: skip
    assert (config.ws_max_size, config.ws_max_queue) == (16 * 1024 * 1024, 32)
    assert [getattr(config, name) for name in (*WINDOWS, *ZLIB_LEVELS)] == [12, 12, 6, 5]
    assert all(getattr(config, name) for name in SWITCHES if name.startswith("ws_"))
    assert (config.access_log, config.server_header, config.date_header) == (True, True, True)


def test_every_field_is_an_option_unless_its_value_has_no_spelling():
    fields = [field.name for field in dataclasses.fields(Config)]
    for name in ("ssl_context_factory", "callback_notify", "timeout_notify", "env_file"):
        fields.remove(name)
    assert fields == ["app", *(name for name, _ in options())]


def test_option_that_does_not_exist_is_a_type_error():
    with pytest.raises(TypeError, match="limit_everything"):
        Config("a:b", limit_everything=1)


def test_options_are_named_not_counted():
    with pytest.raises(TypeError):
        Config("a:b", "127.0.0.1")


def test_config_error_is_a_thestral_error():
    assert issubclass(ConfigError, ThestralError)


# --- Root path ------------------------------------------------------------------------------------


PATH_OPTIONS = pytest.mark.parametrize("name", ["root_path", "health_path"])


@PATH_OPTIONS
@pytest.mark.parametrize("path", ["", "/", "/api", "/api/v1/", "/%C3%A9"])
def test_path_that_is_accepted(name, path):
    assert taken(name, path) == path


@PATH_OPTIONS
@pytest.mark.parametrize("path", ["api", "/a b", "/é", "/a\r\nb", "/\x7f", "/\x00", b"/api", 1])
def test_path_that_is_refused(name, path):
    refused(name, path)


@pytest.mark.parametrize(
    "given", ["127.0.0.1:9100", "localhost:0", "[::1]:1", "unix:a", "unix:/b/c"]
)
def test_address_of_the_admin_port(given):
    assert taken("admin", given) == given
    assert Config("main:app", admin=given).needs_supervisor


@pytest.mark.parametrize("given", ["9100", "a", ":1", "unix:", "::1:1", "a:65536", "http://a:1", 1])
def test_address_of_the_admin_port_that_is_none(given):
    refused("admin", given)


# --- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ssl_certfile", "ssl_keyfile"])
def test_files_of_certificates_are_one_or_several(name):
    assert taken(name, "a.pem") == taken(name, Path("a.pem")) == ["a.pem"]
    assert taken(name, ("a.pem", Path("b.pem"))) == ["a.pem", "b.pem"]
    assert taken(name, None) == taken(name, []) == []
    for value in (1, b"a.pem", [1], [None], "", [""]):
        assert refused(name, value).endswith("expected a path or a list of paths")


def test_oldest_version_is_one_of_two():
    for version in ("1.2", "1.3"):
        assert taken("ssl_min_version", version) == version
    for value in ("1.1", "TLSv1.2", ""):
        assert refused("ssl_min_version", value) == f"{value!r} given, expected one of 1.2, 1.3"


def test_client_certificates_may_be_named():
    for word in ("none", "optional", "required"):
        assert taken("ssl_cert_reqs", word) == word
    assert taken("ssl_cert_reqs", ssl.CERT_REQUIRED) == 2
    refused("ssl_cert_reqs", "maybe")


def test_path_of_authorities_is_stored_as_a_string():
    assert taken("ssl_ca_certs", Path("ca.pem")) == "ca.pem"


def test_password_is_not_shown():
    assert "hunter2" not in repr(Config("a:b", ssl_keyfile_password="hunter2"))


# --- Headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "pair"),
    [
        ("X-One: 1", ("X-One", "1")),
        ("X-One:1", ("X-One", "1")),
        ("X-One: \t 1 \t", ("X-One", "1")),
        ("X-One:", ("X-One", "")),
        ("X-One: a:b", ("X-One", "a:b")),
        ("X-One: é", ("X-One", "é")),
        ("!#$%&'*+-.^_`|~09azAZ: 1", ("!#$%&'*+-.^_`|~09azAZ", "1")),
        (("X-One", "1"), ("X-One", "1")),
        (["X-One", "a\tb"], ("X-One", "a\tb")),
    ],
)
def test_header_that_can_be_sent(given, pair):
    config = Config("a:b", headers=[given])
    assert config.headers == [pair]
    assert config.encoded_headers == [(pair[0].encode(), pair[1].encode("latin-1"))]


@pytest.mark.parametrize("byte", [*range(9), *range(10, 32), 127])
def test_control_byte_in_a_header_value_is_refused(byte):
    # RFC 9110 section 5.5: HTAB is the only control character allowed inside a value.
    assert "field value" in refused("headers", [("X-One", f"a{chr(byte)}b")])


@pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\r\n", " a", "a ", "(a)", "a\x00", "a/b"])
def test_header_name_that_is_no_token_is_refused(name):
    assert "field name" in refused("headers", [(name, "1")])


@pytest.mark.parametrize(
    "header", ["X-One", "", ("X-One",), ("a", "b", "c"), ("a", 1), (b"a", b"b"), 1, None]
)
def test_header_of_another_shape_is_refused(header):
    refused("headers", [header])


def test_header_value_outside_latin_1_is_refused():
    assert "field value" in refused("headers", [("X-One", "€")])


@pytest.mark.parametrize("name", ["Content-Length", "TRANSFER-ENCODING", "connection"])
def test_framing_header_of_the_user_is_refused(name):
    assert repr(name) in refused("headers", [(name, "1")])


def test_one_value_stands_for_a_list_of_it():
    assert taken("headers", "X-One: 1") == [("X-One", "1")]
    assert taken("host", "::1") == ["::1"]
    assert taken("reload_dirs", Path("src")) == ["src"]
    assert taken("reload_includes", ("*.html", Path("a"))) == ["*.html", "a"]


@pytest.mark.parametrize("name", ["headers", "host", "reload_dirs"])
def test_number_is_not_taken_for_a_list(name):
    refused(name, 5)
    refused(name, [5])


def test_configs_do_not_share_their_headers():
    first, second = Config("a:b"), Config("a:b")
    first.headers.append(("X-One", "1"))
    assert second.headers == []


def test_the_callers_list_is_left_alone():
    headers = ["X-One: 1"]
    Config("a:b", headers=headers)
    assert headers == ["X-One: 1"]


@pytest.mark.parametrize(
    "name",
    ["uds", "workers", "reload", "preload", "limit_max_requests", "timeout_worker_blocked"],
)
def test_what_needs_posix_says_so_elsewhere(name, monkeypatch):
    monkeypatch.setattr("thestral.config.POSIX", False)
    Config("a:b")
    value = {
        "uds": "/run/a",
        "workers": 2,
        "limit_max_requests": 5,
        "timeout_worker_blocked": 30.0,
    }.get(name, True)
    with pytest.raises(ConfigError, match="needs a POSIX system") as caught:
        Config("a:b", **{name: value})
    assert caught.value.option == name


@pytest.mark.parametrize(("given", "workers"), [("3", 3), ("auto", "auto"), ("", None)])
def test_web_concurrency_is_the_default_of_workers(monkeypatch, given, workers):
    monkeypatch.setenv("WEB_CONCURRENCY", given)
    assert Config("a:b").workers == workers
    assert Config("a:b", workers=2).workers == 2


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, False),
        ({"workers": 1}, False),  # of a program; test_workers.py has the command
        ({"workers": 2}, True),
        ({"on_worker_start": "hooks:start"}, True),
        ({"on_worker_exit": "hooks:end"}, True),
        ({"watchdog": 5.0}, False),
    ],
)
def test_what_needs_a_supervisor(options, needed):
    assert Config(**{"app": "a:b", **options}).needs_supervisor is needed


@pytest.mark.parametrize(("given", "needed"), [("1", False), ("2", True)])
def test_web_concurrency_of_one_needs_no_supervisor(monkeypatch, given, needed):
    monkeypatch.setenv("WEB_CONCURRENCY", given)
    assert Config("a:b").needs_supervisor is needed


@pytest.mark.parametrize("option", ["on_worker_start", "on_worker_exit"])
@pytest.mark.parametrize("given", ["hooks", "hooks:", ":start", ".hooks:start", ""])
def test_hook_that_is_no_function_of_a_module(option, given):
    assert refused(option, given) == f"{given!r} given, expected MODULE:FUNCTION"


@pytest.mark.parametrize("given", ["abc", "0", "-1", "1.5", " "])
def test_web_concurrency_that_is_no_number(monkeypatch, given):
    monkeypatch.setenv("WEB_CONCURRENCY", given)
    with pytest.raises(ConfigError, match="WEB_CONCURRENCY is"):
        Config("a:b")
