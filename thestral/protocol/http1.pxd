cimport cython

from thestral._core.head cimport RequestHead
from thestral._core.http1 cimport RequestParser, ResponseWriter
from thestral._core.socket cimport ReadBuffer
from thestral.protocol.access cimport AccessLog
from thestral.protocol.connection cimport Connection, Cycle
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.cycle cimport HTTPCycle
from thestral.protocol.response cimport HTTP1Response
from thestral.protocol.http cimport HTTPConnection
from thestral.protocol.runner cimport start
from thestral.protocol.scope cimport http_scope, scope_template
from thestral.protocol.trace cimport Tracer
from thestral.protocol.websocket cimport begin_websocket

# Constants of the .py file, as C integers: comparing with them creates no objects.
cdef int BODY_READ
cdef int END_READ
cdef int HEAD_READ
cdef Py_ssize_t READ_HIGH_WATER
cdef Py_ssize_t PIPELINE_HIGH_WATER
cdef Py_ssize_t DISCARD_MAX
cdef int REQUESTS_PER_TURN
cdef int FIRST_HEAD
cdef int HEAD
cdef int BODY
cdef int RESPONDING
cdef int IDLE
cdef int LAST_CHANCE
cdef int TUNNEL
cdef int LINGERING
cdef int CLOSING
cdef double DRAIN_GRACE


cdef class HTTP1Stream


cdef class HTTP1Connection(HTTPConnection):
    cdef object _successor
    cdef RequestParser _parser
    cdef HTTP1Stream _stream
    cdef bint _scheduled

    cpdef object data_received(self, bytes data)
    cpdef object advance(self)
    cdef bint has_room(self) except -1
    cdef object _keep_waiting(self)
    cdef object _advance(self)
    cdef object _start(self, HTTP1Stream stream)
    cdef object _input_ended(self)
    @cython.locals(access_log=AccessLog, stream=HTTP1Stream, cycle=HTTPCycle, head=RequestHead, tracer=Tracer)
    cdef object _begin(self)
    cdef object _tunnel_data(self, HTTP1Stream stream, bytes data)
    cdef object _schedule(self)
    @cython.locals(connection=Connection)
    cdef object _hand_over(self, object successor)
    cdef object _take_body(self)
    cdef object _next(self)
    @cython.locals(stream=HTTP1Stream)
    cdef object _refuse(self, object error)
    cdef object hang_up(self, HTTP1Stream stream)
    cdef object _idle(self)
    cdef object _close(self)
    cdef object release(self, HTTP1Stream stream)
    cdef object begin_tunnel(self)
    cdef object on_response_complete(self, HTTP1Stream stream)
    cdef object cut(self, HTTP1Stream stream)
    cdef object finish(self, HTTP1Stream stream)


cdef class HTTP1Stream(HTTP1Response):
    cdef HTTP1Connection wire
    cdef bint started
    cdef bint tunnel
    cdef bytes accept
    cdef bint discarding
    cdef Py_ssize_t unconsumed
    cdef Py_ssize_t high_water

    cdef object begin(self, HTTP1Connection connection, RequestHead head)
