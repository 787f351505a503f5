"""What solving the parameters of an endpoint or a dependency needs, worked out once: a Plan stands
for a Dependant of FastAPI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import attrgetter
from typing import Any
from urllib.parse import parse_qsl

from fastapi import params
from fastapi._compat import shared
from fastapi._compat.v2 import ModelField, _regenerate_error_with_loc, get_missing_field_error
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant
from pydantic import TypeAdapter, ValidationError

# Defaults of these types need no copy for each request.
CONSTANTS = (type(None), str, int, float, bool)
# What a plan depends on and a program may change after the route was made.
SHAPE = attrgetter(
    *("call", "dependencies", "path_params", "query_params", "header_params", "cookie_params"),
    "body_params",
)


@dataclass(slots=True)
class Parameter:
    """A parameter with a single value in the path, the query, a header or a cookie.

    Attributes:
        name: of the function's argument.
        alias: in the request.
        loc: where errors say that it is.
        default: without a value in the request, if `constant`; else the field is asked for it.
        validates_default: whether the default is validated, too.
    """

    name: str
    alias: str
    loc: tuple[str, ...]
    required: bool
    constant: bool
    default: Any
    validates_default: bool
    field: ModelField
    adapter: TypeAdapter[Any]


class Plan:
    """How a dependant is solved.

    Attributes:
        path, query, header, cookie: parameters that have a single value each; None if FastAPI's own
            function must extract them.
        header_aliases: of each field name that parameters are taken from.
        body: the field that the whole body is for; None if there is none, or if FastAPI's own
            function must take the body apart.
        is_simple: whether solving it never waits: it has no dependencies, and FastAPI's own
            function need not take the body apart.
        reads_headers: whether it or a dependency takes something from headers or cookies.
        takes_specials: whether it takes the request, tasks, the response, or scopes.
        is_generator, is_coroutine: how a dependency is called.
        key: of a dependency in the cache of results.
    """

    dependencies: list[Plan]
    reads_headers: bool

    def __init__(self, dependant: Dependant, embed: bool, uses_scopes: dict[Any, Any]) -> None:
        self.dependant = dependant
        self.path = parameters(dependant.path_params)
        self.query = parameters(dependant.query_params)
        self.header = parameters(dependant.header_params)
        self.cookie = parameters(dependant.cookie_params)
        self.header_aliases = names_of(self.header or ())
        if self.header and not self.header_aliases:
            self.header = None
        fields = dependant.body_params
        self.body = fields[0] if is_whole_body(fields, embed) else None
        self.dependencies = [Plan(found, embed, uses_scopes) for found in dependant.dependencies]
        self._shapes = [(dependant, copied(SHAPE(dependant)))]
        for plan in self.dependencies:
            self._shapes += plan._shapes
        self.is_simple = not self.dependencies and (not fields or self.body is not None)
        self.reads_headers = bool(dependant.header_params or dependant.cookie_params) or any(
            plan.reads_headers for plan in self.dependencies
        )
        self.takes_specials = any(
            (
                dependant.http_connection_param_name,
                dependant.request_param_name,
                dependant.background_tasks_param_name,
                dependant.response_param_name,
                dependant.security_scopes_param_name,
            )
        )
        call = dependant.call
        self.is_generator = models._is_gen_callable(call) or models._is_async_gen_callable(call)
        self.is_coroutine = not self.is_generator and models._is_coroutine_callable(call)
        self.key = models._get_cache_key(dependant=dependant, uses_scopes_cache=uses_scopes)

    def fits(self) -> bool:
        """Whether the dependant and its dependencies are still as they were."""
        for dependant, shape in self._shapes:  # noqa: SIM110  (a generator costs as much again)
            if SHAPE(dependant) != shape:
                return False
        return True


def copied(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(list(value) if type(value) is list else value for value in shape)


def parameters(fields: Sequence[ModelField]) -> list[Parameter] | None:
    """The parameters of one kind; None if one of them is a model or a list, or has several
    aliases.
    """
    found = []
    for field in fields:
        info = field.field_info
        aliases = utils._get_param_aliases(field)
        if (
            not is_known(field)
            or not isinstance(info, params.Param)
            or utils._get_param_model(field) is not None
            or shared.field_annotation_is_sequence(info.annotation)
            or len(aliases) != 1
        ):
            return None
        alias = aliases[0][1]
        required = info.is_required()
        constant = not required and info.default_factory is None and type(info.default) in CONSTANTS
        found.append(
            Parameter(
                name=field.name,
                alias=alias,
                loc=(info.in_.value, alias),
                required=required,
                constant=constant,
                default=info.default if constant else None,
                validates_default=bool(info.validate_default),
                field=field,
                adapter=field._type_adapter,
            )
        )
    return found


def is_known(field: Any) -> bool:
    """Whether a field validates and serializes as FastAPI's own do."""
    return type(field) is ModelField and type(field._type_adapter) is TypeAdapter


def is_whole_body(fields: Sequence[ModelField], embed: bool) -> bool:
    """Whether a single field takes the whole body, as utils.request_body_to_args() decides."""
    return (
        len(fields) == 1
        and not embed
        and not utils._should_embed_body_fields(list(fields))
        and not utils._get_form_models(fields[0])
        and is_known(fields[0])
    )


def extract(
    found: list[Parameter],
    get: Callable[[str], str | None],
    values: dict[str, Any],
    errors: list[Any],
) -> None:
    """Take parameters from a request, as utils.request_params_to_args() does.

    Args:
        get: returns the value of an alias; None if the request has none.
        values, errors: get the values by the arguments' names, and what is wrong.
    """
    for parameter in found:
        value: Any = get(parameter.alias)
        if value is None:
            if parameter.required:
                errors.append(get_missing_field_error(loc=parameter.loc))
                continue
            value = parameter.default if parameter.constant else deepcopy(parameter.field.default)
            if not parameter.validates_default:
                values[parameter.name] = value
                continue
        try:
            values[parameter.name] = parameter.adapter.validator.validate_python(
                value, from_attributes=True
            )
        except ValidationError as exc:
            errors.extend(located(exc, parameter.loc))


def located(exc: ValidationError, loc: tuple[str, ...]) -> list[Any]:
    """The errors of a validation as ModelField.validate() returns them."""
    return _regenerate_error_with_loc(errors=exc.errors(include_url=False), loc_prefix=loc)


def read_query(query: bytes) -> dict[str, str]:
    """Return the last value of each name, as starlette.datastructures.QueryParams has them."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return dict(parse_qsl(text, keep_blank_values=True))
    found = {}
    for piece in text.split("&"):
        if piece:
            name, _, value = piece.partition("=")
            found[name] = value
    return found


def names_of(found: Sequence[Parameter]) -> dict[bytes, list[str]]:
    """The aliases of parameters by the names of their fields; empty if a name cannot be sent."""
    names: dict[bytes, list[str]] = {}
    for parameter in found:
        try:
            name = parameter.alias.lower().encode("latin-1")
        except UnicodeEncodeError:
            return {}
        names.setdefault(name, []).append(parameter.alias)
    return names


def read_headers(
    fields: list[tuple[bytes, bytes]], names: dict[bytes, list[str]]
) -> dict[str, str]:
    """Return the first value of each field, as starlette.datastructures.Headers has it, by the
    aliases of its name.
    """
    values: dict[str, str] = {}
    for name, value in fields:
        if name in names:
            for alias in names[name]:
                if alias not in values:
                    values[alias] = value.decode("latin-1")
    return values
