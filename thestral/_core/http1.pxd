from cpython.bytes cimport PyBytes_CheckExact
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t

from thestral._core.csrc cimport th_buffer, th_http1
from thestral._core.head cimport RequestHead
from thestral._core.socket cimport ReadBuffer

cpdef enum Event:
    NEED_DATA = 0
    HEAD = 1
    BODY = 2
    END = 3


cdef tuple converted_pair(object pair)


cdef inline tuple pair_of(object pair):
    """Return a field that the application sends as a tuple (name, value) of bytes.

    Raises:
        LocalProtocolError: it is not a pair, or not one of bytes.
    """
    if PyTuple_CheckExact(pair) and PyTuple_GET_SIZE(pair) == 2:
        if PyBytes_CheckExact(<object>PyTuple_GET_ITEM(pair, 0)) and PyBytes_CheckExact(<object>PyTuple_GET_ITEM(pair, 1)):
            return <tuple>pair
    return converted_pair(pair)


cpdef str reason_phrase(int status)
cpdef int64_t length_of(bytes value) noexcept


cdef class RequestParser:
    cdef th_http1 _http1
    cdef bytes _fed  # the bytes that _http1 reads; None if they are borrowed, or there are none

    cpdef object feed(self, bytes data)
    cpdef object borrow(self, ReadBuffer buffer)
    cpdef object keep(self)
    cpdef int next_event(self) except -1
    cpdef RequestHead read_head(self)
    cpdef bytes read_body(self)
    cpdef Py_ssize_t left(self) except -1
    cpdef bytes take_left(self)
    cpdef bint is_idle(self) except -1
    cpdef bint is_head(self) except -1
    cpdef bint is_http2(self) except -1
    cpdef bytes take_head(self)
    cdef object _let_go(self)


cdef class ResponseWriter:
    cdef th_buffer buffer
    cdef readonly int64_t content_length
    cdef readonly bint close
    cdef readonly bint has_date
    cdef readonly bint has_server

    cpdef Py_ssize_t begin(self, int status) except -1
    cpdef object write_status(self, int status)
    cpdef object write_headers(self, object headers, bint drop_content_length)
    cdef object _write_header(self, object pair, bint drop_content_length)
    cdef object _note(self, int known, bytes value)
    cpdef object write_content_length(self, int64_t length)
    cpdef object write(self, bytes data)
    cpdef object write_chunk_head(self, Py_ssize_t size)
    cpdef object write_chunk(self, bytes data)
    cpdef Py_ssize_t size(self) except -1
    cpdef object truncate(self, Py_ssize_t mark)
    cpdef int send(self, int fd) noexcept
    cpdef bytes peek(self, Py_ssize_t mark)
    cpdef bytes take(self, Py_ssize_t mark)
