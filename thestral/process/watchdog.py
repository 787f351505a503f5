"""Watchdog: logs where an event loop is blocked while it is blocked, and afterwards for how long
and by which request.
"""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import logging
import math
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

from thestral._csrc import ffi, lib
from thestral.logging.loggers import error_logger
from thestral.logging.names import title_of
from thestral.process.memory import new_memory
from thestral.process.signals import free_signal
from thestral.protocol.runner import scope_of

TURNS_PER_LIMIT = 4  # how often the loop records within the limit that it turns
FASTEST_TURN = 0.01  # shortest time between two of these records, in seconds
SLOWEST_TURN = 1.0  # longest time, in seconds
# How long the watchdog tries to log a stack. If it takes longer, the GIL is held or logging is
# blocked, and the stack is written to stderr without either.
GRACE = 0.2  # seconds
# Within this time, one block in each function is logged, and at most this many in all.
TOLD_TIME = 60.0  # seconds
TOLD_STACKS = 10
DEEPEST = 100  # calls of a stack that are shown; faulthandler's limit, too
NANO = 1_000_000_000
LARGEST_DUMP = 1 << 16  # bytes
STDERR = 2
# A call as faulthandler shows it.
DUMPED_CALL = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$', re.M)
# A loop with one of these modules in its stack was paused by a developer.
DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd_bundle", "_pydevd_frame_eval", "debugpy")

Code = tuple[str, str]  # file and name of a function

# Keeps every th_watch for ever: a signal may still be on its way to one that has ended.
_kept: list[Any] = []


