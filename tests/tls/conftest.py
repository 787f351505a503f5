"""Certificates made for this run, and servers that use them for TLS."""

from __future__ import annotations

import contextlib
import gc
import ssl
from pathlib import Path

import pytest
import trustme
from support import Running
from tls_client import TLSClient


class Files:
    """An authority and the certificates that it issues, as PEM files in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.ca = self.write("ca.pem", self.authority.cert_pem)
        self.cert, self.key = self.issue("server", "localhost", "127.0.0.1")

    def write(self, name: str, *blobs: trustme.Blob) -> str:
        path = self.directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    def issue(self, stem: str, *names: str, **options) -> tuple[str, str]:
        """Issue a certificate; return its path and that of its key."""
        issued = self.authority.issue_cert(*names, **options)
        return (
            self.write(f"{stem}.pem", *issued.cert_chain_pems),
            self.write(f"{stem}.key", issued.private_key_pem),
        )

    @property
    def options(self) -> dict[str, str]:
        return {"ssl_certfile": self.cert, "ssl_keyfile": self.key}

    def client(self, *chain: str, **settings) -> ssl.SSLContext:
        """A context for clients that trust the authority, with a client certificate if given."""
        context = ssl.create_default_context(cafile=self.ca)
        if chain:
            context.load_cert_chain(*chain)
        for name, value in settings.items():
            setattr(context, name, value)
        return context


class Secure(Running):
    """A server over TLS; connect() and raw() speak TLS to it."""

    client: ssl.SSLContext

    def __enter__(self) -> Secure:
        super().__enter__()
        self.url = f"https://127.0.0.1:{self.port}"
        return self

    def plain(self, receive_buffer: int | None = None):
        """Open a TCP connection without a handshake."""
        return super().connect(receive_buffer)

    def connect(
        self,
        receive_buffer: int | None = None,
        client: ssl.SSLContext | None = None,
        name: str = "localhost",
    ) -> TLSClient:
        sock = self.plain(receive_buffer)
        try:
            return TLSClient(sock, client or self.client, name)
        except BaseException:
            sock.close()
            raise


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Files:
    """Files that no test changes."""
    return Files(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def files(tmp_path) -> Files:
    """Files that only this test uses."""
    return Files(tmp_path)


@pytest.fixture(params=["uvloop", "asyncio"])
def serve(request, shared):
    """The counterpart over TLS of the fixture `serve` for plain HTTP; on both loops."""
    with contextlib.ExitStack() as stack:

        def start(app, **options):
            if "ssl_certfile" not in options and "ssl_context_factory" not in options:
                options |= shared.options
            running = Secure(app, loop=request.param, **options)
            running.client = shared.client()
            return stack.enter_context(running)

        yield start
    gc.collect()  # leaked objects must warn within the test that leaked them
