cimport cython
from libc.stdint cimport int64_t

from thestral._core.head cimport RequestHead
from thestral._core.log cimport LineBuffer, escaped, find_field, monotonic, wall_clock
from thestral.protocol.exchange cimport Exchange
from thestral.protocol.trace cimport Trace

cdef int LITERAL
cdef int CLIENT_HOST
cdef int USER
cdef int TIME
cdef int REQUEST
cdef int STATUS
cdef int METHOD
cdef int PATH
cdef int QUERY
cdef int PROTOCOL
cdef int BYTES_OR_NONE
cdef int BYTES
cdef int SECONDS
cdef int MICROSECONDS
cdef int MILLISECONDS
cdef int DECIMAL_SECONDS
cdef int REQUEST_FIELD
cdef int RESPONSE_FIELD
cdef int CLIENT
cdef int STATUS_LINE
cdef int ISO_TIME
cdef int ABORTED
cdef int REQUEST_ID
cdef int UTC_TIME
cdef int VERSION
cdef int TRACE_ID
cdef int SPAN_ID
cdef int IDS
cdef Py_ssize_t BATCH
cdef Py_ssize_t WAITING_MAX
cdef int READER_PATIENCE
cdef int INFO
cdef int CLIENT_CLOSED_REQUEST


cdef class Part:
    cdef readonly int kind
    cdef readonly bytes text


cdef class Exclusion:
    cdef frozenset _names
    cdef tuple _begins
    cdef object _pattern

    cpdef bint matches(self, bytes path) except -1


cdef class AccessLog:
    cdef object __weakref__
    cdef public bint enabled
    cdef public bint keeps_fields
    cdef public bint timed
    cdef public bint keeps_head
    cdef bint _default
    cdef bint _is_json
    cdef bint _has_ids
    cdef bint _logs
    cdef double _slow
    cdef Exclusion _exclusion
    cdef set _kinds
    cdef tuple _silent
    cdef str _line_format
    cdef bint _dated
    cdef list _parts
    cdef LineBuffer _lines
    cdef dict _status_lines
    cdef object _logger
    cdef object _handler
    cdef object _formatter
    cdef int64_t _second
    cdef bytes _clf_time
    cdef bytes _iso_time
    cdef bytes _utc_time
    cdef bytes _zone
    cdef bint _failed
    cdef object _stream
    cdef object _poll
    cdef int64_t _lost

    cpdef object record(self, Exchange exchange, bint aborted)
    cpdef object refresh(self)
    cdef object _set_logging(self, bint logs)
    @cython.locals(trace=Trace, now=double, duration=double, request=RequestHead)
    cdef object _check_duration(self, Exchange exchange, bint aborted)
    cdef bint is_direct(self) except -1
    @cython.locals(part=Part, kind=int, lines=LineBuffer, now=double, microseconds=int64_t, status=int, sent=int64_t, request=RequestHead)
    cdef object _format(self, Exchange exchange, bint aborted)
    @cython.locals(request=RequestHead)
    cdef object _log(self, Exchange exchange, bint aborted)
    @cython.locals(trace=Trace)
    cdef object _ids(self, Exchange exchange)
    @cython.locals(lines=LineBuffer)
    cdef object _member(self, bytes name, str value)
    cdef object _id(self, str value)
    cdef object _value(self, bytes value)
    cdef object _absent(self)
    @cython.locals(request=RequestHead)
    cdef object _target(self, Exchange exchange)
    cdef object _read_clock(self, int64_t second)
    cpdef bint flush(self) except -1
    cdef object _write(self, Py_ssize_t most_left)
    cdef bint _has_room(self) except -1
    cdef bint _can_write(self, int patience) except -1
    cpdef object drain(self)
    cpdef object forget(self)
    cdef object _report_lost(self)
    cpdef object close(self)


@cython.locals(scope=dict)
cdef object client_of(Exchange exchange)
cdef int status_of(Exchange exchange) noexcept
