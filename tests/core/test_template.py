"""Template: each request gets a copy that no other request holds or has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from thestral._core.head import Template

ITEMS = {"version": "3.0", "own": {}}
KEPT = 32  # copies


def test_copies_that_are_held_stay_apart():
    template = Template(ITEMS)
    held = [template.fresh() for _ in range(KEPT + 1)]
    assert held == [ITEMS] * (KEPT + 1)
    assert len({id(copy) for copy in held}) == KEPT + 1
    assert len({id(copy["own"]) for copy in held}) == KEPT + 1


def test_copy_that_nobody_holds_is_used_again():
    template = Template(ITEMS)
    first = id(template.fresh())
    assert id(template.fresh()) == first


def test_copies_of_requests_that_ran_together_are_used_again():
    template = Template(ITEMS)
    held = [template.fresh() for _ in range(KEPT)]
    kept = {id(copy) for copy in held}
    del held
    again = [template.fresh() for _ in range(KEPT)]
    assert {id(copy) for copy in again} == kept


def change(copy: dict[str, Any]) -> None:
    copy["version"] = "2.0"


def add(copy: dict[str, Any]) -> None:
    copy["mine"] = True


def remove(copy: dict[str, Any]) -> None:
    del copy["own"]


def reorder(copy: dict[str, Any]) -> None:
    copy["version"] = copy.pop("version")


def fill(copy: dict[str, Any]) -> None:
    copy["own"]["mine"] = True


@pytest.mark.parametrize("spoil", [change, add, remove, reorder, fill])
def test_copy_that_was_changed_is_given_to_nobody(spoil: Callable[[dict[str, Any]], None]):
    template = Template(ITEMS)
    for _ in range(KEPT + 1):
        copy = template.fresh()
        assert list(copy.items()) == list(ITEMS.items())
        spoil(copy)


def test_copy_whose_part_is_held_is_given_to_nobody():
    template = Template(ITEMS)
    parts = [template.fresh()["own"] for _ in range(KEPT + 1)]
    assert len({id(part) for part in parts}) == KEPT + 1
