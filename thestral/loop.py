"""Which event loop: uvloop where it is, else asyncio's."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable

from thestral.errors import ConfigError


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """A function that makes a loop.

    Args:
        name: "auto", "uvloop", "asyncio", "none", or "module:function".

    Raises:
        ConfigError: "uvloop", and it is not installed; or there is no such function.
    """
    module, colon, function = name.partition(":")
    if colon:
        try:
            factory = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigError("loop", f"{name!r} cannot be imported: {exc}") from exc
        if not callable(factory):
            raise ConfigError("loop", f"{name!r} is no function")
        return factory  # type: ignore[no-any-return]
    if name not in ("asyncio", "none"):
        try:
            import uvloop
        except ImportError:
            if name == "uvloop":
                raise ConfigError("loop", "'uvloop' given, but it is not installed") from None
        else:
            return uvloop.new_event_loop  # type: ignore[no-any-return,unused-ignore]
    return asyncio.new_event_loop
