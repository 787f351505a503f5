"""The log handler, writing to a pipe, socket or terminal that nobody reads."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pty
import select
import socket
import termios
import threading

import pytest
from support import PATIENCE

from thestral.logging import output
from thestral.logging.loggers import error_logger
from thestral.logging.output import BoundedStreamHandler

CAPACITY = 65536  # bytes of a pipe
LONG = "x" * 3000


@pytest.fixture
def waits(monkeypatch):
    """The waits for a reader that the handler asked for, in milliseconds; none takes place."""
    waits = []
    poll_of = output.poll_of

    class Poll:
        def __init__(self, poll):
            self._poll = poll

        def poll(self, patience):
            ready = self._poll.poll(0)
            if ready or not patience:
                return ready
            waits.append(patience)
            return []

    def counting(stream):
        poll = poll_of(stream)
        return Poll(poll) if poll is not None else None

    monkeypatch.setattr(output, "poll_of", counting)
    return waits


@pytest.fixture
def write(monkeypatch):
    """Function (stream) that sends the error log to the stream, and returns the log's error()."""
    monkeypatch.setattr(error_logger, "propagate", False)

    def install(stream):
        handler = BoundedStreamHandler(stream)
        monkeypatch.setattr(error_logger, "handlers", [handler])
        return error_logger.error

    return install


def read_all(file):
    """Return all that can be read now."""
    received = b""
    while select.select([file], [], [], 0)[0]:
        received += os.read(file.fileno(), CAPACITY)
    return received.decode()


def fill(write, waits):
    """Write numbered lines until one has waited for the reader; return their number."""
    count = 0
    while not waits:
        write("%d %s", count, LONG)
        count += 1
        assert count < 1000
    return count


@contextlib.contextmanager
def open_pipe():
    ours, theirs = os.pipe()
    with open(ours, "rb", buffering=0) as reader, open(theirs, "w") as writer:
        yield reader, writer


