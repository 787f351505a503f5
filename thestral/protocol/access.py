"""AccessLog: one line for each response of a worker.

As long as the access logger is as the server set it up, lines are formatted here and written in
batches. Otherwise each line is a LogRecord and goes through logging. Both ways give the same bytes.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import fnmatch
import logging
import os
import re
import select
import time
import weakref
from collections.abc import Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

from thestral._core.http1 import reason_phrase
from thestral._core.log import LineBuffer, escaped, find_field, monotonic, wall_clock
from thestral.logging import levels
from thestral.logging.format import DEFAULT, Atom, is_json, read_format, whole_format
from thestral.logging.formatters import AccessFormatter
from thestral.logging.jsonlines import LINE, JsonFormatter, ThisProcess, utc
from thestral.logging.loggers import access_logger, error_logger
from thestral.logging.names import request_id, with_id
from thestral.logging.output import (
    BATCH,
    READER_PATIENCE,
    BoundedStreamHandler,
    LogFileHandler,
    is_stderr,
    poll_of,
)
from thestral.logging.running import ATTRIBUTE, about
from thestral.logging.setup import line_format_of
from thestral.protocol.clock import MONTHS

if TYPE_CHECKING:
    from thestral.protocol.exchange import Exchange

# Kinds of parts of a line.
LITERAL = 0
CLIENT_HOST = 1
USER = 2
TIME = 3
REQUEST = 4
STATUS = 5
METHOD = 6
PATH = 7
QUERY = 8
PROTOCOL = 9
BYTES_OR_NONE = 10
BYTES = 11
SECONDS = 12
MICROSECONDS = 13
MILLISECONDS = 14
DECIMAL_SECONDS = 15
REQUEST_FIELD = 16
RESPONSE_FIELD = 17
CLIENT = 18
STATUS_LINE = 19
ISO_TIME = 20
ABORTED = 21
REQUEST_ID = 22
UTC_TIME = 23
VERSION = 24
TRACE_ID = 25
SPAN_ID = 26
IDS = 27

KINDS = {
    "h": CLIENT_HOST,
    "u": USER,
    "t": TIME,
    "r": REQUEST,
    "s": STATUS,
    "m": METHOD,
    "U": PATH,
    "q": QUERY,
    "H": PROTOCOL,
    "b": BYTES_OR_NONE,
    "B": BYTES,
    "T": SECONDS,
    "D": MICROSECONDS,
    "M": MILLISECONDS,
    "L": DECIMAL_SECONDS,
    "i": REQUEST_FIELD,
    "o": RESPONSE_FIELD,
}
EXTENSION_KINDS = {
    "client": CLIENT,
    "status": STATUS_LINE,
    "time": ISO_TIME,
    "aborted": ABORTED,
    "utc": UTC_TIME,
    "version": VERSION,
    "request_id": REQUEST_ID,
    "trace_id": TRACE_ID,
    "span_id": SPAN_ID,
    "ids": IDS,
}
# Kinds that need the fields of the request.
FIELDS = (REQUEST_FIELD, REQUEST_ID, USER)
DURATIONS = (SECONDS, MICROSECONDS, MILLISECONDS, DECIMAL_SECONDS)
GLOB = frozenset("*?[")  # what makes a pattern of a path
INFO = logging.INFO
# nginx's status for a request whose client was gone before there was a response.
CLIENT_CLOSED_REQUEST = 499
# How much may wait in memory for the reader of a pipe. Beyond that the server waits for the reader
# for READER_PATIENCE; after that, lines are lost until the reader has read everything that waits.
WAITING_MAX = 1024 * 1024  # bytes
# Prefix of a record's message if the line is already formatted. It consumes the record's arguments,
# which are uvicorn's for filters and handlers that read them, and prints nothing.
NO_ARGUMENTS = "%.0s" * 5
# Methods of Logger that a record passes through.
LOGGER_METHODS = ("info", "_log", "makeRecord", "handle", "callHandlers")


class Part:
    """A part of a line: its kind, and its literal text or the name of a field."""

    def __init__(self, kind: int, text: bytes) -> None:
        self.kind = kind
        self.text = text


class AccessLog:
    """The access log of one worker.

    Args:
        text: the format, as read_format() takes it.
        enabled: whether to log at all.
        log_format, timestamps, request_ids: as whole_format() takes them.
        exclude: patterns of paths that are not logged, as in a shell; "*" also stands for slashes.
        slow: duration in seconds above which a request is logged as a warning, whether it is
            excluded or the log is enabled at all; 0.0 for never.

    Attributes:
        enabled: whether record() is to be called. It checks the access logger's level each time.
        keeps_fields: whether record() needs the request's fields.
        timed: whether record() needs the time at which the request began.
        keeps_head: whether record() needs the response's head.
    """

    def __init__(
        self,
        text: str,
        enabled: bool,
        log_format: str = "text",
        timestamps: bool = False,
        request_ids: bool = False,
        exclude: Sequence[str] = (),
        slow: float = 0.0,
    ) -> None:
        self._default = text == DEFAULT
        self._is_json = log_format == "json"
        self._has_ids = request_ids
        self._exclusion = Exclusion(exclude) if exclude else None
        self._slow = slow
        self._line_format = line_format_of(self._default, timestamps, request_ids)
        text = whole_format(text, log_format, timestamps, request_ids)
        json = is_json(text)
        parts = [make_part(atom, json) for atom in read_format(text)]
        kinds = {part.kind for part in parts}
        self._parts = parts
        self._dated = not kinds.isdisjoint((TIME, ISO_TIME, UTC_TIME))
        self._kinds = kinds
        self._lines = LineBuffer(json)
        self._status_lines: dict[int, bytes] = {}
        self._logger = access_logger
        self._handler: Any = None
        self._formatter: Any = None
        self._second = -1
        self._clf_time = b""
        self._iso_time = b""
        self._utc_time = b""
        self._zone = b""
        self._failed = False
        self._stream: Any = None
        self._poll: select.poll | None = None  # polls the stream if it is a pipe or a socket
        self._lost = 0  # lines lost since the reader of the pipe fell behind
        # Without the log, what the access logger looked like; a change of that begins the log.
        self._silent = None if enabled else outputs_of(self._logger)
        self._set_logging(enabled)
        LOGS.add(self)

    def _set_logging(self, logs: bool) -> None:
        kinds = self._kinds
        self._logs = logs
        self.enabled = logs or self._slow > 0.0
        self.timed = logs and not kinds.isdisjoint(DURATIONS)
        self.keeps_fields = logs and not kinds.isdisjoint(FIELDS)
        self.keeps_head = logs and RESPONSE_FIELD in kinds
        self._handler = None
        if logs:
            self._find_handler()

    def refresh(self) -> None:
        """Follow changes of the access logger: handlers that the program has added, removed or
        replaced. Called once a second, in the thread of the loop.
        """
        if self._silent is not None and self._logs == (self._silent == outputs_of(self._logger)):
            self.flush()
            self._set_logging(not self._logs)
        elif self._logs and not self.is_direct():
            self.flush()
            self._handler = None
            self._find_handler()

    def _find_handler(self) -> None:
        """Find the handler whose stream may get lines without a LogRecord. It must format lines as
        this class does, without colours, and not write to a terminal, where each line should
        appear at once.
        """
        if len(self._logger.handlers) != 1 or is_patched(self._logger):
            return
        handler = self._logger.handlers[0]
        formatter = handler.formatter
        if (
            isinstance(handler, logging.StreamHandler)
            and type(handler) in (logging.StreamHandler, BoundedStreamHandler, LogFileHandler)
            and self._formats_alike(formatter)
            and handler.terminator == "\n"
            and not getattr(handler.stream, "isatty", bool)()
        ):
            self._handler = handler
            self._formatter = formatter

    def _formats_alike(self, formatter: Any) -> bool:
        """Whether a formatter makes the lines that this class makes, or passes them on."""
        if self._is_json:
            return type(formatter) is JsonFormatter
        return (
            type(formatter) is AccessFormatter
            and formatter._fmt == self._line_format
            and not formatter.use_colors
        )

    def record(self, exchange: Exchange, aborted: bool) -> None:
        """Log an exchange that has ended.

        Args:
            aborted: the response is not complete.
        """
        if exchange.raw_path is None and exchange.request is not None:
            exchange.raw_path = exchange.request.raw_path  # the log has been enabled meanwhile
        if self._slow > 0.0:
            try:
                self._check_duration(exchange, aborted)
            except Exception:  # as below
                error_logger.exception("A slow request could not be logged")
        if not (self._logs and self._logger.isEnabledFor(INFO)):
            return
        if self._exclusion is not None and self._exclusion.matches(exchange.raw_path):
            return
        lines = self._lines
        if lines.size() > WAITING_MAX and not self._has_room():
            self._lost += 1
            return
        try:
            if not self.is_direct():
                self.flush()  # keeps the order of the lines
                self._log(exchange, aborted)
                return
            self._format(exchange, aborted)
            lines.end_line()
        except Exception:
            # A bad value for "client" that the application put into its scope must not end the
            # connection.
            lines.drop_line()
            error_logger.exception("A line of the access log could not be written")
            return
        if lines.size() > BATCH:
            self._write(BATCH)

    def is_direct(self) -> bool:
        """Whether the access logger is as the server set it up, so that nobody needs records."""
        handler = self._handler
        if handler is None:
            return False
        logger = self._logger
        handlers = logger.handlers
        return bool(
            len(handlers) == 1
            and handlers[0] is handler
            and handler.formatter is self._formatter
            and not logger.filters
            and not handler.filters
            and not logger.propagate
            and handler.level <= INFO
        )

    def _check_duration(self, exchange: Exchange, aborted: bool) -> None:
        """Log a warning if the exchange has taken too long."""
        trace = exchange.trace
        if trace is None or exchange.request is None:
            return
        now = monotonic()
        duration = now - trace.began
        if duration <= self._slow:
            return
        request = exchange.request
        client = client_of(exchange)
        first = trace.first_byte - trace.began if trace.first_byte > 0.0 else None
        path = escaped(exchange.raw_path)
        error_logger.warning(
            "Slow request: %s %s%s: %.3f s, first byte after %s, status %d, %d bytes, client %s%s",
            request.method,
            path,
            with_id(trace),
            duration,
            "-" if first is None else f"{first:.3f} s",
            status_of(exchange),
            exchange.sent,
            f"{client[0]}:{client[1]}" if client else "-",
            ", aborted" if aborted else "",
            extra={
                ATTRIBUTE: trace,
                "method": request.method,
                "path": path,
                "version": request.http_version,
                "client": client[0] if client else "",
                "status": status_of(exchange),
                "bytes": exchange.sent,
                "duration": round(duration, 6),
                "first_byte": None if first is None else round(first, 6),
                "aborted": bool(aborted),
            },
        )

    def _log(self, exchange: Exchange, aborted: bool) -> None:
        """Log the line as a LogRecord with uvicorn's arguments."""
        client = client_of(exchange)
        address = f"{client[0]}:{client[1]}" if client else ""
        request = exchange.request
        method = target = "-"
        if request is not None:
            method = request.method
            query = request.query
            target = escaped(exchange.raw_path + b"?" + query if query else exchange.raw_path)
        text = '%s - "%s %s HTTP/%s" %d'
        extra: dict[str, Any] | None = None
        if self._has_ids and exchange.trace is not None:
            extra = {"request_id": exchange.trace.request_id}
        if self._is_json or not self._default:
            lines = self._lines
            self._format(exchange, aborted)
            line = lines.take_line()
            if self._is_json:
                extra = {LINE: line, **(about(exchange.trace) or {})}
            if not self._default:
                text = NO_ARGUMENTS + line.replace("%", "%%")
        self._logger.info(
            text,
            address,
            method,
            target,
            "1.1" if request is None else request.http_version,
            status_of(exchange),
            extra=extra,
        )

    def _format(self, exchange: Exchange, aborted: bool) -> None:
        """Append a line, without its line end."""
        lines = self._lines
        request = exchange.request
        client = client_of(exchange)
        status = status_of(exchange)
        sent = exchange.sent
        began = exchange.began
        microseconds = 0
        now = 0.0
        if self._dated:
            now = wall_clock()
            if int(now) != self._second:
                self._read_clock(int(now))
        if self.timed and began > 0.0:
            microseconds = int((monotonic() - began) * 1e6)
        for part in self._parts:
            kind = part.kind
            if kind == LITERAL:
                lines.append(part.text)
            elif kind == CLIENT:
                if client:
                    host, port = client
                    lines.append_text(host)
                    lines.append(b":")
                    lines.append_decimal(port)
            elif kind == REQUEST:
                lines.append_text("-" if request is None else request.method)
                lines.append(b" ")
                self._target(exchange)
                lines.append(b" HTTP/")
                lines.append_text("1.1" if request is None else request.http_version)
            elif kind == STATUS_LINE:
                if status not in self._status_lines:
                    self._status_lines[status] = status_line(status)
                lines.append(self._status_lines[status])
            elif kind == CLIENT_HOST:
                if client:
                    lines.append_text(client[0])
                else:
                    self._absent()
            elif kind == TIME:
                lines.append(self._clf_time)
            elif kind == STATUS:
                lines.append_decimal(status)
            elif kind == BYTES or (kind == BYTES_OR_NONE and (sent > 0 or lines.json)):
                lines.append_decimal(sent)
            elif kind == REQUEST_FIELD:
                self._value(find_field(exchange.fields or (), part.text))
            elif kind == DECIMAL_SECONDS:
                lines.append_decimal(microseconds // 1000000)
                lines.append_fraction(microseconds % 1000000, 1000000)
            elif kind == MICROSECONDS:
                lines.append_decimal(microseconds)
            elif kind == MILLISECONDS:
                lines.append_decimal(microseconds // 1000)
            elif kind == SECONDS:
                lines.append_decimal(microseconds // 1000000)
            elif kind == METHOD:
                if request is None:
                    self._absent()
                else:
                    lines.append_text(request.method)
            elif kind == PATH:
                self._value(exchange.raw_path)
            elif kind == QUERY:
                if request is not None:
                    lines.append_value(request.query)
            elif kind == PROTOCOL:
                lines.append(b"HTTP/")
                lines.append_text("1.1" if request is None else request.http_version)
            elif kind == ISO_TIME:
                lines.append(self._iso_time)
                lines.append_fraction(int((now - self._second) * 1000), 1000)
                lines.append(self._zone)
            elif kind == UTC_TIME:
                lines.append(self._utc_time)
                lines.append_fraction(int((now - self._second) * 1000), 1000)
                lines.append(b"Z")
            elif kind == VERSION:
                lines.append_text("1.1" if request is None else request.http_version)
            elif kind == ABORTED:
                lines.append(b"true" if aborted else b"false")
            elif kind == REQUEST_ID:
                if exchange.trace is None:
                    self._value(request_id(exchange.fields))
                else:
                    self._id(exchange.trace.request_id)
            elif kind == TRACE_ID:
                self._id("" if exchange.trace is None else exchange.trace.trace_id)
            elif kind == SPAN_ID:
                self._id("" if exchange.trace is None else exchange.trace.span_id)
            elif kind == IDS:
                self._ids(exchange)
            elif kind == USER:
                self._value(user_of(exchange.fields))
            elif kind == RESPONSE_FIELD:
                self._value(field_of(exchange.head, part.text))
            else:  # BYTES_OR_NONE without content
                self._absent()

    def _target(self, exchange: Exchange) -> None:
        lines = self._lines
        request = exchange.request
        if request is None:
            lines.append(b"-")
            return
        lines.append_value(exchange.raw_path)
        if request.query:
            lines.append(b"?")
            lines.append_value(request.query)

    def _ids(self, exchange: Exchange) -> None:
        """Append the request's ids as members of a JSON object, each with a comma behind it."""
        trace = exchange.trace
        if trace is None:
            return
        self._member(b'"request_id":"', trace.request_id)
        self._member(b'"trace_id":"', trace.trace_id)
        self._member(b'"span_id":"', trace.span_id)

    def _member(self, name: bytes, value: str) -> None:
        if value:
            lines = self._lines
            lines.append(name)
            lines.append_text(value)
            lines.append(b'",')

    def _id(self, value: str) -> None:
        if value:
            self._lines.append_text(value)
        else:
            self._absent()

    def _value(self, value: bytes | None) -> None:
        if value:
            self._lines.append_value(value)
        else:
            self._absent()

    def _absent(self) -> None:
        """Append the sign for a missing value: Apache's hyphen, or an empty JSON string."""
        if not self._lines.json:
            self._lines.append(b"-")

    def _read_clock(self, second: int) -> None:
        """Format the time, once a second."""
        self._second = second
        local = time.localtime(second)
        minutes = local.tm_gmtoff // 60
        sign = "-" if minutes < 0 else "+"
        hours, minutes = divmod(abs(minutes), 60)
        clock = f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
        date = f"{local.tm_mday:02}/{MONTHS[local.tm_mon - 1]}/{local.tm_year}"
        self._clf_time = f"[{date}:{clock} {sign}{hours:02}{minutes:02}]".encode()
        day = f"{local.tm_year:04}-{local.tm_mon:02}-{local.tm_mday:02}"
        self._iso_time = f"{day}T{clock}".encode()
        self._utc_time = utc(second).partition(".")[0].encode()
        self._zone = f"{sign}{hours:02}:{minutes:02}".encode()

    # --- Writing ------------------------------------------------------------------------------

    def flush(self) -> bool:
        """Write the waiting lines; return whether some still wait for the reader of a pipe."""
        self._write(0)
        return self._lines.size() > 0

    def _write(self, most_left: int) -> None:
        """Write lines, holding the handler's lock, until at most `most_left` bytes are left or a
        write would block.
        """
        lines = self._lines
        handler = self._handler
        while lines.size() > most_left and self._can_write(0):
            text = lines.take(BATCH, self._poll is None)
            handler.acquire()
            try:
                handler.stream.write(text)
                handler.stream.flush()
                self._failed = False
            except Exception as error:
                # A full disk or a closed pipe is logged once, not for each batch.
                if not self._failed:
                    self._failed = True
                    error_logger.error("The access log cannot be written: %s", error)
            finally:
                handler.release()
        if self._lost and lines.size() == 0:
            self._report_lost()

    def _can_write(self, patience: int) -> bool:
        """Wait until a batch can be written without blocking, at most `patience` milliseconds;
        return whether it can.
        """
        stream = self._handler.stream
        if stream is not self._stream:
            self._stream = stream
            self._poll = poll_of(stream)
        return self._poll is None or bool(self._poll.poll(patience))

    def _has_room(self) -> bool:
        """Whether a line may be added although many lines wait. A slow reader slows the server
        down, but a reader that has stopped must not stop the server.
        """
        lines = self._lines
        self._write(WAITING_MAX)
        if self._lost == 0:
            while lines.size() > WAITING_MAX and self._can_write(READER_PATIENCE):
                self._write(WAITING_MAX)
            if lines.size() > WAITING_MAX and not is_stderr(self._stream):
                error_logger.error("Nobody reads the access log: from now on its lines are lost")
        return lines.size() <= WAITING_MAX

    def drain(self) -> None:
        """Write the waiting lines, as long as the stream's reader reads."""
        while self.flush() and self._can_write(READER_PATIENCE):
            pass

    def forget(self) -> None:
        """Drop the waiting lines."""
        while self._lines.size() > 0:
            self._lost += self._lines.take(BATCH, True).count("\n")

    def _report_lost(self) -> None:
        error_logger.error("%d lines of the access log were lost: nobody read it", self._lost)
        self._lost = 0

    def close(self) -> None:
        """Write the waiting lines. Later lines go through logging, which writes each at once."""
        self.drain()
        self.forget()
        if self._lost and not is_stderr(self._stream):
            self._report_lost()
        self._handler = None
        LOGS.discard(self)  # no handler is to be found again


class Exclusion:
    """Patterns of paths that are not logged, compared with the path as a line shows it."""

    def __init__(self, patterns: Sequence[str]) -> None:
        # Most are names, such as /healthz, or the beginnings of names, such as /static/*: a search
        # would cost ten times as much.
        names = [each for each in patterns if GLOB.isdisjoint(each)]
        begins = [
            each
            for each in patterns
            if each.endswith("*") and GLOB.isdisjoint(each.removesuffix("*"))
        ]
        globs = [each for each in patterns if each not in names and each not in begins]
        self._names = frozenset(map(os.fsencode, names))
        self._begins = tuple([os.fsencode(each.removesuffix("*")) for each in begins])
        self._pattern: re.Pattern[bytes] | None = None
        if globs:
            self._pattern = re.compile(os.fsencode("|".join(map(fnmatch.translate, globs))))

    def matches(self, path: bytes | None) -> bool:
        if path is None:  # the head was refused
            return False
        if path in self._names or path.startswith(self._begins):
            return True
        return self._pattern is not None and self._pattern.match(path) is not None


def outputs_of(logger: logging.Logger) -> tuple[list[logging.Handler], bool]:
    """What decides where a logger's records go."""
    return list(logger.handlers), logger.propagate


def is_patched(logger: logging.Logger) -> bool:
    """Whether records of a logger pass through a function from outside the logging module. Agents
    that forward logs patch its classes.
    """
    functions = [getattr(type(logger), name) for name in LOGGER_METHODS]
    functions += [logging.Handler.handle, logging.StreamHandler.emit]
    return not all(
        type(function) is FunctionType and function.__globals__ is vars(logging)
        for function in functions
    )


def make_part(atom: Atom, json: bool) -> Part:
    """Make the part of a line for an atom. Values that are the same in all lines are literals."""
    letter, name = atom
    if letter == "":
        return Part(LITERAL, name.encode())
    if letter == "l":
        return Part(LITERAL, b"" if json else b"-")
    if letter == "p":
        return Part(LITERAL, str(os.getpid()).encode())
    if letter == "e":
        constant = LineBuffer(json)
        constant.append_value(os.environ.get(name, "" if json else "-").encode(errors="replace"))
        return Part(LITERAL, constant.take_line().encode())
    if letter == "x" and name == "worker":
        worker = ThisProcess.worker
        return Part(LITERAL, b"null" if worker is None else str(worker).encode())
    if letter == "x":
        return Part(EXTENSION_KINDS[name], b"")
    if letter == "f":
        return Part(REQUEST_FIELD, b"referer")
    if letter == "a":
        return Part(REQUEST_FIELD, b"user-agent")
    return Part(KINDS[letter], name.lower().encode())


def status_line(status: int) -> bytes:
    """Return the status and its reason phrase, as AccessFormatter writes them."""
    return f"{status} {reason_phrase(status)}".rstrip().encode()


def client_of(exchange: Exchange) -> Any:
    """Return the client of the scope, which a middleware may have changed; without a scope, the
    client that the server found.
    """
    scope = exchange.scope
    return exchange.client if scope is None else scope.get("client", exchange.client)


def status_of(exchange: Exchange) -> int:
    return exchange.status or CLIENT_CLOSED_REQUEST


def user_of(fields: tuple[tuple[bytes, bytes], ...] | None) -> bytes | None:
    """Return the user name of Basic authentication (RFC 7617 section 2)."""
    value = find_field(fields or (), b"authorization")
    if not value or value[:6].lower() != b"basic ":
        return None
    try:
        return base64.b64decode(value[6:].strip()).partition(b":")[0]
    except binascii.Error:
        return None


def field_of(head: bytes | None, name: bytes) -> bytes | None:
    """Return the value of the first field with this lower-case name in a response head."""
    if head is None:
        return None
    at = head.lower().find(b"\r\n" + name + b": ")
    if at < 0:
        return None
    start = at + len(name) + 4
    return head[start : head.index(b"\r\n", start)]


def drain_all() -> None:
    for log in list(LOGS):
        log.drain()


def refresh_all() -> None:
    for log in list(LOGS):
        log.refresh()


def forget_all() -> None:
    for log in list(LOGS):
        log.forget()


# Waiting lines are written before the process exits, whatever ends it. A fork drops the copies in
# the child, so that each line is written once.
LOGS: weakref.WeakSet[AccessLog] = weakref.WeakSet()
atexit.register(drain_all)
levels.observers.append(refresh_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_all)
