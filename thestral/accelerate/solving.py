"""Does for each request what solve_dependencies() does, along the steps of a plan. Where a step is
marked as unusual, FastAPI's own function does it, in its turn: values and errors keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from fastapi._compat import Undefined, v2
from fastapi.dependencies import models, utils
from fastapi.security import SecurityScopes
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from thestral.accelerate.hops import call_in_thread
from thestral.accelerate.plan import (
    ASK,
    COROUTINE,
    FUNCTION,
    HEADERS,
    PATH,
    QUERY,
    REQUEST_STACK,
    UNUSUAL,
    Plan,
    Step,
)

RELIES_ON = (
    "fastapi._compat.v2:_regenerate_error_with_loc",
    "fastapi._compat.v2:get_missing_field_error",
    "fastapi.dependencies.models:_get_oauth_scopes",
    "fastapi.dependencies.utils:SolvedDependency",
    "fastapi.dependencies.utils:_get_multidict_value",
    "fastapi.dependencies.utils:_solve_generator",
    "fastapi.dependencies.utils:_validate_value_with_model_field",
    "fastapi.dependencies.utils:request_body_to_args",
    "fastapi.dependencies.utils:request_params_to_args",
    "fastapi.dependencies.utils:solve_dependencies",
    "starlette.datastructures:Headers",
    "starlette.datastructures:ImmutableMultiDict",
    "starlette.datastructures:QueryParams",
    "starlette.requests:HTTPConnection",
)

MISSING: Any = object()
NOTHING: dict[str, Any] = {}

regenerated = v2._regenerate_error_with_loc


class Solution:
    """What is handed on from one dependency to the next, and to the endpoint."""

    __slots__ = (
        *("request", "body", "provider", "embed", "query_string", "query", "headers"),
        *("background_tasks", "response", "cache"),
    )

    def __init__(self, request: Request, body: Any, provider: Any, plan: Plan) -> None:
        self.request = request
        self.body = body
        self.provider = provider
        self.embed = plan.embed
        self.query_string = request.scope["query_string"]
        self.headers: Any = (
            request.headers._list if plan.keeps_headers else request.scope["headers"]
        )
        self.query: dict[str, str] | None = None
        self.background_tasks: Any = None
        self.response: Any = None  # only if someone takes it
        self.cache: dict[Any, Any] = {}

    def take_query(self) -> dict[str, str]:
        if self.query is None:
            self.query = parsed(self.query_string)
        return self.query

    def take_response(self) -> Any:
        """Return the response whose status and fields dependencies and the endpoint may set."""
        if self.response is None:
            self.response = utils.Response()
            del self.response.headers["content-length"]
            self.response.status_code = None
        return self.response


async def solve(
    steps: Sequence[Step], solution: Solution, values: dict[str, Any], errors: list[Any]
) -> None:
    """Call the dependencies of an endpoint.

    Args:
        steps: those of the dependencies.
        values: receives their results, which are arguments of the endpoint.
        errors: receives what is wrong with their parameters.
    """
    provider = solution.provider
    cache = solution.cache
    arguments: list[dict[str, Any]] = [{} for _ in steps]
    arguments.append(values)
    results = [MISSING] * len(steps)
    failed = set()  # positions of steps that are not called: something below them is wrong
    has_left = False  # whether FastAPI has solved some, and may have called what comes later
    at = 0
    while at < len(steps):
        step = steps[at]
        known = len(errors)
        left = step if step.kind is UNUSUAL else None
        if step.whole is not None and provider and provider.dependency_overrides:
            left = step.whole
        if left is not None:
            step = left
            for one, solved in zip(steps, results, strict=True):
                if solved is not MISSING:
                    cache.setdefault(one.key, solved)
            await leave(step, solution, arguments[step.parent], errors)
            has_left = True
        else:
            taken = arguments[at]
            fill(step, solution.request, solution.body, solution, taken, errors)
            if step.bodies:
                await fill_bodies(step.bodies, solution, taken, errors)
            if not errors or (len(errors) == known and at not in failed):
                is_shared = step.is_shared or has_left
                solved = cache.get(step.key, MISSING) if is_shared else MISSING
                if solved is MISSING or not step.dependant.use_cache:
                    if step.kind is COROUTINE:
                        solved = await step.call(**taken)
                    elif step.kind is FUNCTION:
                        if utils.run_in_threadpool is run_in_threadpool:
                            solved = await call_in_thread(partial(step.call, **taken))
                        else:
                            solved = await utils.run_in_threadpool(step.call, **taken)
                    else:
                        solved = await utils._solve_generator(
                            request=solution.request,
                            dependant=step.dependant,
                            stack=solution.request.scope[step.stack],
                            sub_values=taken,
                        )
                if step.name is not None:
                    arguments[step.parent][step.name] = solved
                results[at] = solved
                if is_shared:
                    cache.setdefault(step.key, solved)
        if errors and (len(errors) > known or step.index in failed):
            failed.add(step.parent)
        at = step.index + 1


async def leave(step: Step, solution: Solution, values: dict[str, Any], errors: list[Any]) -> None:
    """Have FastAPI solve a dependency, and what it needs."""
    solved = await utils.solve_dependencies(
        request=solution.request,
        dependant=step.alone,
        body=solution.body,
        background_tasks=solution.background_tasks,
        response=solution.take_response(),
        dependency_overrides_provider=solution.provider,
        dependency_cache=solution.cache,
        async_exit_stack=solution.request.scope[REQUEST_STACK],
        embed_body_fields=solution.embed,
    )
    values.update(solved.values)
    errors += solved.errors
    solution.background_tasks = solved.background_tasks


def fill(
    step: Step,
    request: Request,
    body: Any,
    solution: Solution | None,
    values: dict[str, Any],
    errors: list[Any],
) -> None:
    """Take the arguments of a step from the request, as solve_dependencies() does after its loop.

    Args:
        solution: None if the endpoint takes nothing else, and has no dependencies.
        values: receives the arguments.
        errors: receives what is wrong with them.
    """
    scope = request.scope
    received: Any
    for kind, parameters, names in step.groups:
        if kind is PATH:
            received = scope.get(PATH, NOTHING)
        elif kind is QUERY:
            received = solution.take_query() if solution else parsed(scope["query_string"])
        elif kind is HEADERS:
            received = first_values(solution.headers if solution else scope["headers"], names)
        else:
            received = request.cookies
        for alias, name, validate, default, field in parameters:
            if validate is None:
                given = getattr(request, kind)
                found, wrong = utils.request_params_to_args([field], given)
                values.update(found)
                errors += wrong
                continue
            value = received.get(alias)
            if value is not None:
                try:
                    values[name] = validate(value, from_attributes=True)
                except ValidationError as exc:
                    errors += located(exc, (field.field_info.in_.value, alias))
            elif default is ASK:
                ask(field, (field.field_info.in_.value, alias), name, values, errors)
            else:
                values[name] = default
    if step.body:
        name, validate, default, field = step.body
        if body is not Undefined:
            try:
                values[name] = validate(body, from_attributes=True)
            except ValidationError as exc:
                errors += located(exc, ("body",))
        elif default is ASK:
            ask(field, ("body",), name, values, errors)
        else:
            values[name] = default
    if step.takes_more and solution:
        fill_more(step.dependant, solution, values)


def located(exc: ValidationError, loc: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the errors of an exception as ModelField.validate() does."""
    return regenerated(errors=exc.errors(include_url=False), loc_prefix=loc)


