"""The request that is running, for the log records made meanwhile."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any, Protocol

# Attribute of a record that names its request, where the record is not made in the request's task.
ATTRIBUTE = "thestral_request"
# Attributes of an Identity, and keys of a line.
IDS = ("request_id", "trace_id", "span_id")


class Identity(Protocol):
    """The ids of a request; "" for an id that it does not have."""

    @property
    def request_id(self) -> str: ...
    @property
    def trace_id(self) -> str: ...
    @property
    def span_id(self) -> str: ...


# The request whose application runs in this context. Set only if --request-id is on or the log is
# JSON.
running: ContextVar[Identity | None] = ContextVar("thestral.running", default=None)


def about(identity: Identity | None) -> dict[str, Any] | None:
    """Return `extra` for a record about a request, which need not be the running one."""
    return None if identity is None else {ATTRIBUTE: identity}


def identity_of(record: logging.LogRecord) -> Identity | None:
    """Return the request that a record is about: the one that it names, else the running one."""
    named: Identity | None = getattr(record, ATTRIBUTE, None)
    return running.get() if named is None else named


class RequestFilter(logging.Filter):
    """Adds request_id, trace_id and span_id to each record, for a formatter of your own: "" where
    there is none.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        identity = identity_of(record)
        for name in IDS:
            record.__dict__.setdefault(name, getattr(identity, name, ""))
        return True
