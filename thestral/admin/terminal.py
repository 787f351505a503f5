"""A full-screen terminal: it reads keys at once, and restores everything at the end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import termios
import tty
from collections.abc import Generator, Sequence
from types import FrameType
from typing import Any

# Alternate screen, no cursor, no wrapping of long lines; LEAVE undoes all of that.
ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, ERASE, REST = "\x1b[H", "\x1b[K", "\x1b[J"
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
ARROWS = {"\x1b[A": "k", "\x1b[B": "j", "\x1bOA": "k", "\x1bOB": "j"}


class Terminal:
    """The terminal on stdin and stdout, within the context of running().

    A signal that ends the process raises SystemExit, so that the context is left. While Ctrl-Z has
    stopped the process, the shell has its terminal back.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: list[Any] = []

    @contextlib.contextmanager
    def running(self) -> Generator[Terminal]:
        handlers: dict[signal.Signals, Any] = dict.fromkeys(ENDING, self._end)
        handlers |= {
            signal.SIGWINCH: lambda number, frame: self.wake(),
            signal.SIGTSTP: self._suspend,
        }
        old = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            self._enter()
            yield self
        finally:
            self._leave()
            for number, handler in old.items():
                signal.signal(number, handler)
            self._reader.close()
            self._writer.close()

    def _enter(self) -> None:
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        self._write(ENTER)

    def _leave(self) -> None:
        if self._before:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
            self._before = []
            self._write(LEAVE)

    def _end(self, number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()  # SIGCONT has come
        self.wake()

    def wake(self) -> None:
        """Make wait() return. May be called in any thread."""
        with contextlib.suppress(OSError):  # enough bytes are waiting already, or it is closed
            self._writer.send(b"\0")

    def wait(self) -> str:
        """Wait for keys or wake(); return the keys, with arrows as letters."""
        ready, _, _ = select.select([sys.stdin, self._reader], [], [])
        if self._reader in ready:
            self._reader.recv(4096)
        if sys.stdin not in ready:
            return ""
        data = os.read(sys.stdin.fileno(), 1024)
        if not data:  # the terminal is gone
            raise SystemExit(0)
        keys = data.decode("ascii", "ignore")
        for sequence, letter in ARROWS.items():
            keys = keys.replace(sequence, letter)
        return keys

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        found = os.get_terminal_size(sys.stdout.fileno())
        return found.columns or 80, found.lines or 24

    def show(self, lines: Sequence[str]) -> None:
        """Replace the content of the screen."""
        # Each line is erased before it is written: afterwards the cursor may be on its last letter.
        self._write(HOME + "\r\n".join(ERASE + line for line in lines) + REST)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: the next wait() notices
            sys.stdout.write(text)
            sys.stdout.flush()
