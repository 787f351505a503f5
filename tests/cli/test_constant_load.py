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
    "kill -9, h2c",
    "SIGHUP, HTTP/2 over TLS, new certificate",
    "SIGHUP, WebSockets over HTTP/2 over TLS",
    "max requests, h2c",
    "new certificate files, HTTP/2 over TLS",
    "SIGTERM, one process, WebSockets over h2c",
    "SIGTERM, 2 workers, HTTP/2 over TLS",
]


@pytest.mark.parametrize("name", TESTED)
def test_nothing_is_lost(tmp_path, monkeypatch, name):
    monkeypatch.setattr(constant_load, "KEEPING", 4)
    run, clients, arguments = SCENARIOS[name]
    count = run(tmp_path, clients, 1, *arguments)
    assert not count.wrong
    assert count.answered > 100
