"""The ids of a trace, from the field traceparent (W3C Trace Context, level 1)."""

from __future__ import annotations

import re

# Version, trace-id, parent-id and trace-flags. Only lower-case digits are valid; version ff and ids
# of zeros are not. Only a later version has anything after the flags.
TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
)


def read_traceparent(value: bytes) -> tuple[str, str] | None:
    """Return the ids of the trace and of the caller's span; None if the value is invalid."""
    found = TRACEPARENT.fullmatch(value)
    if found is None or (found[1] == b"00" and found[4] is not None):
        return None
    return found[2].decode(), found[3].decode()
