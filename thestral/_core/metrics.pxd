from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t

from thestral._core.csrc cimport TH_METRICS_RUNNING, th_slot
from thestral._core.head cimport RequestHead


cpdef uint64_t now() noexcept


cdef class WorkerMetrics:
    cdef th_slot *_slot
    cdef Py_buffer _memory
    cdef dict _rows
    cdef object _template
    cdef unsigned char _free[TH_METRICS_RUNNING]
    cdef int _free_count
    cdef bint _crowded

    cpdef int begin(self, RequestHead head, tuple client, uint64_t began) except -2
    cpdef int place(self, RequestHead head, tuple client, uint64_t began) except -2
    cpdef object displace(self, int place)
    cpdef bint is_crowded(self) noexcept
    cdef int _row(self, dict scope, int method) except -1
    cdef object _row_of_route(self, object route, dict scope, int method)
    cpdef object end(
        self,
        int place,
        RequestHead head,
        dict scope,
        dict template,
        int status,
        uint64_t began,
        uint64_t first_byte,
    )
    cpdef object progress(self, int place, uint64_t received, uint64_t sent)
    cpdef object add_received(self, uint64_t size)
    cpdef object add_sent(self, uint64_t size)
    cpdef object abort(self)
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