def ask(
    field: v2.ModelField,
    loc: tuple[str, ...],
    name: str,
    values: dict[str, Any],
    errors: list[Any],
) -> None:
    """Have FastAPI say what the value of a field is that the request does not have."""
    value, wrong = utils._validate_value_with_model_field(
        field=field, value=Undefined, values={}, loc=loc
    )
    if wrong:
        errors += wrong
    else:
        values[name] = value


def parsed(query: bytes) -> dict[str, str]:
    """Return what QueryParams holds for get()."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return dict(parse_qsl(text, keep_blank_values=True))
    found = {}
    for piece in text.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            found[name] = value
    return found


def first_values(
    fields: list[tuple[bytes, bytes]], names: Sequence[tuple[str, bytes]]
) -> dict[str, str]:
    """Return what Headers holds for get() of some names, given as they are and as they are sent."""
    values = dict(reversed(fields))
    return {alias: values[name].decode("latin-1") for alias, name in names if name in values}


async def fill_bodies(
    fields: list[v2.ModelField], solution: Solution, values: dict[str, Any], errors: list[Any]
) -> None:
    """Have FastAPI take several fields, or one that is unusual, from the body."""
    found, wrong = await utils.request_body_to_args(
        body_fields=fields,
        received_body=solution.body,
        embed_body_fields=solution.embed,
    )
    values.update(found)
    errors += wrong


def fill_more(dependant: models.Dependant, solution: Solution, values: dict[str, Any]) -> None:
    """Add the arguments that are not parameters of the request."""
    if dependant.http_connection_param_name:
        values[dependant.http_connection_param_name] = solution.request
    if dependant.request_param_name:
        values[dependant.request_param_name] = solution.request
    if dependant.background_tasks_param_name:
        if solution.background_tasks is None:
            solution.background_tasks = utils.BackgroundTasks()
        values[dependant.background_tasks_param_name] = solution.background_tasks
    if dependant.response_param_name:
        values[dependant.response_param_name] = solution.take_response()
    if dependant.security_scopes_param_name:
        values[dependant.security_scopes_param_name] = SecurityScopes(
            scopes=models._get_oauth_scopes(dependant=dependant)
        )
