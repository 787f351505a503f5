"""Turns a th_status into an exception, for all codecs."""

from cpython.bytes cimport PyBytes_FromStringAndSize

from thestral._core.csrc cimport (
    TH_ENOMEM,
    th_http1,
    th_http1_reason,
    th_status_code,
    th_status_text,
)

from thestral.errors import LocalProtocolError, RemoteProtocolError


cdef object raise_refused(const th_http1 *http1, int status):
    """Raise RemoteProtocolError for a refused request, with status, reason and excerpt; or MemoryError."""
    if status == TH_ENOMEM:
        raise MemoryError
    cdef bytes excerpt = PyBytes_FromStringAndSize(http1.excerpt, http1.excerpt_length)
    raise RemoteProtocolError(th_status_code(status), th_http1_reason(http1).decode(), excerpt)


cdef object raise_failed(int status):
    """Raise RemoteProtocolError for a failed WebSocket, with close code and reason; or MemoryError."""
    if status == TH_ENOMEM:
        raise MemoryError
    raise RemoteProtocolError(th_status_code(status), th_status_text(status).decode())


cdef object raise_field(int status, bytes name):
    """Raise LocalProtocolError for an invalid response field, with its name; or MemoryError."""
    if status == TH_ENOMEM:
        raise MemoryError
    raise LocalProtocolError(f"response header {name[:100]!r}: {th_status_text(status).decode()}")
