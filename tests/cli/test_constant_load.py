"""Runs those scenarios of constant_load.py that no other test covers, once and with few clients."""

from __future__ import annotations

import constant_load
import pytest

SCENARIOS = {name: scenario for name, *scenario in constant_load.SCENARIOS}
TESTED = [
    "kill -9, TLS",
    "SIGHUP, new certificate",
    "max requests, --reuse-port",
    "new certificate files",
    "SIGTERM, one process, asyncio",
    "SIGTERM, 2 workers, TLS",
    "SIGTERM, 2 workers, --reuse-port",
    "SIGTERM, 2 workers, --preload",
]


@pytest.mark.parametrize("name", TESTED)
def test_nothing_is_lost(tmp_path, monkeypatch, name):
    monkeypatch.setattr(constant_load, "KEEPING", 4)
    run, secure, arguments = SCENARIOS[name]
    count = run(tmp_path, secure, 1, *arguments)
    assert not count.wrong
    assert count.answered > 100
