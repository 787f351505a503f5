"""Warnings about certificates that are not valid now, or not for much longer."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta

import pytest
from apps import GET_CLOSE, hello
from support import read_all

import thestral.net.tls
from thestral import Config
from thestral.net.certificate import Certificate
from thestral.net.tls import date_warning, load

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (NOW - DAY, NOW + 8 * DAY, None),
        (NOW, NOW + 7 * DAY, None),
        (NOW - DAY, NOW + 7 * DAY - SECOND, "expires on 2026-03-08 at 11:59 UTC"),
        (NOW - DAY, NOW, "expires on 2026-03-01 at 12:00 UTC"),
        (NOW - DAY, NOW - SECOND, "expired on 2026-03-01 at 11:59 UTC"),
        (NOW + SECOND, NOW + 90 * DAY, "is not valid before 2026-03-01, 12:00 UTC"),
        (NOW + SECOND, NOW - SECOND, "expired on 2026-03-01 at 11:59 UTC"),
        (None, None, None),
    ],
)
def test_warning_for_each_state_of_validity(begin, end, expected):
    certificate = Certificate("CN=a", ("a",), begin, end)
    if expected is not None:
        expected = f"The certificate in 'c.pem' {expected}"
    assert date_warning("c.pem", certificate, NOW) == expected


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [text for text in caplog.messages if text.startswith("The certificate in")]


def test_warning_at_the_start_once_for_each_certificate(files, log):
    now = datetime.now(UTC)
    old = files.issue("old", "a.example", not_before=now - 9 * DAY, not_after=now - DAY)
    early = files.issue("early", "b.example", not_before=now + DAY, not_after=now + 90 * DAY)
    good = files.issue("good", "c.example", not_before=now - DAY, not_after=now + 90 * DAY)
    pairs = [old, early, good]
    options = {"ssl_certfile": [p[0] for p in pairs], "ssl_keyfile": [p[1] for p in pairs]}
    load(Config("a:b", **options))
    assert log() == [
        f"The certificate in {old[0]!r} expired on {now - DAY:%Y-%m-%d at %H:%M} UTC",
        f"The certificate in {early[0]!r} is not valid before {now + DAY:%Y-%m-%d, %H:%M} UTC",
    ]


def test_warning_at_a_renewal(serve, files, log, monkeypatch):
    monkeypatch.setattr(thestral.net.tls, "LOOK_INTERVAL", 0.0)
    running = serve(hello, **files.options)
    assert log() == []
    soon = datetime.now(UTC) + DAY
    cert, key = files.issue("new", "localhost", not_after=soon)
    os.replace(cert, files.cert)
    os.replace(key, files.key)
    for _ in range(3):
        with running.connect(client=files.client()) as sock:
            sock.sendall(GET_CLOSE)
            assert read_all(sock).endswith(b"hello")
    line = f"The certificate in {files.cert!r} expires on {soon:%Y-%m-%d at %H:%M} UTC"
    assert log() == [line]
    assert running.call(running.server.certificates.reload) is True
    assert log() == [line, line]


def test_worker_leaves_the_warning_to_its_supervisor(files, log, caplog):
    cert, key = files.issue("new", "localhost", not_after=datetime.now(UTC) + DAY)
    certificates = load(Config("a:b", ssl_certfile=cert, ssl_keyfile=key), quiet=True)
    assert certificates.reload() is True
    assert caplog.messages == []
    os.unlink(key)
    assert certificates.reload() is False  # a worker still logs its own errors
    assert "TLS certificates not reloaded" in caplog.text
