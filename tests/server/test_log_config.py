"""How thestral.logging and thestral.logging.setup configure logging in this process."""

from __future__ import annotations

import copy
import logging
import pickle
import sys

import pytest

from thestral import Config
from thestral.config import LOGGING_CONFIG
from thestral.errors import ConfigError
from thestral.logging.formatters import AccessFormatter, DefaultFormatter
from thestral.logging.loggers import access_logger, error_logger, shared_logger
from thestral.logging.names import request_id, title_of
from thestral.logging.refusals import Refusals
from thestral.logging.setup import configure

NAMES = ["uvicorn", "uvicorn.error", "uvicorn.access"]
OTHER_NAMES = ["thestral", "thestral.error", "thestral.access"]


def configured():
    """Describe the state of our loggers."""
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


@pytest.mark.parametrize(("name", "other"), [*zip(NAMES, OTHER_NAMES, strict=True)])
def test_what_is_set_by_one_name_holds_for_the_other(name, other):
    configure(Config("a:b"))
    first, second = logging.getLogger(name), logging.getLogger(other)
    for setter, reader in ((first, second), (second, first)):
        condition = logging.Filter("x")
        setter.addFilter(condition)
        assert reader.filters[-1] is condition
        setter.setLevel(logging.ERROR)
        assert not reader.isEnabledFor(logging.WARNING)
        setter.setLevel(logging.INFO)
        assert reader.isEnabledFor(logging.INFO)
        setter.disabled = True
        assert reader.disabled
        configure(Config("a:b"))
        assert not reader.disabled


def test_records_have_uvicorns_names_and_go_up_its_tree():
    configure(Config("a:b"))
    assert [logging.getLogger(name).name for name in OTHER_NAMES] == NAMES
    handlers = logging.getLogger("uvicorn").handlers
    assert handlers
    for name in ("uvicorn.more", "thestral.more"):
        assert logging.getLogger(name).parent.handlers is handlers


class OwnLogger(logging.Logger):
    """The logger class of a program that calls logging.setLoggerClass()."""


@pytest.mark.parametrize("kind", [logging.Logger, OwnLogger])
def test_loggers_that_a_program_has_set_up_before_are_ours(monkeypatch, kind):
    known = {}
    monkeypatch.setattr(logging.Logger.manager, "loggerDict", known)
    monkeypatch.setattr(logging.Logger.manager, "loggerClass", kind)
    child = logging.getLogger("second.name.child")
    first, second = logging.getLogger("first"), logging.getLogger("second.name")
    handlers = [logging.NullHandler(), logging.NullHandler()]
    conditions = [logging.Filter("a"), logging.Filter("b")]
    for each, handler, condition in zip((first, second), handlers, conditions, strict=True):
        each.addHandler(handler)
        each.addFilter(condition)
    second.setLevel(logging.ERROR)
    second.propagate = False
    shared = shared_logger("first", "second.name")
    assert shared is first is logging.getLogger("first")
    assert second is logging.getLogger("second.name") is child.parent
    assert isinstance(first, kind)
    for each in (first, second):
        assert each.name == "first"
        assert each.handlers == handlers
        assert each.filters == conditions
        assert (each.level, each.propagate) == (logging.ERROR, False)


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
        assert handler.formatter.use_colors is bool(use_colors)  # stderr is not a terminal here


@pytest.fixture
def changed(monkeypatch):
    """LOGGING_CONFIG, which a test may change; it is restored afterwards."""
    for name in LOGGING_CONFIG:
        monkeypatch.setitem(LOGGING_CONFIG, name, copy.deepcopy(LOGGING_CONFIG[name]))
    return LOGGING_CONFIG


def test_change_of_logging_config_holds(changed):
    changed["formatters"]["default"]["fmt"] = "%(asctime)s %(message)s"
    changed["loggers"]["uvicorn.access"]["level"] = "ERROR"
    config = Config("a:b")
    configure(pickle.loads(pickle.dumps(config)))  # as in a worker
    (shown,) = logging.getLogger("uvicorn").handlers
    assert shown.formatter._fmt == "%(asctime)s %(message)s"
    assert access_logger.level == logging.ERROR


def test_change_of_logging_config_after_its_config_does_not_hold(changed):
    config = Config("a:b")
    changed["loggers"]["uvicorn.access"]["level"] = "ERROR"
    configure(config)
    assert access_logger.level == logging.INFO


def test_change_of_logging_config_leaves_a_log_config_alone(changed):
    changed["loggers"]["uvicorn.access"]["level"] = "ERROR"
    assert Config("a:b", log_config=None).log_config is None
    given = {"version": 1, "disable_existing_loggers": False}
    assert Config("a:b", log_config=given).log_config == given


def test_yaml_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "log.yaml"
    path.write_text("version: 1")
    with pytest.raises(ConfigError, match=r"needs the PyYAML package: pip install"):
        configure(Config("a:b", log_config=str(path)))


def test_dict_that_logging_refuses():
    with pytest.raises(ConfigError, match="the given dict cannot be used: ") as caught:
        configure(Config("a:b", log_config={"version": 2}))
    assert caught.value.option == "log_config"


@pytest.mark.parametrize("value", [1, b"x", ["a"]])
def test_log_config_of_another_type(value):
    with pytest.raises(ConfigError, match="expected a path or a dict"):
        Config("a:b", log_config=value)


# --- How a line names a request -------------------------------------------------------------------


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
    assert request_id([(b"x-request-id", value)]) == shown


def test_title():
    assert title_of(scope()) == "GET /a"
    assert title_of(scope((b"x-request-id", b'a"'))) == r"GET /a, request id a\""
    assert title_of({"raw_path": b"/a\n", "headers": []}) == r"WebSocket /a\x0a"
    assert title_of({}) == "WebSocket ?"
    assert title_of({"raw_path": b"/", "headers": 5}) == "WebSocket /"


# --- Refusals -------------------------------------------------------------------------------------


class Kept(logging.Handler):
    """Collects one logger's messages, whatever other tests have done to its ancestors."""

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
    assert refusals.tick(109.9)  # a message is still due
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
    Refusals().warn_once("first %d", 4)  # as in another worker
    assert kept.messages[2:] == ["first 4"]


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_stream_that_is_closed_gets_nothing(monkeypatch, capsys, closed):
    """A process started with `>&-` has such a stream."""
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    configure(Config("a:b"))
    error_logger.info("said")
    access_logger.info('%s - "%s %s HTTP/%s" %d', "c:1", "GET", "/", "1.1", 200)
    shown = capsys.readouterr()
    assert ("GET" in shown.out) == ("stdout" not in closed)
    assert ("said" in shown.err) == ("stderr" not in closed)
    assert "GET" not in shown.err
