"""The template of the route that an application has found for a request, as "/items/{item_id}".

Starlette leaves the route in the scope. FastAPI does, too, but with routers that it has included
the route is the router's own, without the prefix, or there is none; then FastAPI leaves a context
beside it.
"""

from __future__ import annotations

from typing import Any


def template_of(scope: dict[str, Any]) -> str:
    """Return the template; "" if the scope has no route whose template is known."""
    try:
        return read(scope)
    except Exception:  # the objects belong to the application: anything may raise
        return ""


def read(scope: dict[str, Any]) -> str:
    route: Any = scope.get("route")
    details = scope.get("fastapi")
    context = details.get("effective_route_context") if isinstance(details, dict) else None
    if context is not None and (
        context.original_route is route or not hasattr(route, "path_format")
    ):
        route = getattr(context, "starlette_route", None) or context
    template = route.path_format
    if not isinstance(template, str):
        return ""
    prefix = ""
    if "app_root_path" in scope:  # below a mount
        is_mount = hasattr(route, "routes")
        prefix = scope["root_path"].removeprefix(scope["app_root_path"])
        if is_mount:  # nothing in it matched; its own path is in root_path already
            template = template.removeprefix(route.path)
        own = () if is_mount else route.param_convertors
        for name, value in scope.get("path_params", {}).items():
            if name not in own:  # it was in the path of a mount
                prefix = f"{prefix}/".replace(f"/{value}/", f"/{{{name}}}/", 1)[:-1]
    return prefix + template
