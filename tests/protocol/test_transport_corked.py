"""The transport that owns its socket: with many connections in one turn, answers leave together."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time

import pytest
from recorder import BIG, RESET, Place, Recorder, small_buffer, until

from thestral._core.http1 import ResponseWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the loop's serve")

# CORK_FROM, CORK_WORK and CORK_TIME of thestral.net.poller, CORK_SIZE of thestral.net.transport.
FEWEST = 4  # sockets
SHORTEST = 0.0001  # seconds of work
LONG = 0.002  # seconds
LARGE = 16 * 1024  # bytes
MANY = 16  # sockets


class Crowd:
    """Connections whose clients have all sent b"?" when the loop's next turn begins; `answer` is
    called with the number of each in that turn, in order. `work` is what the poller takes for the
    seconds that a socket needs.
    """

    def __init__(self, place, answer):
        self.place = place
        self.answer = answer
        self.members = []
        self.called = []
        self.work = 1.0

    async def gather(self, size, *, narrow=False):
        """If `narrow`, the kernel takes a few kilobytes of an answer."""
        for _ in range(size):
            client, protocol = await self.place.connect(receive_buffer=2048 if narrow else None)
            protocol.crowd = self
            self.members.append((client, protocol))
            if narrow:
                small_buffer(protocol.transport, 4096)
                protocol.transport.set_write_buffer_limits(high=1000)

    def ask(self):
        self.place.poller.work = self.work
        for client, _ in self.members:
            client.send(b"?")

    def client(self, number):
        return self.members[self.called[number]][0]

    def received(self, number):
        """The bytes that the client of this number has received so far; they stay in its socket."""
        try:
            return self.client(number).recv(1 << 20, socket.MSG_PEEK)
        except BlockingIOError:
            return b""


class Member(Recorder):
    def data_received(self, data):
        super().data_received(data)
        crowd = self.crowd
        crowd.called.append([protocol for _, protocol in crowd.members].index(self))
        crowd.answer(self.transport, len(crowd.called) - 1)


@pytest.fixture
def crowd(run):
    """Run `answer` for `size` connections in one turn, then `check` with the crowd."""

    def start(size, answer, check, prepare=lambda crowd: None, *, narrow=False):
        async def main():
            async with Place(Member) as place:
                crowd = Crowd(place, answer)
                await crowd.gather(size, narrow=narrow)
                prepare(crowd)
                turns = place.poller.turns
                crowd.ask()
                await until(lambda: len(crowd.called) == size)
                assert place.poller.turns == turns + 1
                await check(crowd)

        run(main())

    return start


async def all_answered(crowd, answer=b"!"):
    for client, _ in crowd.members:
        assert await crowd.place.read(client, len(answer)) == answer


@pytest.mark.parametrize(
    ("size", "work", "together"),
    [
        (FEWEST - 1, 1.0, False),
        (FEWEST, 1.0, True),
        (FEWEST + 1, 1.0, True),
        (FEWEST, 0.99 * SHORTEST / FEWEST, False),
        (FEWEST, 1.01 * SHORTEST / FEWEST, True),
        (MANY, 0.99 * SHORTEST / MANY, False),
        (MANY, 1.01 * SHORTEST / MANY, True),
        (MANY, 0.0, False),
    ],
)
def test_many_are_answered_together(crowd, size, work, together):
    """Some turn is short enough that no answer leaves before the last one is written."""
    first = []  # what the client of the first has when the last is answered

    def answer(transport, number):
        transport.write(b"!")
        assert transport.get_write_buffer_size() == together
        if number == size - 1:
            first.append(those.received(0))

    async def check(crowd):
        await all_answered(crowd)
        due = b"" if together else b"!"
        while due not in first:
            crowd.called.clear()
            crowd.ask()
            await all_answered(crowd)

    def prepare(crowd):
        nonlocal those
        those = crowd
        crowd.work = work

    those = None
    crowd(size, answer, check, prepare)
    assert together or set(first) == {b"!"}


def test_answers_that_the_turn_schedules_leave_together(crowd):
    """As those of tasks do that wait for the request; what was written in the turn has left."""
    first = []  # what the client of the first, and of the second, have when the last is answered

    def answer(transport, number):
        if number == 0:
            transport.write(b"!")
        else:
            asyncio.get_running_loop().call_soon(later, transport, number)

    def later(transport, number):
        transport.write(b"!")
        if number == MANY - 1:
            first.append((those.received(0), those.received(1)))

    async def check(crowd):
        await all_answered(crowd)
        while (b"!", b"") not in first:  # a slow machine may be late for it
            crowd.called.clear()
            crowd.ask()
            await all_answered(crowd)
        client, protocol = crowd.members[0]
        protocol.transport.write(b"behind it")
        assert client.recv(100) == b"behind it"

    def prepare(crowd):
        nonlocal those
        those = crowd

    those = None
    crowd(MANY, answer, check, prepare)


@pytest.mark.parametrize("later", [False, True])
def test_work_is_measured(crowd, later):
    """It is an eighth of what a socket of the last turn took, if there was none before."""

    def spin():
        end = time.perf_counter() + LONG
        while time.perf_counter() < end:
            pass

    def answer(transport, number):
        if number == 0:
            loop = asyncio.get_running_loop()
            loop.call_soon(spin) if later else spin()
        if not later:
            transport.write(b"!")

    async def check(crowd):
        await until(lambda: crowd.place.poller.work)
        assert crowd.place.poller.work >= LONG / MANY / 8

    def prepare(crowd):
        crowd.work = 0.0

    crowd(MANY, answer, check, prepare)


@pytest.mark.parametrize("slow", ["before its answer", "after its answer"])
def test_nobody_waits_long_for_the_others(crowd, slow):
    """A slow answer delays those that were written before: they leave with the next."""
    seen = []

    def answer(transport, number):
        seen.append(those.received(0))
        if slow == "after its answer":
            transport.write(b"!")
        if number == 2:
            end = time.perf_counter() + 2 * LONG
            while time.perf_counter() < end:
                pass
        if slow == "before its answer":
            transport.write(b"!")

    def prepare(crowd):
        nonlocal those
        those = crowd

    those = None
    crowd(MANY, answer, all_answered, prepare)
    assert seen[3 if slow == "before its answer" else 4] == b"!"


def test_turn_after_turn(crowd):
    def answer(transport, number):
        transport.write(b"!")
        assert transport.get_write_buffer_size() == 1

    async def check(crowd):
        await all_answered(crowd)
        crowd.ask()
        await all_answered(crowd)
        client, protocol = crowd.members[0]
        protocol.transport.write(b"behind it")
        assert client.recv(100) == b"behind it"

    crowd(MANY, answer, check)


@pytest.mark.parametrize(("size", "waits"), [(LARGE - 1, True), (LARGE, True), (LARGE + 1, False)])
def test_what_is_large_leaves_at_once(crowd, size, waits):
    def answer(transport, number):
        transport.write(BIG[:size])
        assert transport.get_write_buffer_size() == (size if waits else 0)

    async def check(crowd):
        await all_answered(crowd, BIG[:size])

    crowd(MANY, answer, check)


@pytest.mark.parametrize("then", ["close", "write_eof", "abort", "nothing"])
def test_what_waits_is_sent_whatever_follows(crowd, then):
    def answer(transport, number):
        transport.write(b"!")
        if then != "nothing":
            getattr(transport, then)()
            assert transport.get_write_buffer_size() == 0

    async def check(crowd):
        await all_answered(crowd)
        for client, protocol in crowd.members:
            if then != "nothing":
                assert await crowd.place.read(client, 1) == b""
            if then == "write_eof":
                client.close()
            if then != "nothing":
                await until(lambda protocol=protocol: protocol.events[-1] == "lost")

    crowd(MANY, answer, check)


@pytest.mark.parametrize("seed", range(8))
def test_order_is_kept(crowd, seed, tmp_path):
    """Whatever is written in a turn, and however, arrives complete and in order."""
    chance = random.Random(seed)
    writer = ResponseWriter()
    file = tmp_path / "file"
    file.write_bytes(BIG[: 1 << 16])
    written = [b""] * MANY

    def answer(transport, number):
        sent = b""
        for _ in range(chance.randrange(1, 6)):
            data = chance.randbytes(chance.choice([1, 100, LARGE, LARGE + 1, 40_000]))
            how = chance.randrange(4)
            if how == 0:
                transport.write(data)
            elif how == 1:
                transport.writelines([data[:50], data[50:]])
            elif how == 2:
                mark = writer.size()
                writer.write(data)
                transport.write_from(writer, mark)
            else:
                count = transport.send_file(opened.fileno(), 0, 1 << 16)
                data = BIG[:count]
            sent += data
        written[number] = sent

    async def check(crowd):
        for number in range(MANY):
            client = crowd.client(number)
            assert await crowd.place.read(client, len(written[number])) == written[number]

    with file.open("rb") as opened:
        crowd(MANY, answer, check)


def test_what_the_kernel_does_not_take_of_it_waits_on(crowd):
    def answer(transport, number):
        transport.write(BIG[:LARGE])
        transport.write(BIG[:LARGE])
        transport.close()

    async def check(crowd):
        for client, protocol in crowd.members:
            assert await crowd.place.read(client, 3 * LARGE) == 2 * BIG[:LARGE]
            await until(lambda protocol=protocol: protocol.events[-1] == "lost")
            assert "pause" in protocol.events
        assert not crowd.place.problems

    crowd(MANY, answer, check, narrow=True)


def test_client_that_is_gone_costs_the_others_nothing(crowd):
    gone = 3

    def answer(transport, number):
        transport.write(b"!")
        if number == gone:
            client = those.client(number)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()

    async def check(crowd):
        index = crowd.called[gone]
        _, protocol = crowd.members.pop(index)
        await all_answered(crowd)
        await until(lambda: len(protocol.events) == 2)
        assert protocol.events[1] in ("ConnectionResetError", "BrokenPipeError")

    def prepare(crowd):
        nonlocal those
        those = crowd

    those = None
    crowd(MANY, answer, check, prepare)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", ["data_received", "pause_writing"])
def test_interrupt_holds_no_answer_back(kind, call):
    """The interrupt leaves the loop in the middle of a turn, or while its answers leave."""
    place = crowd = None
    armed = True

    class Paused(Member):
        def pause_writing(self):
            super().pause_writing()
            nonlocal armed
            if armed and call == "pause_writing":
                armed = False
                raise kind

    def answer(transport, number):
        transport.write(bytes(LARGE))
        if number == 5 and call == "data_received":
            raise kind

    async def begin():
        nonlocal place, crowd
        place = Place(Paused)
        crowd = Crowd(place, answer)
        await crowd.gather(MANY, narrow=True)

    async def rest():
        for number in range(MANY):
            if number != 5 or call == "pause_writing":
                assert await place.read(crowd.client(number), LARGE) == bytes(LARGE)
        await place.__aexit__()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    crowd.ask()
    with pytest.raises(kind):
        loop.run_until_complete(asyncio.sleep(5))
    loop.run_until_complete(rest())
    loop.close()


def test_interrupt_where_answers_leave_loses_none_that_comes_meanwhile():
    """An answer that is written while others leave within a turn is held as well."""
    loop = asyncio.new_event_loop()
    # On a busy machine the turn may be late already when it begins, and then no answer waits.
    assert any(interrupted_where_answers_leave(loop) for _ in range(50))
    loop.close()


def interrupted_where_answers_leave(loop):
    """Whether the first answer waited, left behind the second and was interrupted there; then
    nothing was lost.
    """
    crowd = other = None

    class Paused(Member):
        def pause_writing(self):
            super().pause_writing()
            if other is not None:
                other.transport.write(b"!")
                raise KeyboardInterrupt

    def answer(transport, number):
        nonlocal other
        if number == 0:
            transport.write(bytes(LARGE))
        elif number == 1:  # which the interrupt leaves behind
            transport.write(b"!")
            waiting = set(range(MANY)).difference(crowd.called)
            _, other = crowd.members[min(waiting)]
            end = time.perf_counter() + 2 * LONG
            while time.perf_counter() < end:
                pass

    async def begin():
        nonlocal crowd
        crowd = Crowd(Place(Paused), answer)
        await crowd.gather(MANY, narrow=True)

    async def rest():
        [client] = [client for client, member in crowd.members if member is other]
        for one in (client, crowd.client(1)):
            assert await crowd.place.read(one, 1) == b"!"
        await crowd.place.__aexit__()

    loop.run_until_complete(begin())
    crowd.ask()
    try:
        loop.run_until_complete(until(lambda: len(crowd.called) == MANY))
    except KeyboardInterrupt:
        loop.run_until_complete(rest())
        return True
    loop.run_until_complete(crowd.place.__aexit__())
    return False
