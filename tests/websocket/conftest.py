"""The log, for the WebSocket tests."""

import logging

import pytest


@pytest.fixture
def errors(caplog, monkeypatch):
    """What has been logged at ERROR or above, whatever another test did to the loggers."""
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    caplog.set_level(logging.INFO, "thestral.error")
    return lambda: [record for record in caplog.records if record.levelno >= logging.ERROR]
