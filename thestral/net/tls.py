"""TLS contexts: made from the options, selected by server name (SNI), and made again when a file
changes.

TLS connections are in thestral.protocol.tls.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import stat
import sys
import time
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from thestral.errors import ConfigError
from thestral.logging.loggers import error_logger
from thestral.net.certificate import Certificate, read_certificate

if TYPE_CHECKING:
    from thestral.config import Config

# Protocols that the server accepts by ALPN (RFC 7301), preferred first.
ALPN_PROTOCOLS = ("h2", "http/1.1")
# The suites of TLS 1.2 that HTTP/2 may use (RFC 9113 section 9.2.2). They apply to all connections,
# because OpenSSL chooses the suite regardless of the protocol that ALPN selects.
HTTP2_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# A handshake checks whether files have changed, if the last check was at least this long ago.
LOOK_INTERVAL = 1.0  # seconds
# A certificate that expires sooner gets a warning.
SHORT_VALIDITY = timedelta(days=7)
# Paths that may name another file, or none, in another process.
DESCRIPTORS = ("/dev/fd/", "/dev/stdin", "/proc/")

MINIMUM_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# Values of --ssl-version, the ssl module's numbers: negotiate the version, and TLS 1.2 only.
ANY_VERSION = (int(ssl.PROTOCOL_TLS), int(ssl.PROTOCOL_TLS_SERVER))
ONLY_TLS12 = int(ssl.PROTOCOL_TLSv1_2)
CLIENT_CERTIFICATES = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
# SSLObject.version() to the number that the protocol uses (RFC 8446 section 4.2.1).
VERSION_NUMBERS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

BEGIN_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
END_CERTIFICATE = "-----END CERTIFICATE-----"

# Changes whenever a file changes; None for a file that is missing, or can be read only once.
Signature = tuple[int, int, int, int] | None


class Contexts(NamedTuple):
    """The result of loading all TLS files once.

    Attributes:
        front: context in which every handshake starts; SNI may select another.
        certificates: the PEM of each context's own certificate.
        suites: numbers of cipher suites, by OpenSSL's names.
        warnings: a line for each certificate that is not valid now, or expires within a week.
        ends: the end of each certificate's validity in seconds since 1970, by its file.
    """

    front: ssl.SSLContext
    certificates: dict[ssl.SSLContext, str]
    suites: dict[str, int]
    warnings: list[str]
    ends: dict[str, float]

    def extension(self, connection: ssl.SSLObject) -> dict[str, Any]:
        """Return ASGI's tls extension (its TLS specification 0.2) after a complete handshake.

        client_cert_error is always None: a certificate that fails verification ends the handshake.
        """
        chain = client_chain(connection)
        name = None
        if chain:
            # OpenSSL may accept a certificate that read_certificate() cannot read: no name then.
            with contextlib.suppress(ValueError):
                name = read_certificate(ssl.PEM_cert_to_DER_cert(chain[0])).subject
        cipher = connection.cipher()
        return {
            "server_cert": self.certificates.get(connection.context),
            "client_cert_chain": chain,
            "client_cert_name": name,
            "client_cert_error": None,
            "tls_version": VERSION_NUMBERS.get(connection.version() or ""),
            "cipher_suite": self.suites.get(cipher[0]) if cipher else None,
        }


class Certificates:
    """The TLS contexts of a worker, made again when a file that the options name has changed.

    Open connections keep the context they started with. If a file cannot be used, the old contexts
    stay, and one line is logged. Files that came from a pipe are never renewed.

    Args:
        config: the options.
        quiet: log errors only, because a supervisor reports the rest for the same files.

    Raises:
        ConfigError: a file or an option cannot be used.
    """

    def __init__(self, config: Config, quiet: bool = False) -> None:
        self.quiet = quiet
        self._config = config
        self._next_look = time.monotonic() + LOOK_INTERVAL
        self._seen = self._look()
        self._contexts = make_contexts(config)
        self._warn()

    def current(self) -> Contexts:
        """Return the contexts for a new handshake, renewed if a file has changed."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            if self._look() != self._seen:
                self.reload()
        return self._contexts

    def ends(self) -> dict[str, float]:
        """Return the ends of validity; see Contexts. Looks at no file."""
        return self._contexts.ends

    def reload(self) -> bool:
        """Load the files again, changed or not; False if that failed and the old contexts stay."""
        self._seen = self._look()  # before reading them, so that no change is missed
        kept = self._config.read_once.keys()
        if kept and not self.quiet:
            error_logger.warning(
                "Cannot renew files that came from a pipe or descriptor, as these can be read only"
                " once: %s. Restart the server to renew them.",
                ", ".join(map(repr, kept)),
            )
        try:
            self._contexts = make_contexts(self._config)
        except Exception as exc:  # a user's factory may raise anything
            error_logger.error("TLS certificates not reloaded, the old ones stay in use: %s", exc)
            return False
        renewed = self._config.ssl_context_factory or not kept >= set(self._files())
        if renewed and not self.quiet:
            error_logger.info("TLS certificates reloaded")
        self._warn()
        return True

    def _warn(self) -> None:
        if not self.quiet:
            for text in self._contexts.warnings:
                error_logger.warning("%s", text)

    def _files(self) -> list[str]:
        config = self._config
        named = [*config.certificate_files, *config.key_files]
        if config.ssl_ca_certs is not None:
            named.append(os.fspath(config.ssl_ca_certs))
        return named

    def _look(self) -> list[Signature]:
        return [signature(path) for path in self._files()]


