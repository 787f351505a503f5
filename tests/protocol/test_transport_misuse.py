"""The transport that owns its socket, and protocols that do something to it, or raise."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest
from recorder import BIG, Place, Recorder, small_buffer, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's serve")


# --- Protocols that do something to their own transport ---------------------------------------


class Replacing(Recorder):
    def data_received(self, data):
        self.data += data
        self.next = Recorder()
        self.next.transport = self.transport
        self.transport.set_protocol(self.next)


def test_protocol_replaced_within_data_received(run):
    async def main():
        async with Place(Replacing) as place:
            client, protocol = await place.connect()
            client.send(b"a")
            await until(lambda: protocol.data == b"a")
            assert protocol.transport.get_protocol() is protocol.next
            client.send(b"b")
            await until(lambda: protocol.next.data == b"b")
            client.close()
            await until(lambda: protocol.next.events == ["eof", "lost"])
            assert protocol.events == ["made"]

    run(main())


@pytest.mark.parametrize("how", ["close", "abort", "write and close", "pause"])
def test_transport_used_within_data_received(run, how):
    class Acting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if how == "write and close":
                self.transport.write(b"bye")
            getattr(self.transport, "pause_reading" if how == "pause" else how.split()[-1])()

    async def main():
        async with Place(Acting) as place:
            client, protocol = await place.connect()
            client.send(b"a")
            await until(lambda: protocol.data == b"a")
            if how == "pause":
                client.send(b"b")
                await asyncio.sleep(0.02)
                assert protocol.data == b"a"
                protocol.transport.resume_reading()
                await until(lambda: protocol.data == b"ab")
                return
            expected = b"bye" if "write" in how else b""
            assert await place.read(client, 10) == expected
            await until(lambda: protocol.events == ["made", "lost"])

    run(main())


@pytest.mark.parametrize("call", ["connection_made", "data_received", "eof_received"])
@pytest.mark.parametrize("error", [ValueError("own"), OSError("own")])
def test_exception_of_a_protocol_ends_its_connection(run, call, error):
    def fail(self, *_):
        raise error

    broken = type("Broken", (Recorder,), {call: fail})

    async def main():
        async with Place(broken) as place:
            client, protocol = await place.connect()
            if call != "connection_made":
                client.send(b"a")
                client.shutdown(socket.SHUT_WR)
            assert await place.read(client, 1) == b""
            await until(lambda: protocol.events[-1:] == [type(error).__name__])
            (problem,) = place.problems
            assert problem["exception"] is error
            assert call in problem["message"]
            assert place.poller.open == 1

    run(main())


@pytest.mark.parametrize("call", ["pause_writing", "resume_writing", "connection_lost"])
def test_exception_of_a_protocol_that_is_only_told_something(run, call):
    def fail(self, *_):
        raise ValueError("own")

    broken = type("Broken", (Recorder,), {call: fail})

    async def main():
        async with Place(broken) as place:
            client, protocol = await place.connect()
            small_buffer(protocol.transport)
            protocol.transport.write(BIG)
            assert await place.read(client, len(BIG)) == BIG
            client.close()
            await until(lambda: place.poller.open == 1 and place.problems)
            (problem,) = place.problems
            assert call in problem["message"]

    run(main())


def test_factory_that_fails_costs_one_connection(run):
    async def main():
        calls = []

        def factory():
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("own")
            return Recorder()

        async with Place(factory) as place:
            client = socket.create_connection(place.sock.getsockname())
            client.setblocking(False)
            with client:
                assert await place.read(client, 1) == b""
            _, protocol = await place.connect()
            assert protocol.events == ["made"]
            assert [problem["exception"].args for problem in place.problems] == [("own",)]

    run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_loses_no_other_connection(kind):
    """The interrupt leaves the loop; other ready sockets are handled when the loop goes on."""

    class Interrupting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if data == b"stop":
                raise kind

    loop = asyncio.new_event_loop()
    place = client = others = None

    async def main():
        nonlocal place, client, others
        place = Place(Interrupting)
        client, _ = await place.connect()
        others = [await place.connect() for _ in range(20)]

    loop.run_until_complete(main())
    client.send(b"stop")
    for other, _ in others:
        other.send(b"a")
    with pytest.raises(kind):
        loop.run_until_complete(asyncio.sleep(5))

    async def rest():
        await until(lambda: all(protocol.data == b"a" for _, protocol in others))
        await until(lambda: place.protocols[0].events[-1] == "lost")
        await place.__aexit__()

    loop.run_until_complete(rest())
    loop.close()
