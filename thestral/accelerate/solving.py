"""Solves dependencies as fastapi.dependencies.utils.solve_dependencies() does, by Plans."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi._compat import Undefined
from fastapi.background import BackgroundTasks
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant
from fastapi.security import SecurityScopes
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from thestral.accelerate.hops import call_in_thread
from thestral.accelerate.plan import Plan, extract, located, read_headers, read_query


class Solving:
    """What the dependencies of one request share.

    Args:
        request: the request.
        body: JSON, bytes or Undefined.
        embed: whether each parameter is one key of the body.
        provider: what has the overridden dependencies, or something false.

    Attributes:
        background: the tasks to run after the response, once something has asked for them.
        response: the response whose headers and status dependencies may set, likewise.
        results: of dependencies, by key.
    """

    __slots__ = (
        *("_provider", "_query", "background", "body", "embed", "request", "response", "results"),
        "scope",
    )

    def __init__(self, request: Request, body: Any, embed: bool, provider: Any) -> None:
        self.request = request
        self._provider = provider
        self.scope = request.scope
        self.body = body
        self.embed = embed
        self.background: BackgroundTasks | None = None
        self.response: Response | None = None
        self.results: dict[Any, Any] = {}
        self._query: bytes | dict[str, str] = request.scope["query_string"]

    async def solve(self, plan: Plan, values: dict[str, Any], errors: list[Any]) -> None:
        """Fill in what a function is called with, and what is wrong with the request."""
        if plan.dependencies:
            await self._solve_dependencies(plan, values, errors)
        self._take_parameters(plan, values, errors)
        fields = plan.dependant.body_params
        if plan.body is not None:
            self._take_body(plan.body, values, errors)
        elif fields:
            found, wrong = await utils.request_body_to_args(
                body_fields=fields, received_body=self.body, embed_body_fields=self.embed
            )
            values.update(found)
            errors.extend(wrong)
        if plan.takes_specials:
            self._take_specials(plan, values)

    def solve_simple(self, plan: Plan, values: dict[str, Any], errors: list[Any]) -> None:
        """Do the same for a plan that is simple."""
        self._take_parameters(plan, values, errors)
        if plan.body is not None:
            self._take_body(plan.body, values, errors)
        if plan.takes_specials:
            self._take_specials(plan, values)

    async def _solve_dependencies(
        self, plan: Plan, values: dict[str, Any], errors: list[Any]
    ) -> None:
        results, provider = self.results, self._provider
        for one in plan.dependencies:
            used = one
            if provider and provider.dependency_overrides:  # an earlier dependency's work
                used = self._overridden(one.dependant)
            arguments: dict[str, Any] = {}
            wrong: list[Any] = []
            if used.is_simple:
                self.solve_simple(used, arguments, wrong)
            else:
                await self.solve(used, arguments, wrong)
            if wrong:
                errors.extend(wrong)
                continue
            dependant = one.dependant
            if dependant.use_cache and one.key in results:
                result = results[one.key]
            elif used.is_coroutine and used.dependant.concurrency is None:
                result = await used.dependant.call(**arguments)  # type: ignore[misc]
            else:
                result = await self._call(used, arguments)
            if dependant.name is not None:
                values[dependant.name] = result
            if one.key not in results:
                results[one.key] = result

    def _overridden(self, dependant: Dependant) -> Plan:
        call: Any = dependant.call
        replacing = utils.get_dependant(
            path=dependant.path,  # type: ignore[arg-type]
            call=self._provider.dependency_overrides.get(call, call),
            name=dependant.name,
            parent_oauth_scopes=models._get_oauth_scopes(dependant=dependant),
            scope=dependant.scope,
            concurrency=dependant.concurrency,
        )
        return Plan(replacing, self.embed, {})

    async def _call(self, plan: Plan, arguments: dict[str, Any]) -> Any:
        dependant = plan.dependant
        call: Any = dependant.call
        if plan.is_generator:
            of_function = dependant.scope == "function"
            stack = self.scope["fastapi_function_astack" if of_function else "fastapi_inner_astack"]
            return await utils._solve_generator(
                request=self.request, dependant=dependant, stack=stack, sub_values=arguments
            )
        if dependant.concurrency is None:
            return await call_in_thread(partial(call, **arguments))
        async with dependant.concurrency.get_semaphore():
            if plan.is_coroutine:
                return await call(**arguments)
            return await call_in_thread(partial(call, **arguments))

    def _take_parameters(self, plan: Plan, values: dict[str, Any], errors: list[Any]) -> None:
        """Take the values from path, query, header and cookies, in FastAPI's order."""
        request = self.request
        if plan.path:
            extract(plan.path, request.path_params.get, values, errors)
        elif plan.path is None:
            self._take_by_fastapi(plan.dependant.path_params, request.path_params, values, errors)
        if plan.query:
            if type(self._query) is bytes:
                self._query = read_query(self._query)
            extract(plan.query, self._query.get, values, errors)  # type: ignore[union-attr]
        elif plan.query is None:
            self._take_by_fastapi(plan.dependant.query_params, request.query_params, values, errors)
        if plan.header:
            found = read_headers(request.headers._list, plan.header_aliases)
            extract(plan.header, found.get, values, errors)
        elif plan.header is None:
            self._take_by_fastapi(plan.dependant.header_params, request.headers, values, errors)
        if plan.cookie:
            extract(plan.cookie, request.cookies.get, values, errors)
        elif plan.cookie is None:
            self._take_by_fastapi(plan.dependant.cookie_params, request.cookies, values, errors)

    def _take_by_fastapi(
        self, fields: Any, received: Any, values: dict[str, Any], errors: list[Any]
    ) -> None:
        found, wrong = utils.request_params_to_args(fields, received)
        values.update(found)
        errors.extend(wrong)

    def _take_body(self, field: Any, values: dict[str, Any], errors: list[Any]) -> None:
        """Validate the whole body, as utils.request_body_to_args() does for a single field."""
        if self.body is Undefined:
            values[field.name], wrong = utils._validate_value_with_model_field(
                field=field, value=Undefined, values={}, loc=("body",)
            )
            errors.extend(wrong)
            return
        values[field.name] = None
        try:
            values[field.name] = field._type_adapter.validator.validate_python(
                self.body, from_attributes=True
            )
        except ValidationError as exc:
            errors.extend(located(exc, ("body",)))

    def _take_specials(self, plan: Plan, values: dict[str, Any]) -> None:
        dependant = plan.dependant
        if dependant.http_connection_param_name:
            values[dependant.http_connection_param_name] = self.request
        if dependant.request_param_name:
            values[dependant.request_param_name] = self.request
        if dependant.background_tasks_param_name:
            if self.background is None:
                self.background = BackgroundTasks()
            values[dependant.background_tasks_param_name] = self.background
        if dependant.response_param_name:
            values[dependant.response_param_name] = self._own_response()
        if dependant.security_scopes_param_name:
            scopes = models._get_oauth_scopes(dependant=dependant)
            values[dependant.security_scopes_param_name] = SecurityScopes(scopes=scopes)

    def _own_response(self) -> Response:
        if self.response is None:
            self.response = Response()
            del self.response.headers["content-length"]
            self.response.status_code = None  # type: ignore[assignment]
        return self.response