def load(config: Config, quiet: bool = False) -> Certificates | None:
    """Make the contexts that the options describe; None for plain HTTP.

    Args:
        config, quiet: see Certificates.

    Raises:
        ConfigError: a file or an option cannot be used.
    """
    if config.is_ssl:
        return Certificates(config, quiet)
    for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers"):
        if getattr(config, name):
            raise ConfigError(name, "needs --ssl-certfile")
    if client_certificates(config) != ssl.CERT_NONE:
        raise ConfigError("ssl_cert_reqs", "needs --ssl-certfile")
    return None


def make_contexts(config: Config) -> Contexts:
    """Load all files.

    Raises:
        ConfigError: a file or an option cannot be used.
    """
    certificates: dict[ssl.SSLContext, str] = {}
    warnings: list[str] = []
    ends: dict[str, float] = {}

    def default_factory() -> ssl.SSLContext:
        return default_context(config, certificates, warnings, ends)

    if config.ssl_context_factory is None:
        front = default_factory()
    else:
        front = config.ssl_context_factory(config, default_factory)
        if not isinstance(front, ssl.SSLContext):
            raise ConfigError(
                "ssl_context_factory",
                f"{type(front).__name__} returned, expected an ssl.SSLContext",
            )
    return Contexts(front, certificates, suites_of(front), warnings, ends)


def suites_of(context: ssl.SSLContext) -> dict[str, int]:
    """Return the numbers of a context's cipher suites, by OpenSSL's names."""
    # OpenSSL's id is the protocol's number with a mark of its own in the upper 16 bits.
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}


