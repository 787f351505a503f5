from libc.stdint cimport int64_t, uint32_t

from thestral._core.csrc cimport th_buffer, th_http2, th_http2_hint
from thestral._core.head cimport RequestHead
from thestral._core.http1 cimport ResponseWriter
from thestral._core.socket cimport ReadBuffer

cpdef enum Event:
    NEED_DATA = 0
    HEAD = 1
    BODY = 2
    END = 3
    RESET = 4
    REFUSED = 5
    PONG = 6

cpdef enum ErrorCode:
    NO_ERROR = 0x0
    INTERNAL_ERROR = 0x2
    SETTINGS_TIMEOUT = 0x4
    CANCEL = 0x8
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC

cdef enum:
    LINES_KEPT = 64  # entries of the peer's dynamic table; a power of two


cdef class ResponseFields:
    cdef list _pairs
    cdef readonly int64_t content_length
    cdef readonly bint has_date
    cdef readonly bint has_server

    cdef object _add(self, object pair, bint drop_content_length)
    cdef object _note_length(self, bytes value)
    cpdef object announce(self, int64_t length)
    cpdef list pairs(self)


cpdef ResponseFields check_fields(object headers, bint drop_content_length)


cdef class FrameCodec:
    cdef th_http2 _http2
    cdef bytes _fed  # as in RequestParser
    cdef list _lines  # pairs made from entries of the peer's dynamic table
    cdef uint32_t[LINES_KEPT] _serials  # serials of these entries

    cpdef object feed(self, bytes data, double now)
    cpdef object borrow(self, ReadBuffer buffer, double now)
    cpdef object keep(self)
    cpdef int next_event(self) except -1
    cdef object _let_go(self)
    cpdef RequestHead read_head(self)
    cdef list _headers(self)
    cdef tuple _authority(self)
    cdef object _keep_line(self, uint32_t serial, tuple line)
    cdef tuple _line(self, const th_http2_hint *hint, uint32_t index)
    cpdef bytes read_body(self)
    cpdef uint32_t stream(self) noexcept
    cpdef bint ended(self) noexcept
    cpdef bint is_head(self) noexcept
    cpdef object error(self)
    cpdef uint32_t reset_code(self) noexcept
    cpdef Py_ssize_t left(self) noexcept
    cpdef bint is_reading_head(self) noexcept
    cpdef bint settings_acked(self) noexcept
    cpdef uint32_t last_id(self) noexcept
    cpdef Py_ssize_t sendable(self, uint32_t id, Py_ssize_t size) noexcept
    cpdef bint may_receive(self, uint32_t id) noexcept
    cpdef int urgency(self, uint32_t id) noexcept
    cpdef bint is_incremental(self, uint32_t id) noexcept
    cpdef object consumed(self, uint32_t id, Py_ssize_t size, bint waits)
    cpdef object set_stalled(self, bint stalled)
    cpdef object rest(self)
    cpdef object completed(self)
    cpdef bint has_output(self) noexcept
    cpdef object write_output(self, ResponseWriter writer)
    cpdef object write_head(self, ResponseWriter writer, uint32_t id, int status, ResponseFields fields, list more, bint end)
    cpdef object write_trailers(self, ResponseWriter writer, uint32_t id, ResponseFields fields)
    cpdef object write_data(self, ResponseWriter writer, uint32_t id, bytes data, Py_ssize_t start, Py_ssize_t size, bint end)
    cpdef object write_data_head(self, ResponseWriter writer, uint32_t id, Py_ssize_t size, bint end)
    cpdef object write_part(self, ResponseWriter writer, bytes data, Py_ssize_t start, Py_ssize_t size)
    cpdef object write_reset(self, ResponseWriter writer, uint32_t id, uint32_t code)
    cpdef object write_goaway(self, ResponseWriter writer, bint last, uint32_t code, str text)
    cpdef object write_ping(self, ResponseWriter writer)
    cdef object _encode(self, th_buffer *out, list pairs)
