"""What thestral.logging and thestral.logconfig do to logging, in this process."""

from __future__ import annotations

import copy
import logging
import sys

import pytest

from thestral import Config
from thestral.errors import ConfigError
from thestral.logconfig import read_log_config
from thestral.logging import (
    LOGGING_CONFIG,
    AccessFormatter,
    DefaultFormatter,
    Refusals,
    access_logger,
    configure,
    error_logger,
    request_id,
    title_of,
)

NAMES = ["thestral", "thestral.error", "thestral.access"]
ALIASES = ["uvicorn", "uvicorn.error", "uvicorn.access"]


def configured():
    """What our loggers do, in words."""
    said = []
    for name in NAMES:
        logger = logging.getLogger(name)
        said.append([name, logger.level, logger.propagate, logger.disabled])
        for handler in logger.handlers:
            formatter = handler.formatter
            said[-1].append((type(handler), handler.stream, type(formatter), formatter._fmt))
    return said


@pytest.mark.parametrize("use_colors", [None, True, False])
def test_our_own_configuration_is_that_of_logging_config(use_colors):
    configure(Config("a:b", use_colors=use_colors))
    ours = configured()
    assert len(ours[0]) == len(ours[2]) == 5
    colors = error_logger.parent.handlers[0].formatter.use_colors
    configure(Config("a:b", use_colors=use_colors, log_config=LOGGING_CONFIG))
    assert configured() == ours
    assert error_logger.parent.handlers[0].formatter.use_colors == colors


def test_uvicorns_names_are_other_names_of_our_loggers():
    configure(Config("a:b"))
    for name, alias in zip(NAMES, ALIASES, strict=True):
        assert logging.getLogger(alias) is logging.getLogger(name)
    assert logging.getLogger("uvicorn.more").parent is logging.getLogger("thestral")


def test_logger_that_somebody_holds_already_is_shown_and_its_filters_hold():
    held = logging.getLogger("uvicorn.access")
    condition = logging.Filter("x")
    held.addFilter(condition)
    configure(Config("a:b"))
    assert logging.getLogger("uvicorn.access") is held
    assert access_logger.filters == [condition]
    assert held.parent is access_logger


def test_logger_that_somebody_has_set_up_is_left_alone():
    held = logging.getLogger("uvicorn.error")
    parent = held.parent
    held.addHandler(logging.NullHandler())
    configure(Config("a:b"))
    assert held.parent is parent
    held.handlers.clear()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_configuring_again_disables_nothing(times):
    given = {"version": 1, "loggers": {"uvicorn": {"level": "INFO"}, "uvicorn.access": {}}}
    for _ in range(times):
        configure(Config("a:b", log_config=given))
    assert not access_logger.disabled
    assert not logging.getLogger("thestral").disabled


def test_none_leaves_logging_alone():
    handler = logging.NullHandler()
    access_logger.handlers = [handler]
    configure(Config("a:b", log_config=None))
    assert access_logger.handlers == [handler]
    configure(Config("a:b", log_config=None, access_log=False))
    assert access_logger.handlers == []


def test_dict_is_not_changed():
    given = copy.deepcopy(LOGGING_CONFIG)
    configure(Config("a:b", log_config=given, use_colors=True))
    assert given == LOGGING_CONFIG
    formatter = access_logger.handlers[0].formatter
    assert isinstance(formatter, AccessFormatter)
    assert formatter.use_colors


@pytest.mark.parametrize("use_colors", [None, True, False])
def test_use_colors_reaches_both_formatters(use_colors):
    configure(Config("a:b", use_colors=use_colors))
    (shown,) = logging.getLogger("thestral").handlers
    assert isinstance(shown.formatter, DefaultFormatter)
    for handler in (shown, access_logger.handlers[0]):
        assert handler.formatter.use_colors is bool(use_colors)  # no terminal here