@cache
def known_suites() -> dict[str, int]:
    """Return suites_of() for all suites of OpenSSL, to look up names that others give."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    return suites_of(context)


def default_context(
    config: Config,
    certificates: dict[ssl.SSLContext, str],
    warnings: list[str],
    ends: dict[str, float],
) -> ssl.SSLContext:
    """Make a context for each certificate; return the first, from which SNI selects the others.

    Args:
        config: the options.
        certificates, warnings, ends: filled by this function; see Contexts.

    Raises:
        ConfigError: a file or an option cannot be used.
    """
    if not config.certificate_files:
        raise ConfigError("ssl_certfile", "is missing, and the default context needs it")
    keys = config.key_files or config.certificate_files
    if len(keys) != len(config.certificate_files):
        raise ConfigError(
            "ssl_keyfile",
            f"{len(keys)} given for {len(config.certificate_files)} certificates, expected one for"
            " each, in the same order",
        )
    by_name: dict[str, ssl.SSLContext] = {}
    first: ssl.SSLContext | None = None
    for path, key in zip(config.certificate_files, keys, strict=True):
        context = empty_context(config)
        pem = load_chain(config, context, path, key)
        certificates[context] = pem
        try:
            certificate = read_certificate(ssl.PEM_cert_to_DER_cert(pem))
        except ValueError as exc:
            raise ConfigError("ssl_certfile", f"{path!r}: {exc}") from exc
        warning = date_warning(path, certificate, datetime.now(UTC))
        if warning is not None:
            warnings.append(warning)
        if certificate.not_after is not None:
            ends[path] = certificate.not_after.timestamp()
        for name in certificate.names:
            by_name.setdefault(name, context)
        first = first or context
    assert first is not None
    if len(keys) > 1:
        choose_by_name(first, by_name)
    return first


def choose_by_name(front: ssl.SSLContext, by_name: dict[str, ssl.SSLContext]) -> None:
    """Select the certificate by SNI (RFC 6066 section 3): the exact name, then a wildcard for its
    first label (RFC 9525 section 6.3), else the first certificate.
    """

    def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        name = (name or "").lower()
        found = by_name.get(name) or by_name.get("*." + name.partition(".")[2])
        if found is not None:
            connection.context = found

    front.sni_callback = choose


def empty_context(config: Config) -> ssl.SSLContext:
    """Make a context with all options applied, but no certificate.

    Raises:
        ConfigError: an option cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MINIMUM_VERSIONS[config.ssl_min_version]
    if config.ssl_version == ONLY_TLS12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        if config.ssl_min_version != "1.2":
            raise ConfigError(
                "ssl_min_version",
                f"{config.ssl_min_version!r} given, but --ssl-version allows TLS 1.2 only",
            )
    elif config.ssl_version not in ANY_VERSION:
        raise ConfigError(
            "ssl_version",
            f"{config.ssl_version} given, expected {int(ssl.PROTOCOL_TLS_SERVER)}, or"
            f" {ONLY_TLS12} for TLS 1.2 only; older versions are obsolete (RFC 8996)",
        )
    # Renegotiation is cheap for a client and expensive for the server; TLS 1.3 has none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(ALPN_PROTOCOLS if config.http2 else ALPN_PROTOCOLS[1:])
    ciphers = config.ssl_ciphers or (HTTP2_CIPHERS if config.http2 else None)
    if ciphers:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError as exc:
            raise ConfigError(
                "ssl_ciphers", f"{config.ssl_ciphers!r} selects no cipher that OpenSSL knows"
            ) from exc
    if config.ssl_ca_certs is not None:
        load_authorities(config, context, os.fspath(config.ssl_ca_certs))
    context.verify_mode = client_certificates(config)
    if context.verify_mode != ssl.CERT_NONE and config.ssl_ca_certs is None:
        raise ConfigError("ssl_cert_reqs", "needs --ssl-ca-certs to verify clients by")
    return context


def client_certificates(config: Config) -> ssl.VerifyMode:
    value = config.ssl_cert_reqs
    return CLIENT_CERTIFICATES[value] if isinstance(value, str) else ssl.VerifyMode(value)


def date_warning(path: str, certificate: Certificate, now: datetime) -> str | None:
    """Return a warning if a certificate is not valid now, or expires within SHORT_VALIDITY.

    Args:
        path: the certificate's file.
        now: in UTC, like the certificate's dates.
    """
    begin, end = certificate.not_before, certificate.not_after
    if end is not None and end < now:
        return f"The certificate in {path!r} expired on {end:%Y-%m-%d at %H:%M} UTC"
    if begin is not None and begin > now:
        return f"The certificate in {path!r} is not valid before {begin:%Y-%m-%d, %H:%M} UTC"
    if end is not None and end - now < SHORT_VALIDITY:
        return f"The certificate in {path!r} expires on {end:%Y-%m-%d at %H:%M} UTC"
    return None


