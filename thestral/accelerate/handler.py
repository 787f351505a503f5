"""Handles the requests of a path operation as the function does that get_request_handler() makes,
with a plan made at the first request.

That function runs itself for each request in which anything is unusual: functions that someone has
replaced, telemetry that is on, a Request of another class.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import Any, NoReturn

from fastapi import routing
from fastapi._compat import Undefined
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies import models, utils
from fastapi.exceptions import EndpointContext, RequestValidationError, ResponseValidationError
from fastapi.telemetry import _api as telemetry_api
from opentelemetry import context as otel_context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from pydantic import ValidationError
from pydantic_core import SchemaSerializer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thestral.accelerate.bodies import read
from thestral.accelerate.hops import call_in_thread
from thestral.accelerate.plan import FUNCTION_STACK, REQUEST_STACK, Plan, validator_of
from thestral.accelerate.responses import (
    MEDIA_TYPE,
    USUAL,
    Answer,
    fields_of,
    json_response,
    plain_json,
    status_of,
)
from thestral.accelerate.solving import Solution, fill, fill_bodies, located, solve

RELIES_ON = (
    "fastapi.exceptions:RequestValidationError",
    "fastapi.exceptions:ResponseValidationError",
    "fastapi.exceptions:ValidationException",
    "fastapi.routing:_build_response_args",
    "fastapi.routing:_extract_endpoint_context",
    "fastapi.routing:run_endpoint_function",
    "fastapi.routing:serialize_response",
    "fastapi.telemetry._api:_get_request_telemetry",
    "fastapi.telemetry._api:_operation",
    "fastapi.telemetry._api:_run_sync_endpoint",
    "fastapi.telemetry._api:_validation_failed",
    "fastapi.telemetry._api:get_telemetry_data",
    "fastapi.utils:is_body_allowed_for_status_code",
    "opentelemetry.context.contextvars_context:ContextVarsRuntimeContext",
    "pydantic.type_adapter:TypeAdapter.dump_json",
    "starlette.concurrency:run_in_threadpool",
)

TELEMETRY = telemetry_api._REQUEST_TELEMETRY_KEY
RUNTIME: Any = otel_context._RUNTIME_CONTEXT
if type(RUNTIME) is not ContextVarsRuntimeContext:
    raise ImportError(f"OpenTelemetry's context is a {type(RUNTIME).__name__}")
current_context = RUNTIME._current_context.get
MIDDLEWARE_STACK = "fastapi_middleware_astack"
OPTIONS = (
    *("include", "exclude", "by_alias"),
    *("exclude_unset", "exclude_defaults", "exclude_none"),
)

# What is gone around: it must be what it was, or FastAPI's handler runs.
solve_dependencies = routing.solve_dependencies
serialize_response = routing.serialize_response
run_endpoint_function = routing.run_endpoint_function
run_in_threadpool = routing.run_in_threadpool
jsonable_encoder = routing.jsonable_encoder
request_params_to_args = utils.request_params_to_args
response_init, response_init_headers = Response.__init__, Response.init_headers
response_render = Response.render


def is_usual(request: Request) -> bool:
    """Whether nobody has replaced what is gone around, and nothing observes the request."""
    scope = request.scope
    try:
        return (
            type(request) is Request
            and type(scope[FUNCTION_STACK]) is AsyncExitStack
            and type(scope[REQUEST_STACK]) is AsyncExitStack
            and type(scope[MIDDLEWARE_STACK]) is AsyncExitStack
            and type(scope["headers"]) is list
            and otel_context._RUNTIME_CONTEXT is RUNTIME
            and TELEMETRY not in current_context()
            and routing.solve_dependencies is solve_dependencies
            and routing.serialize_response is serialize_response
            and routing.run_endpoint_function is run_endpoint_function
            and routing.run_in_threadpool is run_in_threadpool
            and utils.solve_dependencies is solve_dependencies
            and utils.request_params_to_args is request_params_to_args
            and Response.__init__ is response_init
            and Response.init_headers is response_init_headers
            and Response.render is response_render
        )
    except KeyError:
        return False


class Handler:
    """Stands for a handler of FastAPI.

    Args:
        original: the handler.
        given: the arguments that get_request_handler() made it with.
    """

    __slots__ = (
        *("original", "dependant", "call", "is_coroutine", "has_body", "is_strict", "embed"),
        *("provider", "status_code", "status", "field", "response_class", "dumps_json"),
        *("is_plain", "options", "plan", "validate", "to_json", "has_options", "__weakref__"),
    )

    def __init__(
        self, original: Callable[[Request], Awaitable[Response]], given: dict[str, Any]
    ) -> None:
        self.original = original
        self.dependant: Any = given["dependant"]
        self.call: Any = self.dependant.call
        self.is_coroutine = models._is_coroutine_callable(self.call)
        self.has_body = bool(given["body_field"])
        self.is_strict = value_of(given["strict_content_type"])
        self.embed: bool = given["embed_body_fields"]
        self.provider = given["dependency_overrides_provider"]
        self.status_code = given["status_code"]
        self.status = status_of(self.status_code, None)
        self.field = given["response_field"]
        response_class = given["response_class"]
        self.response_class: type[Response] = value_of(response_class)
        self.dumps_json = self.field is not None and isinstance(response_class, DefaultPlaceholder)
        self.is_plain = self.field is None and self.response_class is JSONResponse
        self.options = {name: given[f"response_model_{name}"] for name in OPTIONS}
        set_options = {name: value for name, value in self.options.items() if value}
        self.has_options = set_options != {"by_alias": True}
        self.plan: Plan | None = None
        self.validate: Any = None  # the response, and
        self.to_json: Any = None  # writes it, where ModelField would

    def prepare(self) -> Plan:
        routing._extract_endpoint_context(self.call)
        serializer = self.field._type_adapter.serializer if self.dumps_json else None
        if type(serializer) is SchemaSerializer:
            self.to_json = serializer.to_json
            self.validate = validator_of(self.field)
        self.plan = Plan(self.dependant, self.embed)
        return self.plan

    async def respond(self, request: Request) -> Response | Answer:
        if self.dependant.call is not self.call or not is_usual(request):
            return await self.original(request)
        plan = self.plan
        if plan is None or plan.is_stale():
            plan = self.prepare()
        body = await read(request, self.is_strict, self.context_of) if self.has_body else Undefined
        values: dict[str, Any] = {}
        errors: list[Any] = []
        endpoint = plan.endpoint
        solution = None
        if plan.is_simple:
            fill(endpoint, request, body, None, values, errors)
        else:
            solution = Solution(request, body, self.provider, plan)
            if plan.steps:
                await solve(plan.steps, solution, values, errors)
            fill(endpoint, request, body, solution, values, errors)
            if endpoint.bodies:
                await fill_bodies(endpoint.bodies, solution, values, errors)
        if errors:
            self.refuse(request, body, errors)
        validate = self.validate
        if self.is_coroutine:
            raw = await self.call(**values)
        else:
            raw, value, wrong = await call_in_thread(self.run, values, validate)
        if isinstance(raw, Response):
            if raw.background is None and solution is not None:
                raw.background = solution.background_tasks
            return raw
        content = None
        if validate is not None:
            if self.is_coroutine:
                wrong = None
                try:
                    value = validate(raw, from_attributes=True)
                except ValidationError as exc:
                    wrong = located(exc, ("response",))
            if wrong:
                raise ResponseValidationError(
                    errors=wrong, body=raw, endpoint_ctx=self.context_of(request)
                )
            if self.has_options:
                content = self.to_json(value, **self.options)
            else:  # passing all of them takes longer
                content = self.to_json(value, by_alias=True)
        elif self.is_plain and routing.jsonable_encoder is jsonable_encoder:
            content = plain_json(raw)
        taken = solution.response if solution is not None else None
        status = self.status if taken is None else status_of(self.status_code, taken)
        if content is None or status not in USUAL:
            if solution is None:
                solution = Solution(request, body, self.provider, plan)
            return await self.make_response(raw, content, solution)
        fields = fields_of(content)
        if taken is not None:
            fields += taken.headers.raw
        background = solution.background_tasks if solution is not None else None
        return status, fields, content, background

    def run(self, values: dict[str, Any], validate: Any) -> tuple[Any, Any, Any]:
        """Call the endpoint in a thread, where FastAPI validates its result, too: in another turn,
        and so with the context that the endpoint found.
        """
        context = copy_context()
        raw = self.call(**values)
        if validate is None or isinstance(raw, Response):
            return raw, None, None
        return raw, *context.run(self.field.validate, raw, {}, loc=("response",))

    async def make_response(self, raw: Any, content: Any, solution: Solution) -> Response:
        """Make a response of another class, or with a status that needs care.

        Args:
            content: JSON by the response's model, or None.
        """
        if content is None or not self.dumps_json:
            content = await routing.serialize_response(
                field=self.field,
                response_content=raw,
                **self.options,
                is_coroutine=self.is_coroutine,
                endpoint_ctx=self.context_of(solution.request),
                dump_json=self.dumps_json,
            )
        taken = solution.take_response()
        response_args = routing._build_response_args(
            status_code=self.status_code, solved_result=solution
        )
        if self.dumps_json:
            response = Response(content=content, media_type=MEDIA_TYPE, **response_args)
        else:
            response = self.response_class(content, **response_args)
        if not routing.is_body_allowed_for_status_code(response.status_code):
            response.body = b""
        response.headers.raw.extend(taken.headers.raw)
        return response

    def response_of(self, answer: Response | Answer) -> Response:
        if isinstance(answer, Response):
            return answer
        return json_response(JSONResponse if self.is_plain else Response, answer)

    def refuse(self, request: Request, body: Any, errors: list[Any]) -> NoReturn:
        validation_error = RequestValidationError(
            errors,
            body=None if body is Undefined else body,
            endpoint_ctx=self.context_of(request),
        )
        routing._validation_failed(validation_error)
        raise validation_error

    def context_of(self, request: Request) -> EndpointContext:
        """Return what an error says of the endpoint."""
        dependant = self.dependant
        context = (
            routing._extract_endpoint_context(dependant.call)
            if dependant.call
            else EndpointContext()
        )
        if dependant.path:
            mount_path = request.scope.get("root_path", "").rstrip("/")
            context["path"] = f"{request.method} {mount_path}{dependant.path}"
        return context


def value_of(given: Any) -> Any:
    return given.value if isinstance(given, DefaultPlaceholder) else given