def test_ours_wins_over_uvicorns_in_one_config():
    given = {"loggers": {"uvicorn.access": {"level": 1}, "thestral.access": {"level": 2}}}
    assert read_log_config(given) == {"loggers": {"thestral.access": {"level": 2}}}


def test_yaml_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "log.yaml"
    path.write_text("version: 1")
    with pytest.raises(ConfigError, match=r"needs the package PyYAML: pip install"):
        configure(Config("a:b", log_config=str(path)))


def test_dict_that_logging_does_not_take():
    with pytest.raises(ConfigError, match="the dict given cannot be used: ") as caught:
        configure(Config("a:b", log_config={"version": 2}))
    assert caught.value.option == "log_config"


@pytest.mark.parametrize("value", [1, b"x", ["a"]])
def test_log_config_of_another_type(value):
    with pytest.raises(ConfigError, match="expected a text"):
        Config("a:b", log_config=value)


# --- What a line calls a request ------------------------------------------------------------------


def scope(*headers, **more):
    return {"method": "GET", "raw_path": b"/a", "headers": list(headers), **more}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"abc", b"abc"),
        (b"Root=1-67-ab;x/y+z:1", b"Root=1-67-ab;x/y+z:1"),
        (b"x" * 128, b"x" * 128),
        (b"x" * 129, None),
        (b"", None),
        (b"a b", None),
        (b"a\tb", None),
        (b"\xff", None),
        (b"a\n", None),
    ],
)
def test_request_id_is_shown_if_it_is_sane(value, shown):
    assert request_id(scope((b"x-request-id", value))) == shown


def test_title():
    assert title_of(scope()) == "GET /a"
    assert title_of(scope((b"x-request-id", b'a"'))) == r"GET /a, request id a\""
    assert title_of({"raw_path": b"/a\n", "headers": []}) == r"WebSocket /a\x0a"
    assert title_of({}) == "WebSocket ?"
    assert title_of({"raw_path": b"/", "headers": 5}) == "WebSocket /"


# --- Refusals -------------------------------------------------------------------------------------


class Kept(logging.Handler):
    """Messages of one logger, whatever other tests have left on those above it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_refusals_are_told_ten_times_in_ten_seconds_and_then_counted(monkeypatch):
    kept = Kept()
    monkeypatch.setattr(error_logger, "handlers", [kept])
    monkeypatch.setattr(error_logger, "level", logging.INFO)
    refusals = Refusals()
    for number in range(10):
        refusals.info(100.0, "no %d", number)
    assert not refusals.tick(105.0)
    refusals.info(106.0, "no 10")
    refusals.info(107.0, "no 11")
    assert refusals.tick(109.9)  # something is still to be said
    assert kept.messages == [f"no {n}" for n in range(10)]
    assert not refusals.tick(110.0)
    assert not refusals.tick(111.0)
    refusals.info(112.0, "again")
    assert kept.messages[10:] == ["Refused 2 more within 10 seconds", "again"]


def test_a_warning_about_connections_is_told_once(monkeypatch):
    kept = Kept()
    monkeypatch.setattr(error_logger, "handlers", [kept])
    monkeypatch.setattr(error_logger, "level", logging.INFO)
    refusals = Refusals()
    for number in range(3):
        refusals.warn_once("first %d", number)
        refusals.warn_once("second %d", number)
    assert kept.messages == ["first 0", "second 0"]
    Refusals().warn_once("first %d", 4)  # of another worker
    assert kept.messages[2:] == ["first 4"]


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_stream_that_is_closed_gets_nothing(monkeypatch, capsys, closed):
    """As in a process that was started with `>&-`."""
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    configure(Config("a:b"))
    error_logger.info("said")
    access_logger.info('%s - "%s %s HTTP/%s" %d', "c:1", "GET", "/", "1.1", 200)
    shown = capsys.readouterr()
    assert ("GET" in shown.out) == ("stdout" not in closed)
    assert ("said" in shown.err) == ("stderr" not in closed)
    assert "GET" not in shown.err