class Watchdog:
    """Watches an event loop from a thread of its own.

    The thread waits in C, without the GIL (csrc/watch.c). When the loop has not turned for the
    limit, the thread takes the GIL and logs the stack of the loop's thread. If it does not come
    back to wait, because it does not get the GIL or the log is blocked, a timer of the kernel
    interrupts the loop's thread, and the handler of that signal writes the stack to stderr.

    Args:
        loop: the loop that is running in this thread.
        limit: how long the loop may be blocked, in seconds.
        on_blocked: called in the watching thread when the loop is blocked, with the name of the
            request in which it is blocked ("" if unknown), and when it turns again, with None.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: float,
        on_blocked: Callable[[str | None], None] = lambda title: None,
    ) -> None:
        self._loop = loop
        self._limit = limit
        self._on_blocked = on_blocked
        self._interval = min(max(limit / TURNS_PER_LIMIT, FASTEST_TURN), SLOWEST_TURN)
        self._timer: asyncio.Handle | None = None
        self._loops_thread = threading.get_ident()
        self._depth = 0  # calls at the bottom of that thread's stack: the loop's and its callers'
        self._block: Block | None = None
        self._told = Told()
        self._thread = threading.Thread(target=self._run, name="thestral-watchdog", daemon=True)
        self._reader, self._writer = os.pipe()
        self._watch = ffi.new("th_watch *")
        _kept.append(self._watch)
        self._watch.interval = round(self._interval * NANO)
        self._watch.limit = round(limit * NANO)
        self._watch.wake = self._reader
        self._prepare_dump()

    def _prepare_dump(self) -> None:
        """Prepare a signal whose handler writes this thread's stack, where that is possible."""
        watch, dump = self._watch, make_dump()
        if dump is None:
            return
        watch.thread = threading.get_native_id()
        watch.signal, watch.dump, watch.memory = dump.signal, dump.function, dump.memory
        watch.grace = round(GRACE * NANO)
        watch.pause = round(TOLD_TIME * NANO)
        watch.output = STDERR
        heading = f"WARNING:  The event loop has been blocked for {self._limit:.1f} s. "
        watch.heading = heading.encode()
        watch.heading_length = len(heading)

    @property
    def native_id(self) -> int:
        """The kernel's id of the watching thread; 0 if unknown."""
        return self._thread.native_id or 0

    def start(self) -> None:
        """Begin to watch; called in the loop.

        Raises:
            RuntimeError: the thread cannot be started.
        """
        lib.th_watch_begin(self._watch)
        try:
            self._thread.start()
        except BaseException:
            self._close()
            raise
        self._timer = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        """End the watching thread; called in the loop."""
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._writer)
        self._writer = -1
        self._thread.join()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        lib.th_watch_end(self._watch)

    def _turn(self) -> None:
        """Record that the loop turns, now and at regular intervals."""
        lib.th_watch_turn(self._watch)
        if not self._depth:
            self._depth = len(list(traceback.walk_stack(sys._getframe(1))))
        self._timer = self._loop.call_later(self._interval, self._turn)

    # --- In the watching thread -----------------------------------------------------------------

    def _run(self) -> None:
        while (event := lib.th_watch_wait(self._watch)) != lib.TH_WATCH_STOPPED:
            try:
                if event == lib.TH_WATCH_LATE:
                    self._on_late()
                elif event == lib.TH_WATCH_TURNED:
                    self._on_turned(self._watch.blocked / NANO)
                self._told.sum_up(time.monotonic())
            except Exception:
                error_logger.exception("The watchdog of the event loop failed")
            due = self._told.due
            self._watch.alarm = round(due * NANO) if due < math.inf else 0
        if self._watch.late:
            self._on_turned((lib.th_now() - self._watch.seen) / NANO - self._interval)
        self._told.sum_up(math.inf)

    def _on_late(self) -> None:
        """Log where the loop is blocked."""
        frame = sys._current_frames().get(self._loops_thread)
        frames = [frame for frame, _ in itertools.islice(traceback.walk_stack(frame), DEEPEST)]
        self._block = None
        if not self._loop.is_running() or any(map(is_of_debugger, frames)):
            return
        calls: list[Call] = [call_of(frame) for frame in frames]
        interrupted = bool(self._watch.dumped)
        if interrupted:
            # Since the dump the loop may have gone on to something else.
            dumped = read_dump(self._watch.memory)
            same = bool(dumped) and dumped[0].code in {call.code for call in calls}
            calls = dumped
        else:
            same = self._watch.turned == self._watch.seen
            calls = calls if same else []
        title = self._request(frames) if same else ""
        self._on_blocked(title)
        place = calls[0].code if calls else ("", "")
        self._block = Block(title, self._told.may_tell(place, time.monotonic()))
        if self._block.told and calls:
            log_with_stack(
                stack_text(calls, self._depth),
                "The event loop has been blocked for %.1f s%s%s",
                self._limit,
                self._block.where,
                ", by a call that held the GIL" if interrupted else "",
            )

    def _on_turned(self, seconds: float) -> None:
        """Log how long the loop was blocked: this long, or longer."""
        self._on_blocked(None)
        block, self._block = self._block, None
        if block is None:
            return
        if block.told:
            text = "The event loop turns again; it was blocked for %.1f s%s"
            error_logger.warning(text, seconds, block.where)
        else:
            self._told.leave_out(seconds, time.monotonic())

    def _request(self, frames: list[FrameType]) -> str:
        """Name of the request that the loop's thread is working on; "" if there is none."""
        task = asyncio.current_task(self._loop)
        scope = scope_of(task) if task is not None else None
        if scope is None:  # perhaps a task that the application has started within a request
            scope = next(filter(None, map(local_scope, frames)), None)
        return title_of(scope) if scope is not None else ""


@dataclass(frozen=True)
class Block:
    """The present block.

    Attributes:
        title: name of the request in which the loop is blocked; "" if unknown.
        told: whether it is logged; else it is only counted.
    """

    title: str
    told: bool

    @property
    def where(self) -> str:
        return f" in {self.title}" if self.title else ""


