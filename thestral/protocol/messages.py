"""Reads the messages of a response, which may also deny a WebSocket (ASGI 2.3 to 2.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from thestral._core.http1 import length_of
from thestral.errors import LocalProtocolError

LOWEST_STATUS = 200  # 1xx is an interim response
HIGHEST_STATUS = 999


def status_of(message: dict[str, Any]) -> int:
    """Return the status of a start message.

    Raises:
        LocalProtocolError: it is not the status of a final response.
    """
    status = message.get("status")
    number = 0
    if isinstance(status, int):
        try:
            number = status
        except OverflowError:  # compiled, `number` is a C int
            number = 0
    if not LOWEST_STATUS <= number <= HIGHEST_STATUS:
        raise LocalProtocolError(
            f"{message['type']}: status {status!r:.100} is not an int from"
            f" {LOWEST_STATUS} to {HIGHEST_STATUS}"
        )
    return number


def as_dict(message: Any) -> dict[str, Any]:
    """Return a message as a dict.

    Raises:
        LocalProtocolError: it is not a mapping.
    """
    if isinstance(message, Mapping):
        return dict(message)
    raise LocalProtocolError(f"expected the message to be a dict, got {type(message).__name__}")


def headers_of(message: dict[str, Any]) -> list[Any]:
    """Return the headers of a message; the fields in the list are not checked.

    Raises:
        LocalProtocolError: `headers` is not an iterable.
    """
    headers = message.get("headers")
    return headers if type(headers) is list else list_of(message, "headers")


def trailers_of(message: dict[str, Any]) -> list[Any] | None:
    """Return a list for the trailers that a start message announces; None if it announces none."""
    return [] if message.get("trailers", False) else None


def list_of(message: dict[str, Any], key: str) -> list[Any]:
    """Return the value of `key` as a list, which is empty if the key is missing or None.

    Raises:
        LocalProtocolError: the value is not an iterable.
    """
    value = message.get(key)
    if value is None:
        return []
    if not isinstance(value, Iterable):
        raise LocalProtocolError(
            f"{message['type']}: {key} is {type(value).__name__}, expected an iterable"
        )
    return list(value)


def value_of(headers: list[Any], name: bytes) -> bytes:
    """Return the value of the first field with this lower-case name; empty if there is none."""
    for pair in headers:
        # An invalid field is skipped: the writer reports it.
        if isinstance(pair, (tuple, list)) and len(pair) == 2:
            key, value = pair
            if isinstance(key, bytes) and key.lower() == name:
                return value if isinstance(value, bytes) else b""
    return b""


def announced_by(headers: list[Any]) -> int:
    """Return the Content-Length among headers; -1 if there is none, or it is not a length."""
    return length_of(value_of(headers, b"content-length"))


def is_event_stream(headers: list[Any]) -> bool:
    """Whether the headers announce server-sent events (WHATWG HTML section 9.2)."""
    return value_of(headers, b"content-type")[:17].lower() == b"text/event-stream"


def byte_count_of(message: dict[str, Any], key: str) -> int:
    """Return the number of bytes under `key`; -1 if the key is missing or None.

    Raises:
        LocalProtocolError: the value is not a number of bytes.
    """
    value = message.get(key)
    if value is None:
        return -1
    if not isinstance(value, int) or not -1 < value < 1 << 63:
        raise LocalProtocolError(
            f"{message['type']}: {key} {value!r:.100} is not a number of bytes"
        )
    return int(value)


def body_of(message: dict[str, Any]) -> bytes:
    """Return the body of a message.

    Raises:
        LocalProtocolError: it is not bytes.
    """
    body = message.get("body", b"")
    if type(body) is bytes:
        return body
    if body is None:
        return b""
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise LocalProtocolError(f"{message['type']}: body is {type(body).__name__}, expected bytes")
