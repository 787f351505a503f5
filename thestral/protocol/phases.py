"""The phases of an HTTP/1.1 connection: what the server waits for in each, for how long, and what a
client gets if it is late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from thestral.protocol.clock import Timeouts

# Waits for the first byte of the first head.
FIRST_HEAD = 0
# Waits for the rest of a head.
HEAD = 1
# Waits for the rest of a request's body.
BODY = 2
# Waits for the application, which is running, or receives body more slowly than the client sends.
RESPONDING = 3
# Waits for the next request, on a connection that is kept.
IDLE = 4
# During a shutdown, waits for a request that may be on its way. The client need not send one.
LAST_CHANCE = 5
# The tunnel's cycle has its own deadlines.
TUNNEL = 6
# Has closed its own side, waits for the client to close, and drops what it still sends.
LINGERING = 7
# Waits for nothing: closes once everything that was written has left.
CLOSING = 8

# How long the server reads on after its last response, so that the client's unread bytes do not
# reset the connection before the client has read the response: RFC 9112 section 9.6.
LINGER_TIMEOUT = 2.0  # seconds
# A connection that was busy this recently when the shutdown began may still send a request.
DRAIN_GRACE = 1.0  # seconds


class Wait(NamedTuple):
    """The wait of one phase.

    Attributes:
        time_out: seconds, or a name in Timeouts; None if the client owes nothing.
        refusal: the reason in the 408 that a late client gets; None if it gets no answer.
    """

    time_out: float | str | None
    refusal: str | None = None


PHASES = {
    FIRST_HEAD: Wait("head"),
    HEAD: Wait("head", "request head not received in time"),
    BODY: Wait("body", "body not received in time"),
    RESPONDING: Wait(None),
    IDLE: Wait("keep_alive"),
    LAST_CHANCE: Wait(DRAIN_GRACE),
    TUNNEL: Wait(None),
    LINGERING: Wait(LINGER_TIMEOUT),
    CLOSING: Wait(None),
}


def waits_of(timeouts: Timeouts) -> tuple[float, ...]:
    """Return the seconds of each phase; 0.0 where the client owes nothing."""
    given = [PHASES[phase].time_out for phase in range(len(PHASES))]
    return tuple(
        float(getattr(timeouts, one) if isinstance(one, str) else one or 0.0) for one in given
    )
