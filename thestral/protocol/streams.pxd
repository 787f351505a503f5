cimport cython
from libc.stdint cimport int64_t, uint32_t

from thestral._core.head cimport RequestHead
from thestral._core.http1 cimport ResponseWriter
from thestral._core.http2 cimport FrameCodec, ResponseFields, check_fields
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.exchange cimport check_trailers, omits_length, too_long, too_short
from thestral.protocol.http cimport HTTPConnection

# Constants of the .py file, as C integers: comparing with them creates no objects.
cdef int NO_ERROR
cdef int INTERNAL_ERROR
cdef int CANCEL
cdef Py_ssize_t QUEUE_MAX
cdef Py_ssize_t JOIN_MAX
cdef Py_ssize_t STREAM_WINDOW_MAX
cdef Py_ssize_t SENT_PER_TURN
cdef int FRAMES_OF_BETTER
cdef double LINGER_TIMEOUT
cdef int RESPONDING


cdef class HTTP2Stream


cdef class Multiplexer(HTTPConnection):
    cdef FrameCodec codec
    cdef dict streams
    cdef list waiting
    cdef list _touched
    cdef double _earliest
    cdef int _frames
    cdef bint _scheduled
    cdef bint _flush_scheduled

    cpdef object advance(self)
    cdef object look_ahead(self)
    cdef object late(self, HTTP2Stream stream)
    cdef object schedule(self)
    cdef object write_control(self)
    cdef object touch(self, HTTP2Stream stream)
    @cython.locals(stream=HTTP2Stream, cycle=Cycle)
    cdef object end_turn(self)
    cdef object _flush_soon(self)
    cpdef object loop_turned(self)
    cdef bint may_write(self) noexcept
    cdef object wait(self, HTTP2Stream stream)
    @cython.locals(stream=HTTP2Stream, sent=Py_ssize_t)
    cdef object pump(self)
    @cython.locals(stream=HTTP2Stream, best=HTTP2Stream, worst=HTTP2Stream, least=int, most=int, urgency=int)
    cdef HTTP2Stream _choose(self)
    cdef object rotate(self, HTTP2Stream stream)
    cdef object note_deadline(self, double when)
    cdef object send_reset(self, HTTP2Stream stream, uint32_t code)
    cdef object finish(self, HTTP2Stream stream)
    cdef object release(self, HTTP2Stream stream)
    cdef object close_tunnel(self, HTTP2Stream stream)


cdef class HTTP2Stream(Stream):
    cdef Multiplexer wire
    cdef uint32_t id
    cdef bint started
    cdef bint request_complete
    cdef bint head_only
    cdef bint tunnel
    cdef bint closing
    cdef bint owes_continue
    cdef bint over
    cdef bint waits
    cdef bint touched
    cdef bint ends
    cdef Py_ssize_t unconsumed
    cdef double deadline
    cdef double write_deadline
    cdef ResponseFields held
    cdef int head_status
    cdef list pieces
    cdef Py_ssize_t piece_at
    cdef Py_ssize_t queued
    cdef ResponseFields trailers
    cdef int64_t reset_code

    cdef object begin(self, Multiplexer connection, uint32_t number, RequestHead head)
    @cython.locals(wait=double)
    cdef object expect_body(self)
    cdef object on_deadline(self)
    cpdef object abort(self, uint32_t code)
    @cython.locals(announced=int64_t)
    cdef bint _finish_head(self, Py_ssize_t size, bint end) except -1
    cdef object _write_head(self, bint end)
    @cython.locals(size=Py_ssize_t, missing=int64_t)
    cdef object _write_body(self, bytes body, bint end)
    cpdef bint has_all(self) except -1
    cpdef object note_closed(self)
    cdef object _fall_short(self, int64_t missing)
    cdef object _send(self, bytes data, Py_ssize_t size, bint end)
    cdef object _queue(self, bytes data)
    cdef bint can_send(self) noexcept
    @cython.locals(size=Py_ssize_t, last=bint, ends=bint, end=bint)
    cdef Py_ssize_t send_frame(self) except -1
    @cython.locals(piece=bytes, part=Py_ssize_t, sent=Py_ssize_t)
    cdef object _write_pieces(self, Py_ssize_t size)
    cdef object _end_output(self)
    cdef object _finish_output(self)
    cdef object forget_output(self)
    cdef object _complete(self)
