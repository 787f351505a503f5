"""One epoll for all sockets of a worker, which the event loop, of any kind, watches as a single
reader.

In each turn of the loop the poller asks epoll for the ready sockets, and each reads once and calls
its protocol directly. Epoll is edge-triggered: a connection is registered when it is accepted, and
again only while the kernel's send buffer is full. Pausing costs nothing, and nothing can spin.

A crowded turn is corked: its responses leave together, so that a peer which holds all these
connections (a proxy, a load generator) is woken once and not by each response.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from thestral._core.log import monotonic
from thestral._core.socket import Poll, ReadBuffer, Ready

# Size of the one read buffer of a worker; a connection reads at most this much in a turn.
READ_SIZE = 256 * 1024  # bytes
# A turn is corked if this many sockets are ready, and will keep the worker busy for CORK_WORK. In
# a shorter one the peer would only wait, and then the worker for the peer: see
# docs/design/sockets.md.
CORK_FROM = 4  # sockets
CORK_WORK = 0.0001  # seconds
# Held responses leave after this time: to wake a peer costs about 10 µs, so once in this time costs
# half a percent.
CORK_TIME = 0.002  # seconds
# The weight of the last turn in the average of what a socket takes.
LAST = 0.125


class Watched:
    """A socket in a Poller. Bits that cannot be handled now wait in _pending."""

    def __init__(self, poller: Poller, fd: int) -> None:
        self._poller = poller
        self.fd = fd
        self._pending = 0
        self._deferred = False
        self._corked = False  # is in Poller._corked

    def ready(self, bits: int) -> None:
        """Handle a set of Bits that epoll has reported."""
        raise NotImplementedError

    def on_deferred(self) -> None:
        """Called in the turn after Poller.defer(): handle the pending bits."""
        bits = self._pending
        self._pending = 0
        self.ready(bits)

    def uncork(self) -> None:
        """Send the output that was held back for the other sockets."""

    def on_poller_close(self) -> None:
        """Called when the poller closes: end a connection."""


def entry_at(entries: list[Any], index: int) -> Any:
    """An entry of a list, with the C type that the .pxd declares."""
    return entries[index]


class Poller:
    """All sockets of a worker, watched through one epoll.

    Args:
        loop: the running loop.

    Attributes:
        open: number of watched sockets.
        turns: number of times that the loop has called turn().
        corking: whether a response written now is held back, to leave with those of other sockets.
        work: seconds that a ready socket takes, on average, in turns with CORK_FROM or more.
        writes: number of writes of a crowded turn, which transports count.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = contextvars.copy_context()
        self._poll = Poll()
        # None while in use: a callback may run the loop again, and the inner turn needs its own.
        self._ready: Ready | None = None
        self._buffer: ReadBuffer | None = None
        self._watched: list[Watched | None] = []  # by descriptor
        self._later: list[Watched] = []
        self._scheduled = False
        self._corked: list[Watched] = []
        self.corking = False
        self.work = 0.0
        self.writes = 0
        self._crowd = 0  # ready sockets of the crowded turn; 0 if this is none
        self._began = 0.0  # when it began
        self._since = 0.0  # when responses were last sent, or the turn began
        self.open = 0
        self.turns = 0
        loop.add_reader(self._poll.fd, self.turn)

    def turn(self) -> None:
        """Called by the loop: handle up to 256 ready sockets."""
        self.turns += 1
        ready = self._ready if self._ready is not None else Ready()
        self._ready = None
        count = self._poll.take(ready)
        done = 0
        if count >= CORK_FROM:
            self._begin_crowd(count)
        try:
            while done < count:
                # None if its connection was closed in this turn. The descriptor stays open until
                # the next one, so that its number cannot belong to a new connection yet.
                entry = entry_at(self._watched, ready.fd(done))
                bits = ready.bits(done)
                done += 1
                if entry is not None:
                    entry.ready(bits)
        finally:
            # On KeyboardInterrupt, defer the rest: edge-triggered epoll will not report it again.
            while done < count:
                entry = entry_at(self._watched, ready.fd(done))
                if entry is not None:
                    entry._pending |= ready.bits(done)
                    self.defer(entry)
                done += 1
            self._ready = ready
            if self._crowd:
                self._leave_crowd()

    def _begin_crowd(self, count: int) -> None:
        self._crowd = count
        self._began = self._since = monotonic()
        self.writes = 0
        self.corking = count * self.work >= CORK_WORK

    def _leave_crowd(self) -> None:
        """End a crowded turn, or leave that to the loop if there are sockets without an answer.

        Tasks that wait for a message, and before Python 3.12 those that are new, run when the loop
        next calls what is ready. Their answers are held until it has.
        """
        if self.writes >= self._crowd:
            self.end_crowd()
        else:
            self.uncork()
            self.loop.call_soon(self.end_crowd, context=self._context)

    def end_crowd(self) -> None:
        """End a crowded turn: send what is held back, and measure."""
        if self._crowd:  # else the loop was run within the turn, and that has ended it
            took = (monotonic() - self._began) / self._crowd
            self.work += LAST * (took - self.work)
            self._crowd = 0
        self.corking = False
        self.uncork()

    def cork(self, entry: Watched) -> None:
        """Call the connection's uncork() once other sockets of this turn have been answered."""
        if not entry._corked:
            entry._corked = True
            self._corked.append(entry)
        self._release_late()

    def _release_late(self) -> None:
        """uncork() if responses have been held for CORK_TIME."""
        if monotonic() - self._since > CORK_TIME:
            self.uncork()
            self._since = monotonic()

    # uncork() and catch_up() run their entries alike, but in loops of their own: a shared one would
    # have to make a bound method of each entry, which is slow.

    def uncork(self) -> None:
        """Send the output that corked connections hold back."""
        entries = self._corked
        if not entries:
            return
        self._corked = []
        done = 0
        try:
            while done < len(entries):
                entry = entry_at(entries, done)
                done += 1
                entry._corked = False
                entry.uncork()
        finally:
            if done < len(entries):
                self._corked = entries[done:] + self._corked
                self.uncork()

    def watch(self, entry: Watched, bits: int) -> None:
        """Register a socket with epoll.

        Raises:
            OSError: the kernel's limit of epoll watches is reached.
        """
        fd = entry.fd
        self._poll.add(fd, bits)
        while fd >= len(self._watched):
            self._watched.append(None)
        self._watched[fd] = entry
        self.open += 1

    def change(self, entry: Watched, bits: int) -> None:
        """Change the events that a socket is watched for."""
        self._poll.change(entry.fd, bits)

    def unwatch(self, entry: Watched) -> None:
        self._watched[entry.fd] = None
        self.open -= 1
        self._poll.remove(entry.fd)

    def defer(self, entry: Watched) -> None:
        """Call entry.on_deferred() in the loop's next turn."""
        if entry._deferred:
            return
        entry._deferred = True
        self._later.append(entry)
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.catch_up, context=self._context)

    def catch_up(self) -> None:
        """Called by the loop: run the deferred entries."""
        self._scheduled = False
        entries = self._later
        self._later = []
        done = 0
        try:
            while done < len(entries):
                entry = entry_at(entries, done)
                done += 1
                entry._deferred = False
                entry.on_deferred()
        finally:
            while done < len(entries):
                entry = entry_at(entries, done)
                entry._deferred = False
                self.defer(entry)
                done += 1

    def borrow(self) -> ReadBuffer:
        buffer = self._buffer
        self._buffer = None
        return buffer if buffer is not None else ReadBuffer(READ_SIZE)

    def give_back(self, buffer: ReadBuffer) -> None:
        self._buffer = buffer

    def close(self) -> None:
        """Abort all connections, call their connection_lost() at once, and leave the loop."""
        for entry in self._watched.copy():
            if entry is not None:
                entry.on_poller_close()
        self.catch_up()
        self.loop.remove_reader(self._poll.fd)
        self._poll.close()
