"""A WebSocket client that speaks permessage-deflate (RFC 7692), with Python's zlib."""

from __future__ import annotations

import zlib

from support import Running
from ws_client import CONT, DEFLATE, RSV1, TAIL, Client, Head, frame, handshake

SERVER_BITS = "server_max_window_bits"
CLIENT_BITS = "client_max_window_bits"
SERVER_NO = "server_no_context_takeover"
CLIENT_NO = "client_no_context_takeover"


def parameters(answer: Head) -> dict[str, str | None] | None:
    """Parse the agreed parameters strictly (RFC 7692 section 7.1); None without an agreement."""
    lines = answer.all(b"sec-websocket-extensions")
    if not lines:
        return None
    (line,) = lines
    name, *rest = [part.strip() for part in line.decode().split(";")]
    assert name == "permessage-deflate"
    agreed: dict[str, str | None] = {}
    for parameter in rest:
        key, equals, value = parameter.partition("=")
        assert key not in agreed, "a parameter twice"
        agreed[key] = value if equals else None
        if key in (SERVER_BITS, CLIENT_BITS):
            assert equals
            assert value in [str(bits) for bits in range(8, 16)], value
        else:
            assert key in (SERVER_NO, CLIENT_NO)
            assert not equals
    return agreed


class Deflating(Client):
    """A client that has agreed on compression, and uses the agreed parameters."""

    def __init__(self, running: Running, *offer: str) -> None:
        super().__init__(running, handshake(*(offer or (f"{DEFLATE}; {CLIENT_BITS}",))))
        self.accepted()
        agreed = parameters(self.answer)
        assert agreed is not None
        self.agreed = agreed
        self.window = int(agreed.get(CLIENT_BITS) or 15)
        self.inflater = self.new_inflater()
        self.deflater = self.new_deflater()

    def new_inflater(self):
        return zlib.decompressobj(-int(self.agreed.get(SERVER_BITS) or 15))

    def new_deflater(self):
        return zlib.compressobj(6, zlib.DEFLATED, -max(9, self.window))

    def deflate(self, data: bytes) -> bytes:
        if CLIENT_NO in self.agreed:
            self.deflater = self.new_deflater()
        packed = self.deflater.compress(data) + self.deflater.flush(zlib.Z_SYNC_FLUSH)
        assert packed.endswith(TAIL)
        return packed[:-4]

    def inflate(self, data: bytes) -> bytes:
        """Inflate in steps, so that zlib reads from its window, not from its latest output."""
        if SERVER_NO in self.agreed:
            self.inflater = self.new_inflater()
        out = bytearray()
        rest = data + TAIL
        while rest:
            out += self.inflater.decompress(rest, 64)
            rest = self.inflater.unconsumed_tail
        while more := self.inflater.decompress(b"", 64):
            out += more
        assert not self.inflater.eof, "a last block, which needs one more behind it"
        return bytes(out)

    def packed(self, opcode: int, data: bytes) -> None:
        self.send(frame(opcode, self.deflate(data), rsv=RSV1))

    def unpacked(self) -> tuple[int, bytes, int]:
        """Read the next message; return its opcode, content and bytes on the wire.

        It must be compressed, unless it is empty.
        """
        got = self.read()
        if got.fin and not got.rsv and not got.payload:
            return got.opcode, b"", 0
        assert got.rsv == RSV1, repr(got)[:300]
        payload = got.payload
        last = got
        while not last.fin:
            last = self.read()
            assert last.opcode == CONT, last
            payload += last.payload
        return got.opcode, self.inflate(payload), len(payload)

    def round_trip(self, opcode: int, data: bytes) -> int:
        self.packed(opcode, data)
        kind, content, size = self.unpacked()
        assert kind == opcode
        assert content == data
        return size
