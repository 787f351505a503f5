"""The handler of a route: reads the body, takes the parameters, solves dependencies, calls the
endpoint and makes the response, with everything that is the same for each request worked out once.

It stands for fastapi.routing.get_request_handler(), and leaves requests to the original where
something is unusual: telemetry that runs, overridden dependencies, a function that another has
replaced, a subclass of Request. Streams and forms go FastAPI's way altogether.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import Any

from fastapi import params, routing
from fastapi._body_limit import get_body_limit_error
from fastapi._compat import Undefined, lenient_issubclass
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import EndpointContext, RequestValidationError, ResponseValidationError
from fastapi.sse import EventSourceResponse
from opentelemetry import context as telemetry_context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from thestral.accelerate import bodies, responses
from thestral.accelerate.hops import call_in_thread
from thestral.accelerate.plan import Plan, is_known, located
from thestral.accelerate.solving import Solving

REPLACES = ("fastapi.routing:get_request_handler",)
RELIES_ON = (
    "fastapi._body_limit:get_body_limit_error",
    "fastapi._compat.shared:field_annotation_is_sequence",
    "fastapi._compat.v2:ModelField",
    "fastapi._compat.v2:_regenerate_error_with_loc",
    "fastapi.dependencies.models:Dependant",
    "fastapi.dependencies.models:_get_cache_key",
    "fastapi.dependencies.models:_get_oauth_scopes",
    "fastapi.dependencies.models:_is_async_gen_callable",
    "fastapi.dependencies.models:_is_coroutine_callable",
    "fastapi.dependencies.models:_is_gen_callable",
    "fastapi.dependencies.utils:SolvedDependency",
    "fastapi.dependencies.utils:_get_form_models",
    "fastapi.dependencies.utils:_get_multidict_value",
    "fastapi.dependencies.utils:_get_param_aliases",
    "fastapi.dependencies.utils:_get_param_model",
    "fastapi.dependencies.utils:_should_embed_body_fields",
    "fastapi.dependencies.utils:_solve_generator",
    "fastapi.dependencies.utils:_validate_value_with_model_field",
    "fastapi._compat.v2:get_missing_field_error",
    "fastapi.dependencies.utils:get_dependant",
    "fastapi.dependencies.utils:request_body_to_args",
    "fastapi.dependencies.utils:request_params_to_args",
    "fastapi.dependencies.utils:solve_dependencies",
    "fastapi.encoders:jsonable_encoder",
    "fastapi.exceptions:RequestValidationError",
    "fastapi.exceptions:ResponseValidationError",
    "fastapi.routing:_build_response_args",
    "fastapi.routing:_extract_endpoint_context",
    "fastapi.routing:_operation",
    "fastapi.routing:_run_sync_endpoint",
    "fastapi.routing:_validation_failed",
    "fastapi.routing:get_telemetry_data",
    "fastapi.routing:run_endpoint_function",
    "fastapi.routing:serialize_response",
    "fastapi.telemetry._api:_get_request_telemetry",
    "fastapi.utils:is_body_allowed_for_status_code",
    "opentelemetry.context.contextvars_context:ContextVarsRuntimeContext",
    "pydantic.type_adapter:TypeAdapter.dump_json",
    "pydantic.type_adapter:TypeAdapter.validate_python",
    "starlette.concurrency:run_in_threadpool",
    "starlette.datastructures:Headers",
    "starlette.datastructures:ImmutableMultiDict",
    "starlette.datastructures:QueryParams",
    "starlette.requests:HTTPConnection",
    "starlette.requests:Request",
    "starlette.responses:JSONResponse",
    "starlette.responses:Response",
)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

OF_ROUTING, OF_UTILS = vars(routing), vars(utils)
original_get_request_handler = routing.get_request_handler
# What the handler goes around, under the names by which tracers replace it.
original_solve = utils.solve_dependencies
original_serialize = routing.serialize_response
original_run_endpoint = routing.run_endpoint_function
original_run_in_threadpool = run_in_threadpool
original_encoder = jsonable_encoder
original_body, original_stream, original_json = Request.body, Request.stream, Request.json
original_init, original_init_headers = Response.__init__, Response.init_headers
original_render = Response.render
original_json_init, original_json_render = JSONResponse.__init__, JSONResponse.render
original_dumps = json.dumps

SIGNATURE = inspect.signature(original_get_request_handler)
RUNTIME: Any = telemetry_context._RUNTIME_CONTEXT
if type(RUNTIME) is not ContextVarsRuntimeContext:
    raise ImportError(f"OpenTelemetry's context is a {type(RUNTIME).__name__}")
TELEMETRY = RUNTIME._current_context
_accelerated: set[int] = set()  # ids of the dependants whose handlers are ours


def install() -> None:
    setattr(routing, "get_request_handler", get_request_handler)  # noqa: B010  (typed as constant)


def why_not(route: Any) -> str | None:
    dependant = getattr(route, "dependant", None)
    if not isinstance(dependant, Dependant) or not hasattr(route, "body_field"):
        return "not an HTTP route of FastAPI"
    reason = unfit(dependant, route.body_field, route.response_class, route.response_field)
    if reason is None and id(dependant) not in _accelerated:
        return "made before the acceleration, or by a class of its own"
    return reason


def unfit(dependant: Dependant, body: Any, response_class: Any, response: Any) -> str | None:
    """Say why FastAPI's own handler must serve a route; None if ours does."""
    if isinstance(response_class, DefaultPlaceholder):
        response_class = response_class.value
    call = dependant.call
    if (
        models._is_gen_callable(call)
        or models._is_async_gen_callable(call)
        or lenient_issubclass(response_class, EventSourceResponse)
    ):
        return "a stream"
    if body and isinstance(body.field_info, params.Form):
        return "a form"
    if response is not None and not is_known(response):
        return "an unknown class of its response's field"
    return None


