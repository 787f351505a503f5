"""The JSON log: a valid line for every record, whatever it holds."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import sys
import threading
import warnings

import pytest

from thestral import Config
from thestral.config import LOGGING_CONFIG
from thestral.errors import ConfigError
from thestral.logging import DefaultFormatter, JsonFormatter, RequestFilter
from thestral.logging.format import is_json, read_format, whole_format
from thestral.logging.jsonlines import ThisProcess, plain, utc
from thestral.logging.loggers import access_logger, error_logger, server_logger
from thestral.logging.output import LogFileHandler
from thestral.logging.running import about, running
from thestral.logging.setup import configure


class Request:
    """The ids of a request."""

    def __init__(self, request_id="", trace_id="", span_id=""):
        self.request_id = request_id
        self.trace_id = trace_id
        self.span_id = span_id


class Unprintable:
    def __str__(self):
        raise RuntimeError("not to be shown")

    __repr__ = __str__


class Text(str):
    __slots__ = ()

    def __str__(self):
        return self

    def encode(self, *arguments):
        raise RuntimeError("not to be encoded")


def refuse_constant(text):
    raise AssertionError(f"{text} is not JSON")


def read(line):
    """The content of a line, which must be one line of ASCII and strict JSON."""
    assert line.isascii()
    assert "\n" not in line
    return json.loads(line, parse_constant=refuse_constant)


def formatted(**attributes):
    return read(JsonFormatter().format(logging.makeLogRecord(attributes)))


def test_keys_of_a_line(monkeypatch):
    monkeypatch.setattr(ThisProcess, "worker", 3)
    found = formatted(name="a.b", levelname="WARNING", msg="%d left", args=(5,), created=1.5)
    assert found == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "WARNING",
        "logger": "a.b",
        "message": "5 left",
        "worker": 3,
        "pid": os.getpid(),
    }


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a\nb\r\n\x00\x1f\x7f", "a\nb\r\n\x00\x1f\x7f"),
        ("\u2028\u2029\x85", "\u2028\u2029\x85"),
        ('"\\', '"\\'),
        ("é😀", "é😀"),
        ("a\udc80b", "a\\udc80b"),
        ("\ud83d\ude00", "\\ud83d\\ude00"),
        (b"\xff", r"b'\xff'"),
        (None, "None"),
        (float("nan"), "nan"),
        (Unprintable(), "<Unprintable>"),
        (Text("é"), "é"),
        ({"a": 1}, "{'a': 1}"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_any_message(message, shown):
    assert formatted(msg=message)["message"].startswith(shown)


@pytest.mark.parametrize(
    "arguments", [("x",), (1, 2), ({},), (Unprintable(),), (None,)], ids=lambda each: str(len(each))
)
def test_arguments_that_do_not_fit(arguments):
    assert formatted(msg="%d", args=arguments)["message"].startswith("%d (arguments: ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5, 5),
        (1.5, 1.5),
        (True, True),
        (None, None),
        ("a\nb", "a\nb"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**30, str(10**30)),
        (10**5000, "<int>"),  # longer than Python writes a number
        ([1, float("inf"), {"a": {2}}], [1, "inf", {"a": [2]}]),
        ({1: "a", None: Unprintable()}, {"1": "a", "None": "<Unprintable>"}),
        (b"x", "b'x'"),
        (Unprintable(), "<Unprintable>"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_extra_values(value, shown):
    assert formatted(msg="m", field=value)["field"] == shown


def test_extra_that_contains_itself_ends():
    value: list[object] = []
    value.append(value)
    assert "[...]" in json.dumps(plain(value, 5))
    formatted(msg="m", field=value)


def test_extra_does_not_replace_what_a_line_has():
    found = formatted(
        msg="m", levelname="INFO", time="x", level="y", worker=9, pid=1, exception="z"
    )
    assert (found["level"], found["message"], found["worker"]) == ("INFO", "m", None)
    assert found["time"].endswith("Z")


def test_exception_is_one_field():
    try:
        raise ValueError("a\nb\udcff")
    except ValueError:
        found = formatted(msg="failed", exc_info=sys.exc_info(), stack_info="Stack:\n  line")
    assert found["exception"].startswith("Traceback (most recent call last):\n")
    assert found["exception"].endswith("ValueError: a\nb\\udcff")
    assert found["stack"] == "Stack:\n  line"


def test_exception_that_cannot_be_shown():
    class Broken(Exception):
        __cause__ = property(Unprintable.__str__)

        def __str__(self):
            raise RuntimeError("no")

    for info in ((Broken, Broken(), None), (None, None, None), True, "text"):
        formatted(msg="failed", exc_info=info)


@pytest.mark.parametrize("created", [float("nan"), float("inf"), 1e300, -5.25, "soon", None])
def test_any_time(created):
    found = formatted(msg="m", created=created)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])


def test_time_is_utc_with_milliseconds():
    assert utc(0) == "1970-01-01T00:00:00.000Z"
    assert utc(1_790_000_000.9996) == "2026-09-21T14:13:20.999Z"


def test_ids_of_the_running_request():
    token = running.set(Request("r1", "t" * 32))
    try:
        found = formatted(msg="m")
        assert (found["request_id"], found["trace_id"]) == ("r1", "t" * 32)
        assert "span_id" not in found
        other = formatted(msg="m", **(about(Request("r2")) or {}))
        assert other["request_id"] == "r2"  # of the request that the record names
    finally:
        running.reset(token)
    assert "request_id" not in formatted(msg="m")
    assert about(None) is None


def test_filter_for_formatters_of_others():
    text = logging.Formatter("%(request_id)s|%(trace_id)s|%(message)s")
    record = logging.makeLogRecord({"msg": "m", "thestral_request": Request("r1")})
    assert RequestFilter().filter(record)
    assert text.format(record) == "r1||m"
    RequestFilter().filter(plain_record := logging.makeLogRecord({"msg": "m"}))
    assert text.format(plain_record) == "||m"


# --- Formats of the access log ------------------------------------------------------------------


@pytest.mark.parametrize("given", ["uvicorn", "combined", '%h "\\\t" é', "%({X-A}i)s 100%%"])
def test_text_becomes_the_message_of_an_object(given):
    whole = whole_format(given, "json", True, False)
    assert is_json(whole)
    read_format(whole)
    literal = "".join(
        name if letter == "" else "0" for letter, name in read_format(whole.replace("%{ids}x", ""))
    )
    json.loads(literal)


@pytest.mark.parametrize("given", ["json", '{"a":"%h"}'])
def test_an_object_stays_as_it_is(given):
    assert whole_format(given, "json", True, False) == given
    assert whole_format(given, "text", True, False) == given


def test_timestamp_stands_only_before_the_default_format():
    assert whole_format("uvicorn", "text", True, False).startswith("%{utc}x INFO: ")
    assert whole_format("combined", "text", True, False) == "combined"


# --- Setting it up ------------------------------------------------------------------------------


@pytest.fixture
def hooks(monkeypatch):
    """What setting up a JSON log replaces in the process is as it was after the test."""
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, f"__{name}__"))
    logger = logging.getLogger("py.warnings")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    monkeypatch.setattr(logging, "_warnings_showwarning", None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


def test_everything_python_prints_is_a_line(hooks, capsys, monkeypatch):
    configure(Config("a:b", log_format="json"))
    try:
        raise ValueError("of the program")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    thread = threading.Thread(target=lambda: 1 / 0, name="t1")
    thread.start()
    thread.join()
    ending = threading.Thread(target=sys.exit)
    ending.start()
    ending.join()

    class Leaves:
        def __del__(self):
            raise ValueError("of a finalizer")

    Leaves()
    warnings.showwarning("old", DeprecationWarning, "file.py", 5)
    other = logging.getLogger("somebody.else")
    monkeypatch.setattr(other, "propagate", False)  # no handler is found
    other.warning("by the last resort")
    lines = [read(line) for line in capsys.readouterr().err.splitlines()]
    begins = [
        "Uncaught exception",
        "Uncaught exception in thread 't1'",
        "Exception ignored",  # "in", or from Python 3.14 on "while calling deallocator"
        "file.py",
        "by the last resort",
    ]
    for line, begin in zip(lines, begins, strict=True):
        assert line["message"].startswith(begin)
    assert [line["level"] for line in lines] == [*("CRITICAL", "ERROR", "ERROR"), *("WARNING",) * 2]
    for line, error in zip(lines, ("of the program", "by zero", "of a finalizer"), strict=False):
        assert error in line["exception"]


def test_hooks_of_the_program_stay(hooks, monkeypatch):
    def own(*arguments):
        raise AssertionError

    monkeypatch.setattr(sys, "excepthook", own)
    monkeypatch.setattr(threading, "excepthook", own)
    configure(Config("a:b", log_format="json"))
    assert sys.excepthook is threading.excepthook is own


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_files_of_both_logs(hooks, tmp_path, log_format):
    paths = {"log_file": tmp_path / "errors", "access_log_file": str(tmp_path / "access")}
    config = Config("a:b", log_format=log_format, **paths)
    configure(config)
    configure(config)  # as a worker that was forked; the first handlers are closed
    error_logger.info("é\udc80")
    access_logger.info('%s - "%s %s HTTP/%s" %d', "c:1", "GET", "/", "1.1", 200)
    handlers = [*server_logger.handlers, *access_logger.handlers]
    assert [type(handler) for handler in handlers] == [LogFileHandler, LogFileHandler]
    for handler in handlers:
        handler.close()
    said = (tmp_path / "errors").read_text("utf-8")
    asked = (tmp_path / "access").read_text("utf-8")
    if log_format == "json":
        assert read(said.removesuffix("\n"))["message"] == "é\\udc80"
        assert read(asked.removesuffix("\n"))["message"] == 'c:1 - "GET / HTTP/1.1" 200'
    else:
        assert said == "INFO:     é\\udc80\n"
        assert asked == 'INFO:     c:1 - "GET / HTTP/1.1" 200 OK\n'


def test_file_has_no_colours_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(DefaultFormatter, "is_terminal", lambda self: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for use_colors in (None, True):
        configure(Config("a:b", log_file=tmp_path / "log", use_colors=use_colors))
        (handler,) = server_logger.handlers
        assert handler.formatter.use_colors is bool(use_colors)
        handler.close()


@pytest.mark.parametrize("name", ["log_file", "access_log_file"])
def test_file_that_cannot_be_opened(tmp_path, name):
    path = str(tmp_path / "missing" / "log")
    with pytest.raises(ConfigError, match="cannot be opened: No such file") as caught:
        configure(Config("a:b", **{name: path}))
    assert (caught.value.option, path in caught.value.reason) == (name, True)


def test_relative_path_is_of_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config("a:b", log_file="log")
    monkeypatch.chdir("/")
    assert config.log_file == str(tmp_path / "log")
    with pytest.raises(ConfigError, match="expected a path"):
        Config("a:b", log_file="")


def test_timestamps_of_text(capsys):
    configure(Config("a:b", log_timestamps=True))
    error_logger.info("said")
    access_logger.info('%s - "%s %s HTTP/%s" %d', "c:1", "GET", "/", "1.1", 200)
    shown = capsys.readouterr()
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.fullmatch(rf"{time} INFO:     said\n", shown.err)
    assert re.fullmatch(rf'{time} INFO:     c:1 - "GET / HTTP/1.1" 200 OK\n', shown.out)


@pytest.mark.parametrize(
    "option",
    [
        {"log_format": "json"},
        {"log_timestamps": True},
        {"log_file": "/tmp/log"},
        {"access_log_file": "/tmp/log"},
    ],
)
def test_own_configuration_excludes_what_it_would_override(option, monkeypatch):
    with pytest.raises(ConfigError, match="not possible with a logging configuration of your own"):
        Config("a:b", log_config={"version": 1}, **option)
    with pytest.raises(ConfigError):
        Config("a:b", log_config=None, **option)
    monkeypatch.setitem(LOGGING_CONFIG, "loggers", copy.deepcopy(LOGGING_CONFIG["loggers"]))
    LOGGING_CONFIG["loggers"]["uvicorn"]["level"] = "ERROR"
    with pytest.raises(ConfigError, match="a changed LOGGING_CONFIG"):
        Config("a:b", **option)
