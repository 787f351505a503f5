"""A limit, not a server: a bare uvloop Protocol that sends constant bytes without parsing requests.

python bench/bare.py PORT BODY_BYTES [close]
"""

from __future__ import annotations

import asyncio
import sys

import uvloop


class Bare(asyncio.Protocol):
    """Answers each empty line; if `close` is set, closes the transport after one answer."""

    answer = b""
    close = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.answer * data.count(b"\r\n\r\n"))
        if self.close:
            self.transport.close()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


def main() -> None:
    port, size = int(sys.argv[1]), int(sys.argv[2])
    body = b"Hello, world!" if size == 13 else bytes(range(256)) * (size // 256)
    Bare.close = sys.argv[3:] == ["close"]
    connection = b"connection: close\r\n" if Bare.close else b""
    Bare.answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n%s\r\n%s"
        % (len(body), connection, body)
    )
    uvloop.run(serve(port))


if __name__ == "__main__":
    main()
