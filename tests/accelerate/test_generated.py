"""Applications and requests made at random look the same with and without acceleration.

THESTRAL_FUZZ_SECONDS says for how long to make more of them (`make accelerate-fuzz`), and
THESTRAL_FUZZ_SEED where to begin; a failure prints the seed and the program.
"""

from __future__ import annotations

import json
import os
import time

import compare
import pytest
from generated import case_of

SECONDS = float(os.environ.get("THESTRAL_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("THESTRAL_FUZZ_SEED", "0"))
AT_ONCE = 100  # cases in one interpreter
ENOUGH = 2  # groups of that size in the usual suite

# Faults to make in the accelerated side: the comparison must see each.
FAULTS = {
    "fields": "from thestral.accelerate import responses\nresponses.CONTENT_TYPE = (b'a', b'b')",
    "order of routes": (
        "from thestral.accelerate.router import Tree\n"
        "real = Tree.candidates\n"
        "Tree.candidates = lambda self, path: real(self, path)[::-1]"
    ),
    "stacks never left": (
        "from collections import deque\n"
        "from thestral.accelerate import stacks\n"
        "class Empty(deque):\n"
        "    def __bool__(self): return False\n"
        "stacks.deque = Empty"
    ),
    "exceptions": (
        "from thestral.accelerate import middleware, stacks\n"
        "async def handle(exc, *others): raise exc\n"
        "stacks.handle = middleware.failures.handle = handle"
    ),
    "aliases": (
        "from fastapi.dependencies import utils\n"
        "utils._get_param_aliases = lambda field, **options: [(field.name, field.name)]"
    ),
    "context of threads": (
        "from contextvars import Context\n"
        "from thestral.accelerate import workers\n"
        "workers.copy_context = Context"
    ),
    "fields in another order": (
        "from thestral.accelerate import handler\n"
        "real = handler.fields_of\n"
        "handler.fields_of = lambda content: real(content)[::-1]"
    ),
    "defaults": ("from thestral.accelerate import plan\nplan.default_of = lambda field: None"),
    "background tasks": (
        "from thestral.accelerate.handler import Handler\n"
        "real = Handler.respond\n"
        "async def respond(self, request):\n"
        "    answer = await real(self, request)\n"
        "    if isinstance(answer, tuple): return (*answer[:3], None)\n"
        "    answer.background = None\n"
        "    return answer\n"
        "Handler.respond = respond"
    ),
    "stacks left late": (
        "from thestral.accelerate import plan\nplan.FUNCTION_STACK = plan.REQUEST_STACK"
    ),
    "stacks left twice": (
        "from collections import deque\n"
        "from thestral.accelerate import stacks\n"
        "class Twice(deque):\n"
        "    again = True\n"
        "    def pop(self):\n"
        "        callback = super().pop()\n"
        "        if self.again:\n"
        "            self.again = False\n"
        "            self.append(callback)\n"
        "        return callback\n"
        "stacks.deque = Twice"
    ),
    "responses that have begun": (
        "from thestral.accelerate import stacks\n"
        "real = stacks.handle\n"
        "async def handle(exc, request, handlers, started, *others):\n"
        "    await real(exc, request, handlers, False, *others)\n"
        "stacks.handle = handle"
    ),
    "overrides": (
        "from thestral.accelerate.solving import Solution\n"
        "real = Solution.__init__\n"
        "def init(self, request, body, provider, plan): real(self, request, body, None, plan)\n"
        "Solution.__init__ = init"
    ),
}
# Replaces a function as the faults do, but by one that does the same.
NO_FAULT = (
    "from thestral.accelerate.router import Tree\n"
    "real = Tree.candidates\n"
    "Tree.candidates = lambda self, path: real(self, path)"
)


def program(case: compare.Case) -> str:
    """A case as a text that one can read."""
    steps = "\n".join(json.dumps(step, ensure_ascii=False) for step in case.steps)
    return f"{case.source}\n\n# at once: {case.at_once}\n{steps}"


def compare_from(seed: int, count: int) -> None:
    cases = [case_of(number) for number in range(seed, seed + count)]
    found = compare.lasting(cases)
    if found:
        index, plain, accelerated = found[0]
        pytest.fail(
            f"seed {seed + index}, {len(found)} differences\n{program(smallest(cases[index]))}\n"
            f"\nwithout: {plain}\n   with: {accelerated}",
            pytrace=False,
        )


def smallest(case: compare.Case) -> compare.Case:
    """The same application with the fewest requests that still show a difference."""
    steps = list(case.steps)
    for step in list(steps):
        fewer = [one for one in steps if one is not step]
        if compare.lasting([compare.Case(case.source, fewer, case.at_once)]):
            steps = fewer
    return compare.Case(case.source, steps, case.at_once)


@pytest.mark.timeout(0 if SECONDS else 300)
@pytest.mark.parametrize("part", range(ENOUGH))
def test_nothing_differs(part):
    compare_from(SEED + part * AT_ONCE, AT_ONCE)


@pytest.mark.skipif(not SECONDS, reason="only for `make accelerate-fuzz`")
@pytest.mark.timeout(0)
def test_nothing_differs_for_long():
    seed = SEED + ENOUGH * AT_ONCE
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        compare_from(seed, AT_ONCE)
        seed += AT_ONCE


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault):
    cases = [case_of(number) for number in range(40)]
    assert compare.differences(cases, fault=FAULTS[fault])


def test_faults_are_seen_for_what_they_do():
    """Their functions run: they are not seen because a name is missing in them."""
    assert not compare.differences([case_of(number) for number in range(5)], fault=NO_FAULT)


def test_applications_answer():
    """Most requests reach something: else the comparison would show little."""
    seen = [one for case in compare.observed([case_of(n) for n in range(40)], "") for one in case]
    assert sum("'status': 2" in one for one in seen) > len(seen) / 10
    assert sum("'status': 404" in one for one in seen) < len(seen) / 2
    assert not any(one.startswith(compare.REFUSED) for one in seen)