def is_replaced() -> bool:
    """Whether another has replaced what the handler goes around."""
    return not (
        OF_ROUTING["solve_dependencies"] is original_solve
        and routing.serialize_response is original_serialize
        and routing.run_endpoint_function is original_run_endpoint
        and OF_ROUTING["run_in_threadpool"] is original_run_in_threadpool
        and OF_UTILS["run_in_threadpool"] is original_run_in_threadpool
        and OF_ROUTING["jsonable_encoder"] is original_encoder
        and Request.body is original_body
        and Request.stream is original_stream
        and Request.json is original_json
        and Response.__init__ is original_init
        and Response.init_headers is original_init_headers
        and Response.render is original_render
        and JSONResponse.__init__ is original_json_init
        and JSONResponse.render is original_json_render
        and json.dumps is original_dumps
    )


def get_request_handler(*args: Any, **kwargs: Any) -> Handler:
    original = original_get_request_handler(*args, **kwargs)
    given = SIGNATURE.bind(*args, **kwargs)
    given.apply_defaults()
    options = given.arguments
    dependant: Dependant = options["dependant"]
    response_class, field = options["response_class"], options["response_field"]
    if options["is_json_stream"] or unfit(dependant, options["body_field"], response_class, field):
        return original
    _accelerated.add(id(dependant))
    answers = responses.Answers(
        options["status_code"],
        response_class,
        field,
        {
            name.removeprefix("response_model_"): value
            for name, value in options.items()
            if name.startswith("response_model_")
        },
    )
    return make_handler(original, answers, **options)


