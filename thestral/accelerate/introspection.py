"""What FastAPI works out of a parameter's annotation for each request is worked out once.

The answers depend on the field's FieldInfo and annotation alone, which FastAPI does not change
once a field is made; where they are others, the answer is worked out again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from fastapi import _compat
from fastapi._compat import shared
from fastapi._compat.v2 import ModelField
from fastapi.dependencies import utils

OF_FIELDS = ("_get_param_model", "_get_param_aliases", "_is_json_field", "_get_form_models")
SEQUENCE = "field_annotation_is_sequence"
# Modules that have the name of their own.
SEQUENCE_MODULES = (shared, _compat, utils)
ANNOTATIONS_KEPT = 4096  # fields made anew for each request must not fill the memory

REPLACES = (
    *(f"fastapi.dependencies.utils:{name}" for name in OF_FIELDS),
    f"fastapi._compat.shared:{SEQUENCE}",
    f"fastapi.dependencies.utils:{SEQUENCE}",
    f"fastapi._compat:{SEQUENCE}",
)
RELIES_ON = (
    "fastapi._compat.v2:ModelField",
    "fastapi._compat.shared:_annotation_is_sequence",
    "fastapi._compat.shared:lenient_issubclass",
    "fastapi.dependencies.utils:_get_model_type",
    "fastapi.dependencies.utils:_get_form_union_models",
    "fastapi.dependencies.utils:get_validation_alias",
)


def install() -> None:
    for name in OF_FIELDS:
        setattr(utils, name, kept_on_field(getattr(utils, name)))
    sequence = kept_by_annotation(getattr(shared, SEQUENCE))
    for module in SEQUENCE_MODULES:
        setattr(module, SEQUENCE, sequence)


def why_not(route: Any) -> str | None:
    return None


def kept_on_field(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function of a ModelField keep its answers in the field."""
    slot = f"_thestral{function.__name__}"

    @functools.wraps(function)
    def keeping(field: Any, **options: Any) -> Any:
        if options or type(field) is not ModelField:
            return function(field, **options)
        info = field.field_info
        kept = field.__dict__.get(slot)
        if kept is not None and kept[0] is info and kept[1] is info.annotation:
            answer = kept[2]
        else:
            answer = function(field)
            field.__dict__[slot] = (info, info.annotation, answer)
        return answer.copy() if type(answer) is list else answer

    return keeping


def kept_by_annotation(function: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Have a function of an annotation keep its answers. Annotations need not be hashable, so they
    are found by their identity, and kept alive with the answer.
    """
    answers: dict[int, tuple[Any, bool]] = {}

    @functools.wraps(function)
    def keeping(annotation: Any) -> bool:
        kept = answers.get(id(annotation))
        if kept is not None and kept[0] is annotation:
            return kept[1]
        answer = function(annotation)
        if len(answers) >= ANNOTATIONS_KEPT:
            answers.clear()
        answers[id(annotation)] = annotation, answer
        return answer

    return keeping