class Told:
    """Decides which blocks are logged, and counts the others.

    Attributes:
        due: when to log the number of blocks that were only counted, by time.monotonic(); infinite
            if there are none.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self._places: dict[Code, float] = {}  # when each was logged
        self._count = 0
        self._seconds = 0.0

    def may_tell(self, place: Code, now: float) -> bool:
        """Return whether to log a block in this function; if so, record that it is logged."""
        recent = {known: at for known, at in self._places.items() if now - at < TOLD_TIME}
        self._places = recent
        if place in recent or len(recent) >= TOLD_STACKS:
            return False
        recent[place] = now
        return True

    def leave_out(self, seconds: float, now: float) -> None:
        """Count a block that is not logged."""
        self._count += 1
        self._seconds += seconds
        self.due = min(self.due, now + TOLD_TIME)

    def sum_up(self, now: float) -> None:
        """Once it is due, log how many blocks were only counted."""
        if not self._count or now < self.due:
            return
        text = "The event loop was blocked %d more times, for %.1f s in all"
        error_logger.warning(text, self._count, self._seconds)
        self.due = math.inf
        self._count = 0
        self._seconds = 0.0


# --- Stacks: lists of calls, the innermost first --------------------------------------------------


class Call(NamedTuple):
    code: Code
    line: int


def call_of(frame: FrameType) -> Call:
    code = frame.f_code
    return Call((code.co_filename, code.co_name), frame.f_lineno or 0)


def stack_text(calls: list[Call], depth: int) -> str:
    """A stack as in a traceback.

    Args:
        calls: the calls.
        depth: how many of the outermost calls to leave out, unless the stack is cut or no deeper.
    """
    if depth < len(calls) < DEEPEST:
        calls = calls[:-depth] if depth else calls
    shown = [traceback.FrameSummary(file, line, name) for (file, name), line in reversed(calls)]
    text = "".join(traceback.StackSummary.from_list(shown).format())
    return f"Stack (most recent call last):\n{text.rstrip()}"


def local_scope(frame: FrameType) -> dict[str, Any] | None:
    """Return the ASGI scope in a function's variable `scope`; None if there is none."""
    code = frame.f_code
    if "scope" not in (*code.co_varnames, *code.co_freevars):
        return None
    scope = frame.f_locals.get("scope")
    known = isinstance(scope, dict) and scope.get("type") in ("http", "websocket")
    return scope if known else None


def is_of_debugger(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] in DEBUGGERS


def log_with_stack(stack: str, message: str, *arguments: object) -> None:
    """Log a warning with the stack of another thread as the record's stack_info."""
    if error_logger.isEnabledFor(logging.WARNING):
        name, level = error_logger.name, logging.WARNING
        record = error_logger.makeRecord(
            name, level, __file__, 0, message, arguments, None, sinfo=stack
        )
        error_logger.handle(record)


# --- The stack of a thread that holds the GIL -----------------------------------------------------


class Dump(NamedTuple):
    """How the stack of a thread is written when a signal interrupts it.

    Attributes:
        signal: the signal's number.
        function: address of faulthandler's handler, which writes the stack.
        memory: descriptor of the file to which it writes.
        owner: PID of the process that has made the file.
    """

    signal: int
    function: int
    memory: int
    owner: int


_dump: Dump | None = None


def make_dump() -> Dump | None:
    """Install the handler of an unused signal, for the life of the process; return None where the
    system has no such signals or timers. In a forked process, only make a new file.
    """
    global _dump
    if _dump is not None and _dump.owner == os.getpid():
        return _dump
    number = free_signal() if _dump is None else _dump.signal
    if number is None:
        return None
    memory = new_memory(0)
    faulthandler.register(number, memory, all_threads=False)
    function = lib.th_signal_handler(number) if _dump is None else _dump.function
    if lib.th_watch_install(number) < 0:
        faulthandler.unregister(number)
        os.close(memory)
        return None
    _dump = Dump(number, function, memory, os.getpid())
    return _dump


def read_dump(memory: int) -> list[Call]:
    """The stack that a dump has written."""
    text = os.pread(memory, LARGEST_DUMP, 0).decode("utf-8", "replace")
    return [
        Call((file, name), int(line) if line.isdigit() else 0)
        for file, line, name in DUMPED_CALL.findall(text)
    ]
