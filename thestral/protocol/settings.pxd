from thestral.protocol.trace cimport Tracer


cdef class Settings:
    cdef readonly object limits
    cdef readonly Py_ssize_t limit_concurrency
    cdef readonly Py_ssize_t limit_connections
    cdef readonly str root_path
    cdef readonly bint proxy_protocol
    cdef readonly object trusted
    cdef readonly object forwarding
    cdef readonly object websocket
    cdef readonly str spec_version
    cdef readonly bint raises_when_gone
    cdef readonly frozenset offered
    cdef readonly bint send_date
    cdef readonly bytes server_head
    cdef readonly bytes extra_head
    cdef readonly object http2
    cdef readonly list own_fields
    cdef readonly Tracer tracer
