"""Which event loop: uvloop where it is, else asyncio's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from thestral.errors import ConfigError


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that makes a loop.

    Args:
        name: "auto", "uvloop" or "asyncio".

    Raises:
        ConfigError: "uvloop", and it is not installed.
    """
    if name != "asyncio":
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigError("loop", "'uvloop' given, but it is not installed") from None
        else:
            return uvloop.new_event_loop  # type: ignore[no-any-return,unused-ignore]
    return asyncio.new_event_loop
