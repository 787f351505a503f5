"""Finds the route of a request by a tree of path segments instead of trying all routes in turn, and
routes of included routers without matching them twice.

The tree gives all routes that may match, in order, and perhaps others: each route's own regular
expression decides. It serves requests that a route of FastAPI matches; everything else is left to
FastAPI: what no route matches, other methods, redirects, mounts, WebSockets, unknown classes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from fastapi import routing
from fastapi.routing import APIRoute, APIRouter, APIWebSocketRoute, _IncludedRouter
from starlette import convertors
from starlette import routing as starlette_routing
from starlette._utils import get_route_path
from starlette.routing import Host, Match, Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

REPLACES = (
    "fastapi.routing:APIRouter.app",
    "fastapi.routing:APIRouter._mark_routes_changed",
)
RELIES_ON: tuple[str, ...] = (
    "fastapi.routing:APIRoute.handle",
    "fastapi.routing:APIRoute.matches",
    "fastapi.routing:APIRouter.handle",
    "fastapi.routing:APIRouter.matches",
    "fastapi.routing:APIRouter._get_routes_version",
    "fastapi.routing:APIWebSocketRoute.matches",
    "fastapi.routing:_EffectiveRouteContext.matches",
    "fastapi.routing:_IncludedRouter",
    "fastapi.routing:_get_fastapi_scope",
    "fastapi.routing:_get_scope_effective_route_context",
    "fastapi.routing:_get_scope_included_router",
    "fastapi.routing:_route_selected",
    "fastapi.routing:_update_scope",
    "starlette._utils:get_route_path",
    "starlette.convertors:FloatConvertor",
    "starlette.convertors:IntegerConvertor",
    "starlette.convertors:PathConvertor",
    "starlette.convertors:StringConvertor",
    "starlette.convertors:UUIDConvertor",
    "starlette.routing:Host.matches",
    "starlette.routing:Mount.matches",
    "starlette.routing:Route.handle",
    "starlette.routing:Route.matches",
    "starlette.routing:WebSocketRoute.matches",
    "starlette.routing:compile_path",
)

# FastAPI 0.165 has brought limits of forms, which routers hand on.
HAS_LIMITS = hasattr(routing, "_apply_router_form_limits")
if HAS_LIMITS:
    RELIES_ON += (
        "fastapi.routing:_apply_router_form_limits",
        "fastapi.routing:_resolve_form_limits",
    )
# Convertors whose values never contain a slash, and the one whose values may.
OF_SEGMENTS = (
    convertors.StringConvertor,
    convertors.IntegerConvertor,
    convertors.FloatConvertor,
    convertors.UUIDConvertor,
)
KNOWN_CONVERTORS = (*OF_SEGMENTS, convertors.PathConvertor)
SCOPE_KEY = routing._FASTAPI_SCOPE_KEY
INCLUDED_KEY = routing._FASTAPI_INCLUDED_ROUTER_KEY
CONTEXT_KEY = routing._FASTAPI_EFFECTIVE_ROUTE_CONTEXT_KEY

original_app = APIRouter.app
original_mark = APIRouter._mark_routes_changed
originals = {
    (kind, name): getattr(kind, name)
    for kind, names in {
        APIRoute: ("matches", "handle"),
        APIRouter: ("matches", "handle"),
        APIWebSocketRoute: ("matches",),
        Host: ("matches",),
        Mount: ("matches",),
        Route: ("matches", "handle"),
        WebSocketRoute: ("matches",),
    }.items()
    for name in names
}
_changes = 0  # of the routes of any router, so far


def install() -> None:
    APIRouter.app = app  # type: ignore[method-assign]
    APIRouter._mark_routes_changed = mark_routes_changed  # type: ignore[method-assign]


def why_not(route: Any) -> str | None:
    found = getattr(route, "original_route", route)  # of an included router
    if not isinstance(found, APIRoute):
        return f"of class {type(found).__name__}"
    if not is_plain(found, APIRoute):
        return "a class with its own matches() or handle()"
    if not has_known_convertors(route):
        return "a convertor of the application's own"
    return None


def mark_routes_changed(self: APIRouter) -> None:
    global _changes
    _changes += 1
    original_mark(self)


@dataclass(slots=True)
class Node:
    """A place in the tree: routes whose paths have the same segments up to here.

    Attributes:
        literals: next places, by the segment that leads there.
        parameter: next place, for a segment with parameters.
        rest: indices of entries that may match any rest of a path.
        ends: indices of entries that end here.
    """

    literals: dict[str, Node] = field(default_factory=dict)
    parameter: Node | None = None
    rest: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """A route, or what may stand in its place.

    Attributes:
        route: a route of FastAPI, which may be included, or what FastAPI must handle.
        chain: the included routers around it.
        is_route: whether it is a route of FastAPI.
        is_pure: whether its matches() can be called once more without harm.
    """

    route: Any
    chain: tuple[_IncludedRouter, ...] = ()
    is_route: bool = True
    is_pure: bool = False


class Tree:
    """The routes of a router.

    Attributes:
        first_included: index of the first entry behind an included router, whose look at a request
            leaves a dictionary in the scope.
    """

    def __init__(self, router: APIRouter) -> None:
        self.changes = _changes
        self.routes = list(router.routes)
        self.entries: list[Entry] = []
        self.first_included = sys.maxsize
        self._root = Node()
        for route in self.routes:
            self._add(route)

    def _add(self, route: Any) -> None:
        if isinstance(route, _IncludedRouter):
            self.first_included = min(self.first_included, len(self.entries))
            entries = entries_of(route, (route,))
            for entry in [Entry(route, is_route=False)] if entries is None else entries:
                self._insert(entry, "" if entries is None else entry.route.path)
        elif is_plain(route, WebSocketRoute) or is_plain(route, APIWebSocketRoute):
            return  # never matches HTTP
        elif is_plain(route, APIRoute) and has_known_convertors(route):
            self._insert(Entry(route), route.path)
        elif type(route) in (Route, Mount) and is_plain(route, type(route)):
            pure = has_known_convertors(route)
            path = route.path + ("/{path:path}" if type(route) is Mount else "")
            self._insert(Entry(route, is_route=False, is_pure=pure), path)
        else:
            pure = type(route) is Host and is_plain(route, Host) and has_known_convertors(route)
            self._insert(Entry(route, is_route=False, is_pure=pure), "")

    def _insert(self, entry: Entry, path: str) -> None:
        """Add an entry where its path leads.

        Args:
            path: "" if it may match any path.
        """
        index = len(self.entries)
        self.entries.append(entry)
        node = self._root
        if not path.startswith("/") or not is_compiled_from(entry.route, path):
            node.rest.append(index)
            return
        for segment in path[1:].split("/"):
            names = starlette_routing.PARAM_REGEX.findall(segment)
            if not names and "{" not in segment and "}" not in segment:
                node = node.literals.setdefault(segment, Node())
            elif names and all(
                type(entry.route.param_convertors[name]) in OF_SEGMENTS for name, _ in names
            ):
                if node.parameter is None:
                    node.parameter = Node()
                node = node.parameter
            else:
                node.rest.append(index)
                return
        node.ends.append(index)

    def candidates(self, path: str) -> list[int]:
        """Return the indices of the entries that may match, in order."""
        found: list[int] = []
        collect(self._root, path[1:].split("/"), 0, found)
        if len(found) > 1:
            found.sort()
        return found


def collect(node: Node, segments: list[str], at: int, found: list[int]) -> None:
    """Add the entries below a place that may match the segments from `at` on."""
    while True:
        if node.rest:
            found += node.rest
        if at == len(segments):
            found += node.ends
            return
        child = node.literals.get(segments[at])
        if node.parameter is None:
            if child is None:
                return
            node = child
        else:
            if child is not None:
                collect(child, segments, at + 1, found)
            node = node.parameter
        at += 1


def entries_of(included: _IncludedRouter, chain: tuple[_IncludedRouter, ...]) -> list[Entry] | None:
    """The routes of an included router; None if something in it is unknown."""
    if type(included) is not _IncludedRouter or not is_plain(included.original_router, APIRouter):
        return None
    entries = []
    for candidate in included.effective_candidates():
        if isinstance(candidate, _IncludedRouter):
            inner = entries_of(candidate, (*chain, candidate))
            if inner is None:
                return None
            entries += inner
            continue
        route: Any = candidate.original_route
        if is_plain(route, WebSocketRoute) or is_plain(route, APIWebSocketRoute):
            continue
        if not is_plain(route, APIRoute) or not has_known_convertors(candidate):
            return None
        entries.append(Entry(candidate, chain))
    return entries


def is_plain(route: Any, kind: type) -> bool:
    """Whether an object of a class, or of one derived from it, matches and handles requests as that
    class does.
    """
    if not isinstance(route, kind):
        return False
    for name in ("matches", "handle"):
        original = originals.get((kind, name))
        if original is not None and getattr(type(route), name) is not original:
            return False
        if name in vars(route):
            return False
    return True


def has_known_convertors(route: Any) -> bool:
    found = getattr(route, "param_convertors", {})
    return all(type(convertor) in KNOWN_CONVERTORS for convertor in found.values())


def is_compiled_from(route: Any, path: str) -> bool:
    """Whether a route's regular expression is that of a path."""
    try:
        return bool(starlette_routing.compile_path(path)[0].pattern == route.path_regex.pattern)
    except Exception:
        return False


