"""The compiled modules, and where Python finds them.

They are in two shared objects. An object of its own would cost each module about 10 KB of the
compressed wheel: tables of symbols, and copies of the C library's functions. Python finds a
compiled module by its name in MODULES; the loader calls PyInit_<last part of the name> in whatever
file it is given, so these last parts differ within an object.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from types import ModuleType

FAST = "-O2"  # part of each request
SMALL = "-Os"  # two thirds of the bytes: seldom used, or its work is done in C

# Shared object, module, how it is compiled; setup.py builds from this. _core has .pyx files; the
# others are the .py files with a .pxd beside them.
MODULES = {
    "_codecs": {
        "_core.coroutine": FAST,
        "_core.errors": SMALL,
        "_core.head": FAST,
        "_core.http1": FAST,
        "_core.http2": FAST,
        "_core.log": SMALL,
        "_core.metrics": SMALL,
        "_core.socket": SMALL,
        "_core.websocket": SMALL,
    },
    "_server": {
        "net.listeners": SMALL,
        "net.poller": FAST,
        "net.transport": FAST,
        "protocol.access": SMALL,
        "protocol.clock": SMALL,
        "protocol.connection": FAST,
        "protocol.context": FAST,
        "protocol.cycle": FAST,
        "protocol.exchange": FAST,
        "protocol.filebody": SMALL,
        "protocol.http": SMALL,
        "protocol.http1": FAST,
        "protocol.http2": FAST,
        "protocol.messages": FAST,
        "protocol.output": FAST,
        "protocol.preamble": SMALL,
        "protocol.proxy": SMALL,
        "protocol.response": FAST,
        "protocol.runner": FAST,
        "protocol.scope": FAST,
        "protocol.settings": SMALL,
        "protocol.streams": FAST,
        "protocol.tls": SMALL,
        "protocol.trace": SMALL,
        "protocol.turn": SMALL,
        "protocol.websocket": SMALL,
    },
}


class Finder:
    """Finds compiled modules, before Python finds the source that lies beside some of them."""

    def __init__(self) -> None:
        folder = os.path.dirname(os.path.abspath(__file__))
        self._files: dict[str, str] = {}  # module: path of its shared object
        for shared, modules in MODULES.items():
            path = os.path.join(folder, shared + EXTENSION_SUFFIXES[0])
            self._files |= {f"thestral.{name}": path for name in modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        if file is None:
            return None
        spec = ModuleSpec(fullname, ExtensionFileLoader(fullname, file), origin=file)
        spec.has_location = True  # the module gets a __file__
        return spec


sys.meta_path.insert(0, Finder())
