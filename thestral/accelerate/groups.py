"""The groups: which functions each replaces, whether it fits what is installed, which are on.

A group is a module of this package with the group's name (see MODULES), which has

- REPLACES: names of what it replaces, and
- RELIES_ON: names of what it goes around or whose inside it knows, as fingerprints.find() takes
  them; a name of a class stands for all that the class defines;
- install(): replaces;
- why_not(route): why a route does not go the group's fast way, in a few words; None if it does.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from types import ModuleType

from thestral.accelerate.fingerprints import PYTHON, find, fingerprint, known
from thestral.errors import AccelerateError
from thestral.logging.loggers import error_logger

# In the order in which they are installed.
FASTAPI = (
    *("introspection", "telemetry", "parameters", "stacks", "middleware", "router"),
    "threads",
)
TARGETS = {"fastapi": FASTAPI, "threads": ("threads",)}
REQUIRE = "require"
# Modules with another name: `threads` is a function of the package, which the module would hide.
MODULES = {"threads": "workers"}

# Of this process: why a group is off, or None if it is on; why code does not fit, or None if it
# does. Code is looked at only once: afterwards a group may have replaced it.
_groups: dict[str, str | None] = {}
_code: dict[str, str | None] = {}


def read(value: str) -> tuple[Sequence[str], bool]:
    """Return the groups that a value of the option names, and whether all are required.

    Args:
        value: "fastapi" or "threads", perhaps with "=" and words, separated by commas: groups, of
            which the others stay off then, and "require".

    Raises:
        ValueError: it names something else.
    """
    target, equals, rest = value.partition("=")
    if target not in TARGETS:
        raise ValueError(f"{target!r} given, expected one of {', '.join(TARGETS)}")
    words = [word.strip() for word in rest.split(",")] if equals else []
    for word in words:
        if word not in (*TARGETS[target], REQUIRE):
            expected = ", ".join((*TARGETS[target], REQUIRE))
            raise ValueError(f"{word!r} given for {target}, expected some of {expected}")
    chosen = [group for group in TARGETS[target] if group in words]
    return chosen or TARGETS[target], REQUIRE in words


def turn_on(groups: Iterable[str], require: bool = False) -> dict[str, str | None]:
    """Install groups, those that are on already excepted, and log why others stay off.

    Args:
        groups: their names.
        require: whether all must be on.

    Returns:
        For each, why it is off; None if it is on.

    Raises:
        AccelerateError: one is required, and off.
        ValueError: there is no such group.
    """
    asked = set(groups)
    if not asked <= set(FASTAPI):
        unknown = ", ".join(sorted(asked - set(FASTAPI)))
        raise ValueError(f"{unknown}: no such group, expected some of {', '.join(FASTAPI)}")
    names = [name for name in FASTAPI if name in asked]
    added = [name for name in names if name not in _groups]
    modules = {name: load(name) for name in added}
    for name, module in modules.items():
        if not isinstance(module, ModuleType):
            _groups[name] = module
            continue
        module.install()
        _groups[name] = None
    if require and any(_groups[name] is not None for name in names):
        raise AccelerateError("; ".join(told(names)))
    for line in told(added):
        error_logger.warning("%s", line)
    return {name: _groups[name] for name in names}


def is_on(group: str) -> bool:
    """Whether a group is on, or is going to be: groups are installed in the order of FASTAPI."""
    return _groups.get(group, "") is None


def status() -> dict[str, str | None]:
    """Return, for each group that was asked for, why it is off; None if it is on."""
    return dict(_groups)


def told(groups: Iterable[str]) -> list[str]:
    """Say which of some groups are off: a line for each reason."""
    off: dict[str, list[str]] = {}
    for group in groups:
        reason = _groups[group]
        if reason is not None:
            off.setdefault(reason, []).append(group)
    return [f"Not accelerated: {', '.join(names)} ({reason})" for reason, names in off.items()]


def module_of(group: str) -> ModuleType:
    return importlib.import_module(f"thestral.accelerate.{MODULES.get(group, group)}")


def load(group: str) -> ModuleType | str:
    """Return a group's module, or why the group must stay off."""
    try:
        module = module_of(group)
    except (ImportError, AttributeError) as exc:
        return str(exc)
    misfit = next(filter(None, map(look, (*module.REPLACES, *module.RELIES_ON))), None)
    return misfit or module


def look(name: str) -> str | None:
    """Say why code is not what was tested; None if it is."""
    if name not in _code:
        _code[name] = compare(name)
    return _code[name]


def compare(name: str) -> str | None:
    try:
        found = find(name)
    except (ImportError, AttributeError):
        return f"{name} is missing"
    by_version = tested().get(name, {})
    if PYTHON not in by_version:
        return f"{name} was not tested with Python {PYTHON}"
    if fingerprint(found) not in by_version[PYTHON]:
        return f"{name} differs from what was tested"
    return None


_tested: dict[str, dict[str, list[str]]] = {}


def tested() -> dict[str, dict[str, list[str]]]:
    if not _tested:
        _tested.update(known())
    return _tested
