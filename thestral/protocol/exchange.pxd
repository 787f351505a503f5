cimport cython
from libc.stdint cimport int64_t, uint64_t

from thestral._core.head cimport RequestHead
from thestral._core.log cimport monotonic
from thestral._core.metrics cimport WorkerMetrics, now
from thestral.protocol.trace cimport Trace


cpdef bint omits_length(int status) noexcept


cdef class Exchange:
    cdef public object client
    cdef public dict scope
    cdef public RequestHead request
    cdef public bytes raw_path
    cdef public tuple fields
    cdef public double began
    cdef public WorkerMetrics metrics
    cdef public uint64_t head_at_ns
    cdef uint64_t first_byte_ns
    cdef public int place
    cdef public int64_t received
    cdef public int status
    cdef public bytes head
    cdef public bint bodiless
    cdef public int64_t sent
    cdef public int64_t surplus
    cdef public Trace trace
    cdef bint _promised
    cdef int64_t _left

    cdef object keep_request(self, dict scope, bint fields, bint timed)
    @cython.locals(head=RequestHead)
    cdef object measure(self, WorkerMetrics metrics, dict scope)
    cdef object note_head(self)
    cdef object note_progress(self)
    cdef object receive(self, Py_ssize_t size)
    cdef object promise(self, int status, bint head_only, int64_t length)
    cdef int64_t left(self) noexcept
    cdef int64_t missing(self) noexcept
    cdef bint has_room(self, int64_t size) noexcept
    cdef int64_t take(self, int64_t size) noexcept


cpdef object too_long(int64_t surplus)
cpdef object too_short(int64_t missing)
cpdef object check_trailers(object fields)
