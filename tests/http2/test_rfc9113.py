"""Runs the conformance cases against thestral, by prior knowledge and over TLS."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from cases_app import app
from certificate import Certificate
from conformance import Case, Mark, load, run, styles
from h2_servers import Speaking, start
from support import wait_until

CASES = load()


@pytest.fixture(scope="module", params=["h2c", "tls"])
def server(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[Speaking]:
    """One server for all cases; a case that ends it also fails the cases after it."""
    tls = request.param == "tls"
    with start(app, certificate if tls else None, loop="asyncio" if tls else "uvloop") as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case, server: Speaking) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    for style in styles(case):
        verdict = run(case, server.client, style, random.Random(seed), strict=True)
        if verdict.mark is Mark.SKIPPED and case.only is not None:
            return
        assert verdict.mark is Mark.OK, f"{style}: {verdict.detail} ({case.why})"


def test_no_connection_is_left_after_the_cases(server: Speaking) -> None:
    """The connections and applications of all cases have ended."""
    with server.started() as client:
        assert client.finished(client.request()).status == 200
        wait_until(lambda: server.context.running == 0)