def load_chain(config: Config, context: ssl.SSLContext, path: str, key: str) -> str:
    """Load a certificate, its chain and its key; return the PEM of the certificate itself.

    Raises:
        ConfigError: a file, the key or its password cannot be used.
    """
    text = read_pem(config, "ssl_certfile", path, BEGIN_CERTIFICATE, "certificate")
    password = config.ssl_keyfile_password
    # Without --ssl-keyfile the key is in the certificate's file.
    key_option = "ssl_certfile" if key == path else "ssl_keyfile"
    read_pem(config, key_option, key, "PRIVATE KEY-----", "private key")
    asked = False

    def give_password() -> str:
        nonlocal asked
        asked = True
        return password or ""

    try:
        with loadable(config, path) as certificate, loadable(config, key) as private:
            context.load_cert_chain(certificate, private, password=give_password)
    except (ssl.SSLError, ValueError) as exc:
        if asked and password is None:
            raise ConfigError(
                key_option, f"{key!r} is encrypted, and needs --ssl-keyfile-password"
            ) from exc
        if asked:
            raise ConfigError("ssl_keyfile_password", f"does not decrypt {key!r}") from exc
        if getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                key_option, f"{key!r} is not the key of the certificate in {path!r}"
            ) from exc
        raise ConfigError("ssl_certfile", f"{path!r} with key {key!r}: {explain(exc)}") from exc
    start = text.index(BEGIN_CERTIFICATE)
    return text[start : text.index(END_CERTIFICATE, start)] + END_CERTIFICATE + "\n"


def load_authorities(config: Config, context: ssl.SSLContext, path: str) -> None:
    """Load the CA certificates that verify client certificates.

    Raises:
        ConfigError: the file cannot be used.
    """
    read_pem(config, "ssl_ca_certs", path, BEGIN_CERTIFICATE, "certificate")
    try:
        with loadable(config, path) as authorities:
            context.load_verify_locations(authorities)
    except ssl.SSLError as exc:
        raise ConfigError("ssl_ca_certs", f"{path!r}: {explain(exc)}") from exc


def read_pem(config: Config, option: str, path: str, mark: str, what: str) -> str:
    """Return the text of a file, which must contain `mark`. A file that can be read only once is
    kept in config.read_once.

    Raises:
        ConfigError: the file cannot be read, or does not contain `mark`.
    """
    data = config.read_once.get(path)
    if data is None:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as exc:
            raise ConfigError(option, f"{path!r} cannot be read: {exc.strerror}") from exc
        if signature(path) is None:
            config.read_once[path] = data
    text = data.decode("latin-1")
    if mark not in text:
        raise ConfigError(option, f"{path!r} contains no {what} in PEM format")
    return text


@contextlib.contextmanager
def loadable(config: Config, path: str) -> Generator[str]:
    """Yield a path from which OpenSSL can load a file that read_pem() has read: the file's own, or
    that of a copy if the file can be read only once.
    """
    data = config.read_once.get(path)
    if data is None:
        yield path
        return
    with memory_file() as file:
        file.write(data)
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def memory_file() -> IO[bytes]:
    """Open a file without a name. On Linux it is in memory, so no key gets to a disk."""
    if sys.platform == "linux":
        return open(os.memfd_create("thestral"), "w+b")
    from tempfile import TemporaryFile  # rarely needed

    return TemporaryFile()


def explain(exc: Exception) -> str:
    """Return OpenSSL's reason as words, without its source file and line."""
    reason = getattr(exc, "reason", None)
    return reason.lower().replace("_", " ") if reason else "OpenSSL cannot read it"


def client_chain(connection: ssl.SSLObject) -> Sequence[str]:
    """Return the client's certificate chain as PEM, its own first; () if it has sent none."""
    if connection.getpeercert(binary_form=True) is None:
        return ()
    if hasattr(connection, "get_unverified_chain"):  # 3.13
        chain = connection.get_unverified_chain()
        return tuple(ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain)
    # Private, but the only way before 3.13; the public method calls it, too.
    found = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
    return tuple(certificate.public_bytes() for certificate in found)


def signature(path: str) -> Signature:
    if path.startswith(DESCRIPTORS):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