async def app(self: APIRouter, scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for APIRouter.app()."""
    found = None
    if scope["type"] == "http" and "fastapi.telemetry" not in scope and SCOPE_KEY not in scope:
        found = find(self, scope)
    if found is None:
        await original_app(self, scope, receive, send)
        return
    tree, index, values = found
    entry = tree.entries[index]
    route = entry.route
    if HAS_LIMITS and self.form_limits:
        routing._apply_router_form_limits(scope, self.form_limits)
    if "router" not in scope:
        scope["router"] = self
    if index >= tree.first_included:
        scope.setdefault(SCOPE_KEY, {})
    scope["endpoint"] = route.endpoint
    scope["path_params"] = {**scope.get("path_params", {}), **values}
    if not entry.chain:
        scope["route"] = route
        await route.app(scope, receive, send)
        return
    for included in entry.chain if HAS_LIMITS else ():
        routing._apply_router_form_limits(scope, included.include_context.form_limits)
    scope["route"] = route.original_route
    fastapi_scope = scope[SCOPE_KEY]
    fastapi_scope[INCLUDED_KEY] = entry.chain[-1]
    fastapi_scope[CONTEXT_KEY] = route
    await route.app(scope, receive, send)


def find(router: APIRouter, scope: Scope) -> tuple[Tree, int, dict[str, Any]] | None:
    """Find the route of FastAPI that a request is for.

    Returns:
        the tree, the index of the entry, and the values of the path's parameters; None if FastAPI
        must find out.
    """
    tree: Tree | None = getattr(router, "_thestral_tree", None)
    if tree is None or tree.changes != _changes or tree.routes != router.routes:
        tree = router._thestral_tree = Tree(router)  # type: ignore[attr-defined]
    path = get_route_path(scope) if scope.get("root_path") else scope["path"]
    if path[:1] != "/" or path[-1:] == "\n":  # "$" matches before a line's end, too
        return None
    for index in tree.candidates(path):
        entry = tree.entries[index]
        route = entry.route
        if not entry.is_route:
            if not entry.is_pure or route.matches(scope)[0] == Match.FULL:
                return None
            continue
        match = route.path_regex.match(path)
        if match is None:
            continue
        values = match.groupdict()
        for name, value in values.items():
            values[name] = route.param_convertors[name].convert(value)
        if not route.methods or scope["method"] in route.methods:
            return tree, index, values
    return None
