cimport cython
from libc.stdint cimport int64_t

from thestral._core.http1 cimport ResponseWriter, reason_phrase
from thestral.net.transport cimport SocketTransport
from thestral.protocol.access cimport AccessLog
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.exchange cimport check_trailers, omits_length, too_long, too_short
from thestral.protocol.trace cimport Tracer

cdef Py_ssize_t SENDFILE_MIN
cdef Py_ssize_t SENDFILE_MAX


cdef class HTTP1Response(Stream):
    cdef bint request_complete
    cdef int64_t request_left
    cdef bint response_complete
    cdef bint head_only
    cdef bint owes_continue
    cdef bint persistent
    cdef bint chunked
    cdef Py_ssize_t head_at
    cdef int head_status

    @cython.locals(owned=SocketTransport, sent=Py_ssize_t)
    cpdef Py_ssize_t write_file(self, int file, int64_t offset, int64_t size) except -2
    cpdef object refuse(self, object error)
    cdef object _finish_head(self, ResponseWriter writer, Py_ssize_t size, bint end)
    @cython.locals(announced=int64_t)
    cdef object _frame(self, ResponseWriter writer, int status, Py_ssize_t size, bint end)
    @cython.locals(tracer=Tracer)
    cdef object _write_trace(self, ResponseWriter writer)
    cdef object _write_defaults(self, ResponseWriter writer)
    @cython.locals(given=Py_ssize_t, size=Py_ssize_t)
    cdef object _write_body(self, ResponseWriter writer, bytes body, bint end)
    cdef object _complete(self)
