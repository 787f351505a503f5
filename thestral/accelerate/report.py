"""What `thestral check --accelerate` says: which groups are on, and which routes go their way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from thestral.accelerate.groups import module_of, status, told

DEEPEST = 100  # applications within applications that are looked at


def report(app: Any) -> list[str]:
    """Describe how an application is accelerated, in lines.

    Args:
        app: the application, with its routes; middleware may be around it.
    """
    states = status()
    on = [group for group, reason in states.items() if reason is None]
    lines = [f"Accelerated: {', '.join(on) or 'nothing'}"]
    lines += told(states)
    if on:
        lines += [f"  {name}: {verdict(route, on)}" for name, route in routes_of(app)]
    return lines


def verdict(route: Any, on: Iterable[str]) -> str:
    """Say which of the groups that are on do nothing for a route, and why."""
    found: dict[str, list[str]] = {}
    for group in on:
        reason = module_of(group).why_not(route)
        if reason is not None:
            found.setdefault(reason, []).append(group)
    if not found:
        return "accelerated"
    return "; ".join(f"without {', '.join(groups)} ({why})" for why, groups in found.items())


def routes_of(app: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield a name and the route, for all routes of an application and of what is mounted in it."""
    while not hasattr(app, "routes") and hasattr(app, "app") and depth < DEEPEST:
        app, depth = app.app, depth + 1
    for route in getattr(app, "routes", None) or () if depth < DEEPEST else ():
        yield from named(route, prefix, depth)


def named(route: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if hasattr(route, "effective_candidates"):  # an included router, which names whole paths
        for inner in route.effective_candidates():
            yield from named(inner, prefix, depth)
        return
    shown = getattr(route, "starlette_route", None) or route  # of an included router
    path = prefix + getattr(shown, "path", "")
    inner = list(routes_of(shown, path, depth + 1)) if hasattr(shown, "app") else []
    if inner:
        yield from inner
        return
    methods = ", ".join(sorted(getattr(shown, "methods", None) or ()))
    yield f"{methods or type(shown).__name__} {path}", route