def make_handler(
    original: Handler,
    answers: responses.Answers,
    *,
    dependant: Dependant,
    body_field: Any,
    response_field: Any,
    dependency_overrides_provider: Any,
    embed_body_fields: bool,
    strict_content_type: Any,
    **others: Any,
) -> Handler:
    """Make the handler of a route; the arguments are those of get_request_handler()."""
    is_coroutine = models._is_coroutine_callable(dependant.call)
    if isinstance(strict_content_type, DefaultPlaceholder):
        strict_content_type = strict_content_type.value
    has_body = bool(body_field)
    validate = None if response_field is None else response_field.validate
    provider = dependency_overrides_provider
    plan: Plan | None = None

    async def app(request: Request) -> Response:
        nonlocal plan
        scope = request.scope
        if (
            type(request) is not Request
            or TELEMETRY.get()
            or telemetry_context._RUNTIME_CONTEXT is not RUNTIME
            or type(scope.get("fastapi_middleware_astack")) is not AsyncExitStack
            or type(scope.get("fastapi_inner_astack")) is not AsyncExitStack
            or type(scope.get("fastapi_function_astack")) is not AsyncExitStack
            or type(scope["headers"]) is not list
            or (provider and provider.dependency_overrides)
            or is_replaced()
        ):
            return await original(request)
        if plan is None or not plan.fits():
            plan = Plan(dependant, embed_body_fields, {})
        body: Any = Undefined
        if has_body:
            try:
                body = await bodies.read(request, strict_content_type)
            except HTTPException:
                raise
            except Exception as exc:
                raise body_error(exc, request, dependant) from exc
        if plan.reads_headers:
            _ = request.headers  # as they are now, before a dependency changes the scope
        solving = Solving(request, body, embed_body_fields, provider)
        values: dict[str, Any] = {}
        errors: list[Any] = []
        if plan.is_simple:
            solving.solve_simple(plan, values, errors)
        else:
            await solving.solve(plan, values, errors)
        if errors:
            raise RequestValidationError(
                errors,
                body=None if body is Undefined else body,
                endpoint_ctx=context_of(dependant, request),
            )
        call: Any = dependant.call
        if is_coroutine:
            raw = result = await call(**values)
            wrong = None
            if response_field is not None and not isinstance(raw, Response):
                try:
                    result = response_field._type_adapter.validator.validate_python(
                        raw, from_attributes=True
                    )
                except ValidationError as exc:
                    wrong = located(exc, ("response",))
        else:
            raw, result, wrong = await call_in_thread(call_and_validate, call, values, validate)
        if isinstance(result, Response):
            if result.background is None:
                result.background = solving.background
            return result
        if wrong:
            raise ResponseValidationError(
                errors=wrong, body=raw, endpoint_ctx=context_of(dependant, request)
            )
        return answers.make(result, solving.background, solving.response)

    return app


def call_and_validate(call: Any, values: dict[str, Any], validate: Any) -> tuple[Any, Any, Any]:
    """Call an endpoint that is not async, and validate what it returns, in one thread. FastAPI goes
    there twice, so that the validation does not see what the endpoint has set in its context.
    """
    untouched = copy_context() if validate is not None else None
    result = call(**values)
    if untouched is None or isinstance(result, Response):
        return result, result, None
    value, errors = untouched.run(validate, result, {}, loc=("response",))
    return result, value, errors


def body_error(exc: Exception, request: Request, dependant: Dependant) -> Exception:
    """What FastAPI makes of an exception while it reads the body."""
    if isinstance(exc, json.JSONDecodeError):
        error = {
            "type": "json_invalid",
            "loc": ("body", exc.pos),
            "msg": "JSON decode error",
            "input": {},
            "ctx": {"error": exc.msg},
        }
        context = context_of(dependant, request)
        return RequestValidationError([error], body=exc.doc, endpoint_ctx=context)
    if MAX_BODY_SIZE_SCOPE_KEY in request.scope and (limit := get_body_limit_error(exc)):
        return limit
    return HTTPException(status_code=400, detail="There was an error parsing the body")


def context_of(dependant: Dependant, request: Request) -> EndpointContext:
    """Where an error has come from."""
    context = (
        routing._extract_endpoint_context(dependant.call) if dependant.call else EndpointContext()
    )
    if dependant.path:
        mounted = request.scope.get("root_path", "").rstrip("/")
        context["path"] = f"{request.method} {mounted}{dependant.path}"
    return context
