"""Servers that speak HTTP/2: by prior knowledge, and over TLS by ALPN."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import frames
import trustme
from support import Running


class Speaking(Running):
    """A server; client() connects to it, and says nothing yet."""

    tls: ssl.SSLContext | None = None

    def client(self, receive_buffer: int | None = None) -> frames.Client:
        return frames.connect("127.0.0.1", self.port, self.tls, receive_buffer=receive_buffer)

    def started(self, *settings: tuple[int, int]) -> frames.Client:
        """A client, the prefaces exchanged."""
        client = self.client()
        client.start(*settings)
        return client


class Certificate:
    """What a server over TLS needs, and a client that trusts it."""

    def __init__(self, directory: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        self.chain, self.key = str(directory / "chain.pem"), str(directory / "key.pem")
        for i, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.chain, append=i > 0)
        issued.private_key_pem.write_to_path(self.key)
        self._authority = authority

    @property
    def options(self) -> dict[str, str]:
        return {"ssl_certfile": self.chain, "ssl_keyfile": self.key}

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context


def start(app: Any, tls: Certificate | None = None, **options: Any) -> Speaking:
    """A server that is not running yet."""
    options.setdefault("http2", True)
    running = Speaking(app, **options, **(tls.options if tls else {}))
    running.tls = tls.client() if tls else None
    return running
