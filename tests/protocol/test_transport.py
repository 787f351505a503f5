"""The transport that owns its socket, on both loops: reading, writing, closing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import pytest
from recorder import BIG, FAMILIES, READ_SIZE, RESET, Place, Recorder, small_buffer, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's serve")


# --- Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_come_and_go(run, family, tmp_path):
    async def main():
        async with Place(Recorder, family, tmp_path) as place:
            client, protocol = await place.connect()
            client.send(b"hello")
            await until(lambda: protocol.data == b"hello")
            protocol.transport.write(b"hel")
            protocol.transport.writelines([b"l", bytearray(b"o"), b"", memoryview(b"!")])
            assert await place.read(client, 6) == b"hello!"
            client.close()
            await until(lambda: protocol.events[-1] == "lost")
            assert protocol.events == ["made", "eof", "lost"]

    run(main())


def test_more_than_a_buffer_comes_in_turns(run):
    """A client that sends without end does not keep the others from being read."""
    sizes = []

    class Measuring(Recorder):
        def data_received(self, data):
            sizes.append(len(data))
            order.append(self)

    order = []

    async def main():
        async with Place(Measuring) as place:
            greedy, first = await place.connect()
            modest, second = await place.connect()
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * READ_SIZE)
            first.transport.pause_reading()
            second.transport.pause_reading()
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += greedy.send(bytes(READ_SIZE))
            modest.send(b"x")
            await asyncio.sleep(0.02)  # both are in the kernel already, and are reported
            assert not sizes
            first.transport.resume_reading()
            second.transport.resume_reading()
            await until(lambda: sum(sizes) == sent + 1)
            assert max(sizes) <= READ_SIZE
            assert sent > 2 * READ_SIZE
            assert order.index(second) <= 2

    run(main())


def test_paused_reading_keeps_bytes_in_the_kernel(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            transport = protocol.transport
            assert transport.is_reading()
            transport.pause_reading()
            transport.pause_reading()
            assert not transport.is_reading()
            client.send(b"a")
            await asyncio.sleep(0.02)
            turns = place.poller.turns
            await asyncio.sleep(0.05)
            assert place.poller.turns == turns  # the loop does not spin
            assert protocol.data == b""
            transport.resume_reading()
            transport.resume_reading()
            await until(lambda: protocol.data == b"a")
            transport.pause_reading()
            transport.resume_reading()
            client.send(b"b")
            await until(lambda: protocol.data == b"ab")

    run(main())


def test_end_while_reading_is_paused_waits_behind_the_bytes(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            protocol.transport.pause_reading()
            client.send(b"last")
            client.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.02)
            assert protocol.events == ["made"]
            protocol.transport.resume_reading()
            await until(lambda: protocol.events == ["made", "eof", "lost"])
            assert protocol.data == b"last"

    run(main())


@pytest.mark.parametrize("reading", ["reads", "paused", "half-closed"])
def test_reset_is_noticed(run, reading):
    async def main():
        async with Place(lambda: Recorder(stays=True)) as place:
            client, protocol = await place.connect()
            if reading == "paused":
                protocol.transport.pause_reading()
                client.send(b"never read")
                await asyncio.sleep(0.01)
            if reading == "half-closed":
                client.shutdown(socket.SHUT_WR)
                await until(lambda: "eof" in protocol.events)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            # Once the client has ended its side, the kernel calls it so.
            name = "BrokenPipeError" if reading == "half-closed" else "ConnectionResetError"
            await until(lambda: protocol.events[-1] == name)
            assert protocol.transport.is_closing()
            assert place.poller.open == 1
            assert place.problems == []

    run(main())


def test_half_close_of_the_client(run):
    async def main():
        async with Place(lambda: Recorder(stays=True)) as place:
            client, protocol = await place.connect()
            client.send(b"question")
            client.shutdown(socket.SHUT_WR)
            await until(lambda: protocol.events == ["made", "eof"])
            assert protocol.data == b"question"
            turns = place.poller.turns
            await asyncio.sleep(0.05)
            assert place.poller.turns == turns
            protocol.transport.write(b"answer")
            protocol.transport.close()
            assert await place.read(client, 100) == b"answer"
            await until(lambda: protocol.events == ["made", "eof", "lost"])

    run(main())


@pytest.mark.parametrize("size", [5, len(BIG)])
def test_half_close_of_ours_follows_what_is_written(run, size):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            transport = protocol.transport
            transport.write(BIG[:size])
            assert transport.can_write_eof()
            transport.write_eof()
            transport.write_eof()
            with pytest.raises(RuntimeError):
                transport.write(b"more")
            with pytest.raises(RuntimeError):
                transport.writelines([b"more"])
            assert await place.read(client, size + 1) == BIG[:size]
            client.send(b"still heard")
            await until(lambda: protocol.data == b"still heard")
            client.close()
            await until(lambda: protocol.events[-1] == "lost")

    run(main())


# --- Writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pieces", [1, 1000])
@pytest.mark.parametrize("gathered", [False, True])
def test_what_the_kernel_does_not_take_waits(run, family, tmp_path, pieces, gathered):
    async def main():
        async with Place(Recorder, family, tmp_path) as place:
            client, protocol = await place.connect()
            transport = protocol.transport
            small_buffer(transport)
            size = -(-len(BIG) // pieces)
            parts = [BIG[start : start + size] for start in range(0, len(BIG), size)]
            if gathered:
                transport.writelines(parts)
            else:
                for part in parts:
                    transport.write(part)
            assert 0 < transport.get_write_buffer_size() < len(BIG)
            assert await place.read(client, len(BIG)) == BIG
            await until(lambda: transport.get_write_buffer_size() == 0)
            assert protocol.events == ["made", "pause", "resume"]
            turns = place.poller.turns
            transport.write(b"direct")  # and again without a detour
            assert transport.get_write_buffer_size() == 0
            assert await place.read(client, 6) == b"direct"
            await asyncio.sleep(0.05)
            assert place.poller.turns <= turns + 1

    run(main())


def test_water_marks(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect(receive_buffer=4096)
            transport = protocol.transport
            assert transport.get_write_buffer_limits() == (16384, 65536)
            transport.set_write_buffer_limits(high=2_000_000, low=1_000_000)
            small_buffer(transport)
            transport.write(bytes(1_999_999))
            assert protocol.events == ["made"]
            transport.write(bytes(1_000_000))
            assert protocol.events == ["made", "pause"]
            transport.write(bytes(1))
            assert protocol.events == ["made", "pause"]
            total = 0
            while "resume" not in protocol.events:
                total += len(await place.loop.sock_recv(client, 65536))
                await asyncio.sleep(0)
            left = transport.get_write_buffer_size()
            assert 0 < left <= 1_000_000
            await place.read(client, 3_000_000 - total)
            await until(lambda: transport.get_write_buffer_size() == 0)
            assert protocol.events == ["made", "pause", "resume"]
            for high, low in [(1, 2), (-1, -1)]:
                with pytest.raises(ValueError, match="0 <= low <= high"):
                    transport.set_write_buffer_limits(high=high, low=low)
            transport.set_write_buffer_limits(low=10)
            assert transport.get_write_buffer_limits() == (10, 40)

    run(main())


def test_lower_limits_hold_for_what_waits(run):
    async def main():
        async with Place(Recorder) as place:
            _, protocol = await place.connect(receive_buffer=4096)
            small_buffer(protocol.transport)
            protocol.transport.set_write_buffer_limits(high=len(BIG))
            protocol.transport.write(BIG)
            assert protocol.events == ["made"]
            protocol.transport.set_write_buffer_limits(high=1)
            assert protocol.events == ["made", "pause"]

    run(main())


def test_writing_from_resume_writing(run):
    """Bytes written there are sent, even if the queue has just become empty."""

    class Streaming(Recorder):
        left = 200

        def resume_writing(self):
            super().resume_writing()
            while self.left and self.events[-1] == "resume":
                self.left -= 1
                self.transport.write(bytes(50_000))

    async def main():
        async with Place(Streaming) as place:
            client, protocol = await place.connect()
            small_buffer(protocol.transport)
            protocol.transport.write(bytes(1_000_000))
            total = 1_000_000 + 200 * 50_000
            assert len(await place.read(client, total)) == total

    run(main())


def test_close_sends_what_waits(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            protocol.transport.write(BIG)
            protocol.transport.close()
            protocol.transport.close()
            assert protocol.transport.is_closing()
            protocol.transport.write(b"after the end")
            protocol.transport.writelines([b"after the end"])
            assert await place.read(client, len(BIG) + 1) == BIG
            await until(lambda: protocol.events[-1] == "lost")

    run(main())


def test_abort_drops_what_waits(run):
    async def main():
        async with Place(Recorder) as place:
            client, protocol = await place.connect()
            transport = protocol.transport
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, RESET
            )
            transport.write(BIG)
            transport.abort()
            transport.abort()
            assert transport.get_write_buffer_size() == 0
            assert "lost" not in protocol.events  # not within the call
            await until(lambda: protocol.events[-1] == "lost")
            with pytest.raises(ConnectionResetError):
                await place.read(client, len(BIG) + 1)
            assert protocol.events.count("lost") == 1
            assert transport.get_extra_info("peername") == client.getsockname()

    run(main())


def test_writing_to_a_client_that_is_gone(run):
    async def main():
        async with Place(lambda: Recorder(stays=True)) as place:
            client, protocol = await place.connect()
            client.close()
            await until(lambda: "eof" in protocol.events)
            transport = protocol.transport
            while not transport.is_closing():
                transport.write(b"x")
                await asyncio.sleep(0)
            transport.write(b"x")
            await until(lambda: protocol.events[-1] in ("BrokenPipeError", "ConnectionResetError"))
            assert len(protocol.events) == 3

    run(main())
