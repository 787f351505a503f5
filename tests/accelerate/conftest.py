"""The tests of the accelerator need a version of Python that it was tested with."""

from __future__ import annotations

import pytest

from thestral.accelerate.fingerprints import PYTHON, known

VERSIONS = {version for versions in known().values() for version in versions}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On any other version, skip the tests of this directory, and say so: there the groups are
    off, which needs no test of its own. `make accelerate-verify` adds a version.
    """
    if PYTHON in VERSIONS:
        return
    mark = pytest.mark.skip(reason=f"thestral.accelerate does not know Python {PYTHON} yet")
    for item in items:
        if "tests/accelerate/" in item.nodeid:
            item.add_marker(mark)
