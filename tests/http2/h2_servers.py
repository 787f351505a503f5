"""Servers that speak HTTP/2: by prior knowledge, and over TLS by ALPN."""

from __future__ import annotations

import ssl
from typing import Any

import frames
from certificate import Certificate
from support import Running


class Speaking(Running):
    """A server; client() connects to it, without sending anything."""

    tls: ssl.SSLContext | None = None

    def client(self, receive_buffer: int | None = None) -> frames.Client:
        return frames.connect("127.0.0.1", self.port, self.tls, receive_buffer=receive_buffer)

    def started(self, *settings: tuple[int, int]) -> frames.Client:
        """Return a client with the prefaces exchanged."""
        client = self.client()
        client.start(*settings)
        return client


def start(app: Any, tls: Certificate | None = None, **options: Any) -> Speaking:
    """Return a server that is not running yet."""
    options.setdefault("http2", True)
    running = Speaking(app, **options, **(tls.options if tls else {}))
    running.tls = tls.client() if tls else None
    return running
