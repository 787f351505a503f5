cimport cython
from libc.stdint cimport int64_t, uint64_t

from thestral._core.head cimport RequestHead
from thestral._core.log cimport monotonic
from thestral._core.metrics cimport Counted, WorkerMetrics, now
from thestral.protocol.trace cimport Trace


cpdef bint omits_length(int status) noexcept


cdef class Exchange(Counted):
    cdef public bytes raw_path
    cdef public tuple fields
    cdef public double began
    cdef public bytes head
    cdef public bint bodiless
    cdef public int64_t surplus
    cdef public Trace trace
    cdef bint _promised
    cdef int64_t _left

    cdef object keep_request(self, dict scope, bint fields, bint timed)
    cdef int measure(self, WorkerMetrics metrics, dict scope) except -1
    cdef void note_head(self) noexcept
    cdef object promise(self, int status, bint head_only, int64_t length)
    cdef int64_t left(self) noexcept
    cdef int64_t missing(self) noexcept
    cdef bint has_room(self, int64_t size) noexcept
    cdef int64_t take(self, int64_t size) noexcept


cpdef object too_long(int64_t surplus)
cpdef object too_short(int64_t missing)
cpdef object check_trailers(object fields)
