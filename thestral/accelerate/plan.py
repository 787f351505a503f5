"""What FastAPI works out of a route's dependant for each request, worked out once.

A Step stands for a dependant, of the endpoint or of a dependency. A parameter that is not a plain
scalar, and a dependency with anything unusual, is marked as such: for each request FastAPI's own
function is asked for it, in its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastapi import params
from fastapi._compat import v2
from fastapi.dependencies import models, utils
from fastapi.dependencies.models import Dependant
from pydantic_core import SchemaValidator

RELIES_ON = (
    "fastapi._compat.shared:field_annotation_is_sequence",
    "fastapi._compat.v2:ModelField",
    "fastapi.dependencies.models:Dependant",
    "fastapi.dependencies.models:_get_cache_key",
    "fastapi.dependencies.models:_get_computed_scope",
    "fastapi.dependencies.models:_is_async_gen_callable",
    "fastapi.dependencies.models:_is_coroutine_callable",
    "fastapi.dependencies.models:_is_gen_callable",
    "fastapi.dependencies.utils:_get_form_models",
    "fastapi.dependencies.utils:_get_param_aliases",
    "fastapi.dependencies.utils:_get_param_model",
    "fastapi.dependencies.utils:_should_embed_body_fields",
    "pydantic.type_adapter:TypeAdapter.validate_python",
)

PATH, QUERY, HEADERS, COOKIES = "path_params", "query_params", "headers", "cookies"  # of a Request
REQUEST_STACK, FUNCTION_STACK = "fastapi_inner_astack", "fastapi_function_astack"  # of a scope
LISTS = (
    *("dependencies", "path_params", "query_params"),
    *("header_params", "cookie_params", "body_params"),
)
CONSTANTS = (type(None), bool, int, float, str, bytes)  # deepcopy() returns these themselves
ASK: Any = object()  # no default, or one that FastAPI makes for each request
GENERATOR, COROUTINE, FUNCTION, UNUSUAL = "generator", "coroutine", "function", "unusual"

# A parameter: where its value is, the name of its argument, what validates it (None if it is not a
# plain scalar), its default, and its field.
Parameter = tuple[str, str, Callable[..., Any] | None, Any, Any]

# Parameters of one kind; for headers, the aliases and their names as they are sent.
Group = tuple[str, list[Parameter], list[tuple[str, bytes]]]


class Step:
    """How the arguments of one dependant are made, and how it is called."""

    __slots__ = (
        *("dependant", "groups", "bodies", "body", "takes_more", "call", "kind", "name", "stack"),
        *("key", "is_shared", "index", "parent", "whole", "alone"),
    )

    def __init__(self, dependant: Dependant, embed: bool) -> None:
        self.dependant = dependant
        groups = (
            (PATH, dependant.path_params),
            (QUERY, dependant.query_params),
            (HEADERS, dependant.header_params),
            (COOKIES, dependant.cookie_params),
        )
        self.groups = [group(kind, fields) for kind, fields in groups if fields]
        self.body: Any = None if embed else single_body(dependant.body_params)
        self.bodies = [] if self.body else dependant.body_params  # which FastAPI takes
        self.takes_more = any(
            (
                dependant.http_connection_param_name,
                dependant.request_param_name,
                dependant.background_tasks_param_name,
                dependant.response_param_name,
                dependant.security_scopes_param_name,
            )
        )
        self.call: Any = dependant.call
        self.kind = kind_of(dependant)
        self.name = dependant.name
        self.stack = FUNCTION_STACK if dependant.scope == "function" else REQUEST_STACK
        self.key = models._get_cache_key(dependant=dependant)
        self.is_shared = False  # whether its result may serve more than once in a request
        self.index = self.parent = 0  # positions in the plan
        # The outermost dependency that begins with this step; None if none does.
        self.whole: Step | None = None
        self.alone = Dependant(dependencies=[dependant])


class Plan:
    """The dependencies of a route in the order in which they are called, and the endpoint last."""

    __slots__ = (
        *("steps", "endpoint", "embed", "is_simple", "keeps_headers"),
        *("lists", "copies", "dependants"),
    )

    def __init__(self, dependant: Dependant, embed: bool) -> None:
        self.embed = embed
        self.steps: list[Step] = []
        self.add_all(dependant.dependencies, embed)
        self.endpoint = Step(dependant, embed)
        self.is_simple = not (self.steps or self.endpoint.takes_more or self.endpoint.bodies)
        # Whether headers are read after a dependency was called, which may have changed the scope.
        self.keeps_headers = any(
            step.kind is UNUSUAL or any(kind in (HEADERS, COOKIES) for kind, *_ in step.groups)
            for step in (*self.steps, self.endpoint)[1:]
        )
        dependants = [dependant, *all_below(dependant)]
        keys = Counter(models._get_cache_key(dependant=one) for one in dependants[1:])
        for step in self.steps:
            step.is_shared = keys[step.key] > 1
        self.lists = [getattr(one, name) for one in dependants for name in LISTS]
        self.copies = [list(found) for found in self.lists]
        self.dependants = [(one, one.call, one.dependencies) for one in dependants]

    def add_all(self, dependants: Sequence[Dependant], embed: bool) -> None:
        """Add the steps of some dependencies; the next step is that of what needs them."""
        steps = [self.add(one, embed) for one in dependants]
        for step in steps:
            step.parent = len(self.steps)

    def add(self, dependant: Dependant, embed: bool) -> Step:
        """Add the steps of what a dependency needs, then its own."""
        first = len(self.steps)
        step = Step(dependant, embed)
        if step.kind is not UNUSUAL:
            self.add_all(dependant.dependencies, embed)
        step.index = len(self.steps)
        self.steps.append(step)
        self.steps[first].whole = step
        return step

    def is_stale(self) -> bool:
        """Whether someone has changed a dependant since the plan was made."""
        if self.lists != self.copies:
            return True
        for dependant, call, dependencies in self.dependants:
            if dependant.call is not call or dependant.dependencies is not dependencies:
                return True
        return False


def all_below(dependant: Dependant) -> Iterator[Dependant]:
    for below in dependant.dependencies:
        yield below
        yield from all_below(below)


def kind_of(dependant: Dependant) -> str:
    """How solve_dependencies() calls a dependency."""
    if dependant.concurrency is not None:
        return UNUSUAL
    if models._is_gen_callable(dependant.call) or models._is_async_gen_callable(dependant.call):
        return GENERATOR
    return COROUTINE if models._is_coroutine_callable(dependant.call) else FUNCTION


def validator_of(field: Any) -> Callable[..., Any] | None:
    """Return what ModelField.validate() ends in; None where that is not pydantic's own validator:
    a plugin's, or one that is built only once it is used.
    """
    if type(field) is v2.ModelField and type(field._type_adapter.validator) is SchemaValidator:
        return field._type_adapter.validator.validate_python
    return None


def default_of(field: v2.ModelField) -> Any:
    info = field.field_info
    if info.default_factory is None and type(info.default) in CONSTANTS:
        return ASK if info.validate_default else info.default
    return ASK


def parameter(field: v2.ModelField) -> Parameter:
    aliases = utils._get_param_aliases(field)
    plain = (
        len(aliases) == 1
        and isinstance(field.field_info, params.Param)
        and utils._get_param_model(field) is None
        and not utils.field_annotation_is_sequence(field.field_info.annotation)
    )
    validate = validator_of(field) if plain else None
    return aliases[0][1], field.name, validate, default_of(field), field


def group(kind: str, fields: Sequence[v2.ModelField]) -> Group:
    parameters = [parameter(field) for field in fields]
    names = [(one[0], one[0].lower().encode("latin-1")) for one in parameters if kind is HEADERS]
    return kind, parameters, names


def single_body(fields: list[v2.ModelField]) -> Any:
    """Return the body if it is one whole, as request_body_to_args() tells it, else None."""
    if (
        len(fields) != 1
        or utils._should_embed_body_fields(fields)
        or utils._get_form_models(fields[0])
        or validator_of(fields[0]) is None
    ):
        return None
    field = fields[0]
    return field.name, validator_of(field), default_of(field), field
