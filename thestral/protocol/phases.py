"""The phases of an HTTP/1.1 connection: what the server waits for, how long, and what a client gets
that does not send it in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from thestral.protocol.clock import Timeouts

# The first head of a connection, of which nothing has come.
FIRST_HEAD = 0
# The rest of a head.
HEAD = 1
# The rest of a request's body.
BODY = 2
# Nothing: the application is at work, or slower than its client.
RESPONDING = 3
# The next request of a connection that is kept.
IDLE = 4
# At a shutdown, a request that may be on its way; none has to come any more.
LAST_CHANCE = 5
# Whatever the tunnel's protocol asks for, which its cycle knows.
TUNNEL = 6
# The client's end of the connection, after ours; what it still sends is dropped.
LINGERING = 7
# Nothing: what was written leaves, and then the connection closes.
CLOSING = 8

# A refused client is read from a little longer, so that its unread bytes do not reset the
# connection before it has read the refusal: RFC 9112 section 9.6.
LINGER_TIMEOUT = 2.0  # seconds
# At a shutdown the next request may be on its way on a connection that was busy this recently.
DRAIN_GRACE = 1.0  # seconds


class Wait(NamedTuple):
    """One phase's.

    Attributes:
        time_out: seconds, or the name in Timeouts; None if nothing is waited for.
        refusal: the reason that a 408 gives a client which is late; None if it gets no answer.
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
    """Seconds by phase; 0.0 where nothing is waited for."""
    given = [PHASES[phase].time_out for phase in range(len(PHASES))]
    return tuple(
        float(getattr(timeouts, one) if isinstance(one, str) else one or 0.0) for one in given
    )
