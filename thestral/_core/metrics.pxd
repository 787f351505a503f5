from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint64_t

from thestral._core.csrc cimport TH_METRICS_RUNNING, th_slot
from thestral._core.head cimport RequestHead


cpdef uint64_t now() noexcept


cdef class Counted:
    cdef public object client
    cdef public dict scope
    cdef public RequestHead request
    cdef public int status
    cdef public int64_t received
    cdef public int64_t sent
    cdef public uint64_t head_at_ns
    cdef uint64_t first_byte_ns
    cdef public int place


cdef class WorkerMetrics:
    cdef th_slot *_slot
    cdef Py_buffer _memory
    cdef dict _rows
    cdef object _template
    cdef unsigned char _free[TH_METRICS_RUNNING]
    cdef int _free_count
    cdef bint _crowded
    cdef list _clients

    cpdef int begin(self, Counted request) except -1
    cpdef int place(self, Counted request) except -1
    cdef int _fill(self, Counted request) except -1
    cpdef void displace(self, Counted request) noexcept
    cdef void _empty(self, Counted request) noexcept
    cpdef bint is_crowded(self) noexcept
    cdef object _show_client(self, int place, object client)
    cdef int _row(self, dict scope, int method) except -1
    cdef object _row_of_route(self, object route, dict scope, int method)
    cpdef int end(self, Counted request, dict template) except -1
    cpdef void progress(self, Counted request) noexcept
    cpdef void add_received(self, uint64_t size) noexcept
    cpdef void add_sent(self, uint64_t size) noexcept
    cpdef void abort(self) noexcept
    cpdef object refuse(self, int status)
    cpdef object time_out(self, str kind)
    cpdef object accept(self)
    cpdef object refuse_connection(self)
    cpdef object fail_handshake(self)
    cpdef object set_connections(self, uint64_t count)
    cpdef object open_websocket(self)
    cpdef object close_websocket(self, int code)
    cpdef object receive_message(self, object message)
    cpdef object send_message(self, object message)
    cpdef object open_stream(self)
    cpdef object close_stream(self)
    cpdef object receive_reset(self, int code)
    cpdef object send_reset(self, int code)
    cpdef object send_goaway(self, int code)
