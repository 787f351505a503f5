"""Ids of requests: new ones are UUIDs of version 7 (RFC 9562 section 5.7), and those of a trace
come from the field traceparent (W3C Trace Context, level 1).
"""

from __future__ import annotations

import os
import re
import time

RANDOM_SIZE = 10  # bytes; 74 of their bits are used
# Version, trace-id, parent-id and trace-flags. Only lower-case digits are valid; version ff and ids
# of zeros are not. What follows the flags is a later version's.
TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)


def uuid7() -> str:
    """Return a new UUID that begins with the time, so that ids sort by it."""
    noise = int.from_bytes(os.urandom(RANDOM_SIZE), "big")
    high = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | (noise >> 62 & 0xFFF)
    low = 1 << 63 | noise & (1 << 62) - 1
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def read_traceparent(value: bytes) -> tuple[str, str] | None:
    """Return the ids of the trace and of the caller's span; None if the value is invalid."""
    found = TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[4] is not None):
        return None
    return found[2].decode(), found[3].decode()
