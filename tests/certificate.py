"""A server's certificate, made for the run."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme


class Certificate:
    """What a server over TLS needs, and a client that trusts it.

    Attributes:
        authority, chain, key: paths of PEM files.

    Args:
        expires: end of its validity; None for that of trustme's own choice.
    """

    def __init__(self, directory: Path, expires: datetime | None = None) -> None:
        issuer = trustme.CA()
        issued = issuer.issue_cert("localhost", "127.0.0.1", not_after=expires)
        self.authority = str(directory / "authority.pem")
        self.chain, self.key = str(directory / "chain.pem"), str(directory / "key.pem")
        issuer.cert_pem.write_to_path(self.authority)
        for i, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(self.chain, append=i > 0)
        issued.private_key_pem.write_to_path(self.key)

    @property
    def not_after(self) -> str:
        """End of its validity, as OpenSSL writes it."""
        return ssl._ssl._test_decode_cert(self.chain)["notAfter"]

    @property
    def options(self) -> dict[str, str]:
        return {"ssl_certfile": self.chain, "ssl_keyfile": self.key}

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)
