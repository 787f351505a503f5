"""Output: what a connection writes within a turn, and how it reaches the transport."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thestral.net.transport import Protocol

if TYPE_CHECKING:
    from thestral._core.http1 import ResponseWriter
    from thestral.net.transport import SocketTransport
    from thestral.protocol.context import WorkerContext

# Output of this size leaves at once; less waits for the end of the turn.
OUTPUT_MAX = 64 * 1024  # bytes
# Bodies and frames of at least this size are not copied into the connection's writer.
GATHER_MIN = 16 * 1024  # bytes


class Output(Protocol):
    """The output of a connection, on its way to the transport. It leaves at the end of the turn, or
    at OUTPUT_MAX.

    Attributes:
        transport: set when the connection is made.
        owned: the transport, if it is one of the server's own.
        written: bytes handed to the transport.
        lost: whether connection_lost() has been called.
    """

    if TYPE_CHECKING:  # all of it begins as None, 0 or False
        context: WorkerContext
        transport: Any
        owned: SocketTransport | None
        written: int
        lost: bool
        # Output that has not left: large pieces, and the writer with the bytes that follow them.
        _pieces: list[bytes] | None
        _pieces_size: int  # bytes
        _writer: ResponseWriter | None  # lent by the turn
        _corked: bool  # inside a call that ends with end_turn()
        _joined: bool  # the turn will call end_turn()

    def output(self) -> ResponseWriter:
        """Return the writer of output that leaves by the end of the turn. Call emit() after it."""
        writer = self._writer
        if writer is None:
            writer = self.context.turn.lend_writer()
            self._writer = writer
        return writer

    def append(self, data: bytes) -> None:
        """Append bytes to the output. Call emit() after it."""
        writer = self.output()
        if self.copies(len(data)):
            writer.write(data)
            return
        pieces = self._pieces
        if pieces is None:
            pieces = self._pieces = []
        if writer.size():
            self._pieces_size += writer.size()
            pieces.append(writer.take(0))
        self._pieces_size += len(data)
        pieces.append(data)

    def copies(self, size: int) -> bool:
        """Whether a piece of `size` bytes is small enough to copy."""
        return size < GATHER_MIN

    def emit(self) -> None:
        """Send the output by the end of the turn, or now if it has reached OUTPUT_MAX."""
        writer = self._writer
        if writer is not None and self._pieces_size + writer.size() >= OUTPUT_MAX:
            self.flush()
        self.expect_turn_end()

    def expect_turn_end(self) -> None:
        """Have end_turn() called at the end of this turn."""
        if not (self._corked or self._joined):
            self._joined = True
            self.context.turn.join(self)

    def end_turn(self) -> None:
        self._joined = False
        self.flush()

    def flush(self) -> None:
        """Send the output now."""
        writer = self._writer
        if writer is None:
            return
        self._writer = None
        pieces = self._pieces
        if pieces is None:
            if writer.size():
                self.write_from(writer)
        else:
            self._pieces = None
            self._pieces_size = 0
            if writer.size():
                pieces.append(writer.take(0))
            self.write_gathered(pieces)
        self.context.turn.take_back(writer)

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport. The peer now has timeout_write to read some of them."""
        if not self.is_broken():
            self.count_written(len(data))
            if self.owned is not None:
                self.owned.write(data)
            else:
                self.transport.write(data)

    def write_from(self, writer: ResponseWriter) -> None:
        """Hand the contents of a writer to the transport."""
        if self.owned is None or self.is_broken():
            self.write(writer.take(0))
        else:
            self.count_written(writer.size())
            self.owned.write_from(writer)

    def write_gathered(self, parts: list[bytes]) -> None:
        """Hand pieces to the transport together, joined only if its writelines() is unreliable."""
        if not self.is_broken():
            for part in parts:
                self.count_written(len(part))
            if self.owned is not None or self.context.gathers:
                self.transport.writelines(parts)
            else:
                self.transport.write(b"".join(parts))

    def count_written(self, size: int) -> None:
        self.written += size
        if self.context.metrics is not None:
            self.context.metrics.add_sent(size)

    def is_broken(self) -> bool:
        """Whether nothing can be written any more.

        The transport knows before the loop calls connection_lost. An application that only awaits
        send() might never let the loop call it.
        """
        if self.lost:
            return True
        owned = self.owned
        if not (self.transport.is_closing() if owned is None else owned.is_closing()):
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Called when the peer is gone: tell the application."""
