"""The clock: the options that it uses, its interval, and that no deadline is early."""

import pytest
from driven import DrivenLoop

from thestral import Config
from thestral.config import options
from thestral.protocol import phases
from thestral.protocol.clock import FASTEST_TICK, SLOWEST_TICK, TIMED, Clock, Timeouts

NOT_OF_THE_CLOCK = {
    "tcp_keepalive": "the kernel's",
    "timeout_graceful_shutdown": "the drain waits for it",
    "limit_worker_lifetime": "the supervisor's",
    "timeout_worker_healthcheck": "the supervisor's",
    "timeout_worker_startup": "the supervisor's",
    "timeout_worker_blocked": "the supervisor's",
    "watchdog": "in a thread of its own",
    "shutdown_delay": "the drain waits for it",
    "reload_delay": "the reloader's",
    "access_log_slow": "looked at when a request ends",
}


def app(scope, receive, send):
    """Never called."""


def test_each_option_in_seconds_is_the_clocks_or_known_not_to_be():
    in_seconds = {name for name, option in options() if option.unit == "seconds"}
    assert in_seconds - set(NOT_OF_THE_CLOCK) == set(TIMED)


@pytest.mark.parametrize("option", TIMED)
def test_each_time_out_reaches_the_clock(option):
    """It also sets the interval: a deadline that is checked too seldom is late."""
    others = dict.fromkeys(TIMED, 3600.0)
    timeouts = Timeouts(Config(app, **{**others, option: 0.8}))
    assert getattr(timeouts, option.removeprefix("timeout_")) == 0.8
    assert timeouts.interval == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shortest", "interval"), [(0.01, FASTEST_TICK), (0.4, 0.05), (60.0, SLOWEST_TICK)]
)
def test_interval_is_bounded(shortest, interval):
    options = dict.fromkeys(TIMED, 3600.0) | {"timeout_head": shortest}
    assert Timeouts(Config(app, **options)).interval == pytest.approx(interval)


@pytest.mark.parametrize(
    ("option", "off"),
    [("timeout_keep_alive", 0), ("ws_ping_interval", None), ("timeout_request", None)],
)
def test_off_is_no_time_out(option, off):
    timeouts = Timeouts(Config(app, **{option: off}))
    assert getattr(timeouts, option.removeprefix("timeout_")) == 0.0
    assert timeouts.interval == SLOWEST_TICK


@pytest.mark.parametrize("within", [0.0, 0.05, 0.0999])
def test_deadline_is_never_early_and_two_ticks_late_at_most(within):
    """At any time between two ticks at which the wait begins."""
    loop = DrivenLoop()
    clock = Clock(loop, 0.1)
    seen = []
    clock.observers.append(lambda now: seen.append(now) or True)
    clock.start()
    loop.run_next()
    loop.now += within
    began = loop.now
    deadline = clock.after(1.0)
    while seen[-1] < deadline:
        loop.run_next()
    assert 1.0 <= loop.now - began <= 1.0 + 2 * 0.1 + 1e-6


def test_clock_ticks_while_one_observer_wants_it():
    loop = DrivenLoop()
    clock = Clock(loop, 0.1)
    wanted = [True, False]
    clock.observers += [lambda now: wanted[0], lambda now: wanted[1]]
    clock.start()
    clock.start()
    assert len(loop.calls) == 1
    for wanted[:] in ([True, False], [False, True]):
        loop.run_next()
        assert len(loop.calls) == 1
    wanted[:] = [False, False]
    loop.run_next()
    assert loop.calls == []
    loop.now += 50
    clock.start()
    assert clock.now == loop.now
    assert len(loop.calls) == 1
    clock.stop()
    assert loop.calls == []


def test_observer_that_raises_stops_neither_the_others_nor_the_clock():
    loop = DrivenLoop()
    clock = Clock(loop, 0.1)
    seen = []

    def faulty(now):
        raise RuntimeError("faulty")

    clock.observers += [faulty, seen.append]
    clock.start()
    loop.run_next()
    assert [str(fault) for fault in loop.faults] == ["faulty"]
    assert seen == [loop.now]
    assert len(loop.calls) == 1


def test_each_phase_has_its_wait():
    """The phases, their names and the seconds of the options agree."""
    names = {
        name: value for name, value in vars(phases).items() if name.isupper() and type(value) is int
    }
    assert sorted(names.values()) == sorted(phases.PHASES) == list(range(len(names)))
    timeouts = Timeouts(Config(app, timeout_head=1.0, timeout_body=2.0, timeout_keep_alive=3.0))
    waits = phases.waits_of(timeouts)
    assert {name: waits[value] for name, value in names.items()} == {
        "FIRST_HEAD": 1.0,
        "HEAD": 1.0,
        "BODY": 2.0,
        "RESPONDING": 0.0,
        "IDLE": 3.0,
        "LAST_CHANCE": phases.DRAIN_GRACE,
        "TUNNEL": 0.0,
        "LINGERING": phases.LINGER_TIMEOUT,
        "CLOSING": 0.0,
    }
