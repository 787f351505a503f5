"""Fixtures that several of these tests share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import django
import pytest
from certificate import Certificate
from django.conf import settings
from django.test.utils import override_settings


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def complaints(caplog, monkeypatch) -> Callable[[], list[str]]:
    """Records that servers, frameworks and asyncio have logged at WARNING or above."""
    monkeypatch.setattr(logging.getLogger("thestral"), "propagate", True)
    return lambda: [
        f"{record.name}: {record.getMessage()}\n{record.exc_text or ''}".rstrip()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


@pytest.fixture
def django_urls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Django, once for the process, with the test module's `urlpatterns`."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            SECRET_KEY="secret",  # protects nothing
            CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        )
        django.setup()
    with override_settings(ROOT_URLCONF=request.module.__name__):
        yield
