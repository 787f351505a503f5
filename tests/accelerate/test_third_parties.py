"""Tracers that reach into FastAPI see the same with and without acceleration. More packages:
`make accelerate-third-parties`.
"""

from __future__ import annotations

import pytest
from third_parties import compare

HERE = ("opentelemetry-instrumentation-fastapi", "opentelemetry-sdk", "sentry-sdk")


@pytest.mark.parametrize("package", HERE)
def test_nothing_differs(package):
    assert not compare(package)