@contextlib.contextmanager
def open_socket():
    """A socket such as the one through which systemd's journal reads a service's output."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, open(theirs.detach(), "w") as writer:
        yield ours, writer


@contextlib.contextmanager
def open_terminal():
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as reader, open(theirs, "w") as writer:
        yield reader, writer


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [open_pipe, open_socket, open_terminal])
def test_reader_is_waited_for_once_then_lines_are_lost_and_counted(write, waits, kind):
    with kind() as (reader, writer):
        error = write(writer)
        count = fill(error, waits)
        assert 900 <= waits[0] <= output.READER_PATIENCE
        for number in range(count, count + 10):
            error("%d %s", number, LONG)
        assert len(waits) == 1  # the handler does not wait a second time
        before = read_all(reader).replace("\r\n", "\n")
        error("back")
        after = read_all(reader).replace("\r\n", "\n")
    kept = before.count("\n")
    assert [line.split()[0] for line in before.splitlines()][:kept] == [*map(str, range(kept))]
    name = str(writer.name).strip("<>")
    said = f"{count + 10 - kept} lines of the log were lost: nobody read {name}\nback\n"
    cut = not before.endswith("\n")
    assert after == f"\n{said}" if cut else after == said


def test_stopped_terminal_counts_as_unread(write, waits):
    with open_terminal() as (reader, writer):
        error = write(writer)
        termios.tcflow(writer.fileno(), termios.TCOOFF)  # Ctrl-S
        error("lost")
        error("lost, too")
        assert len(waits) == 1
        termios.tcflow(writer.fileno(), termios.TCOON)
        error("back")
        said = f"2 lines of the log were lost: nobody read {writer.name}"
        assert read_all(reader).splitlines() == [said, "back"]


def test_lost_lines_are_reported_at_the_end(write, waits):
    with open_pipe() as (reader, writer):
        count = fill(write(writer), waits)
        kept = read_all(reader).count("\n")
        (handler,) = error_logger.handlers
        handler.flush()  # as logging.shutdown() does
        said = f"{count - kept} lines of the log were lost: nobody read {writer.name}\n"
        assert read_all(reader) == said
        handler.flush()
        assert read_all(reader) == ""


@pytest.mark.timeout(60)
def test_end_does_not_wait_for_a_reader(write, waits):
    with open_pipe() as (reader, writer):
        fill(write(writer), waits)
        error_logger.handlers[0].flush()
        assert len(waits) == 1
        read_all(reader)


def test_notice_that_is_lost_keeps_the_count(write, waits, monkeypatch):
    with open_pipe() as (reader, writer):
        error = write(writer)
        count = fill(error, waits)
        kept = read_all(reader).count("\n")
        writes = BoundedStreamHandler._write

        def fail(self, text, poll):
            self._lost += 1

        monkeypatch.setattr(BoundedStreamHandler, "_write", fail)
        error("lost with its notice")
        monkeypatch.setattr(BoundedStreamHandler, "_write", writes)
        error("back")
        lost = count - kept + 2
        said = f"{lost} lines of the log were lost: nobody read {writer.name}\nback\n"
        assert read_all(reader) == said


def test_lost_lines_are_told_without_the_lock(write, waits):
    """Otherwise two such handlers of one logger, in two threads, could wait for each other."""
    free = []

    class Other(logging.Handler):
        def emit(self, record):
            looking = threading.Thread(target=self.look)
            looking.start()
            looking.join()

        def look(self):
            free.append(handler.lock.acquire(timeout=PATIENCE))
            handler.lock.release()

    with open_pipe() as (reader, writer):
        error = write(writer)
        fill(error, waits)
        read_all(reader)
        (handler,) = error_logger.handlers
        error_logger.handlers.append(Other())
        error("back")
    assert free == [True, True]  # for the notice of lost lines, and for this line


def test_slow_reader_loses_nothing(write):
    text = "\n".join(f"{number} {LONG}" for number in range(3 * CAPACITY // len(LONG)))
    received = []
    with open_pipe() as (reader, writer):

        def read():
            while sum(map(len, received)) <= len(text):
                received.append(reader.read(4096))

        reading = threading.Thread(target=read)
        reading.start()
        write(writer)("%s", text)
        reading.join()
    assert b"".join(received).decode() == f"{text}\n"


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_stream_without_a_descriptor_is_written_to_as_before(write, monkeypatch, stream):
    captured = stream or io.StringIO()
    monkeypatch.setattr("sys.stderr", captured)
    write(stream)("a line")
    assert captured.getvalue() == "a line\n"


def test_handler_of_last_resort_is_bounded_unless_replaced(monkeypatch, capsys):
    class Own(logging.Handler):
        pass

    monkeypatch.setattr(logging, "lastResort", logging.lastResort)
    for given in (Own(), None):
        logging.lastResort = given
        output.bound_last_resort()
        assert logging.lastResort is given
    logging.lastResort = logging._StderrHandler(logging.WARNING)
    output.bound_last_resort()
    output.bound_last_resort()
    assert type(logging.lastResort) is output.LastResortHandler
    assert logging.lastResort.level == logging.WARNING
    logging.lastResort.handle(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().err == "a line\n"


def test_file_is_written_to_as_before(write, waits, tmp_path):
    with (tmp_path / "log").open("w") as file:
        error = write(file)
        for _ in range(100):
            error(LONG)
    assert (tmp_path / "log").read_text() == f"{LONG}\n" * 100
    assert waits == []


def test_closed_reader_is_only_a_logging_error(write, capsys):
    ours, theirs = os.pipe()
    writer = open(theirs, "w")  # noqa: SIM115
    os.close(ours)
    write(writer)("a line")
    assert "BrokenPipeError" in capsys.readouterr().err
    with contextlib.suppress(BrokenPipeError):
        writer.close()


@pytest.mark.parametrize("character", ["a", "\u00e9", "\U0001f600", "\udc80"])
@pytest.mark.parametrize("count", [output.BATCH - 1, output.BATCH, output.BATCH + 1])
def test_no_piece_is_longer_than_a_pipe_takes_at_once(character, count):
    text = f"short\n{character * count}\nshort\n"
    cut = list(output.pieces(text, output.BATCH))
    assert "".join(cut) == text
    for encoding in ("utf-8", "ascii"):
        assert all(len(part.encode(encoding, "backslashreplace")) <= 4096 for part in cut)


def test_pieces_end_with_lines():
    text = f"{LONG}\n" * 5
    assert list(output.pieces(text, output.BATCH)) == [f"{LONG}\n"] * 5
