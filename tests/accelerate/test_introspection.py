"""The group `introspection`: the same answers, also for fields and annotations that change."""

from __future__ import annotations

import child

BOTH = """
import copy
from typing import Annotated, Optional, Union
from fastapi import FastAPI, Form, Header, Query
from fastapi._compat import shared
from fastapi.dependencies import utils
from pydantic import AliasChoices, BaseModel, Json

NAMES = ("_get_param_model", "_get_param_aliases", "_is_json_field", "_get_form_models")
originals = {name: getattr(utils, name) for name in NAMES}
sequence = shared.field_annotation_is_sequence

import thestral.accelerate
thestral.accelerate.fastapi(["introspection"], require=True)
from fastapi import _compat


class Model(BaseModel):
    a: int


def endpoint(
    plain: int,
    many: Annotated[list[int], Query()],
    both: Annotated[Union[list[str], None], Query()],
    model: Annotated[Model, Header()],
    json: Annotated[Json[list[int]], Query()],
    names: Annotated[str, Query(validation_alias=AliasChoices("x", "y"))],
): ...


def form(data: Annotated[Optional[Model], Form()]): ...


fields = []
for number, function in enumerate((endpoint, form)):
    dependant = utils.get_dependant(path="/{plain}", call=function)
    for kind in ("path", "query", "header", "body"):
        fields += getattr(dependant, f"{kind}_params")
assert len(fields) == 7
"""


def test_answers():
    child.run(f"""{BOTH}
for field in fields:
    for name, original in originals.items():
        for again in range(2):
            assert getattr(utils, name)(field) == original(field), (name, field)
    aliases = utils._get_param_aliases(field, convert_underscores=True)
    assert aliases == originals["_get_param_aliases"](field, convert_underscores=True)
    for again in range(2):
        annotation = field.field_info.annotation
        for module in (shared, _compat, utils):
            assert module.field_annotation_is_sequence(annotation) == sequence(annotation)
""")


def test_answers_are_the_callers():
    child.run(f"""{BOTH}
for field in fields:
    expected = originals["_get_param_aliases"](field)
    utils._get_param_aliases(field).clear()
    utils._get_form_models(field).clear()
    assert utils._get_param_aliases(field) == expected
    assert utils._get_form_models(field) == originals["_get_form_models"](field)
""")


def test_fields_that_change():
    child.run(f"""{BOTH}
def same(field):
    return all(getattr(utils, name)(field) == originals[name](field) for name in NAMES)

model, plain = fields[5], fields[0]
assert utils._get_param_model(model) is Model
info = model.field_info
model.field_info = plain.field_info
assert same(model)
assert utils._get_param_model(model) is None
model.field_info = info
info.annotation = int
assert same(model)
assert utils._get_param_model(model) is None
copied = copy.copy(plain)
copied.field_info = copy.copy(info)
copied.field_info.annotation = Model
assert same(copied) and same(plain)
""")


def test_annotations_are_kept_with_their_answers():
    """An annotation that is gone may leave its identity to another."""
    child.run(f"""{BOTH}
for number in range(20_000):
    kind = list if number % 2 else dict
    assert utils.field_annotation_is_sequence(kind[(int, str)[:2]]) == (kind is list)
""")
