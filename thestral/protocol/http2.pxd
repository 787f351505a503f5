cimport cython

from thestral._core.head cimport RequestHead
from thestral._core.http1 cimport reason_phrase
from thestral._core.http2 cimport FrameCodec
from thestral._core.log cimport monotonic
from thestral._core.socket cimport ReadBuffer
from thestral.protocol.access cimport AccessLog
from thestral.protocol.connection cimport Connection, Cycle
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.cycle cimport HTTPCycle
from thestral.protocol.runner cimport start
from thestral.protocol.scope cimport http_scope, scope_template
from thestral.protocol.trace cimport Tracer
from thestral.protocol.streams cimport HTTP2Stream, Multiplexer
from thestral.protocol.websocket cimport begin_websocket

# Constants of the .py file, as C integers: comparing with them creates no objects.
cdef int HEAD_READ
cdef int BODY_READ
cdef int END_READ
cdef int RESET_READ
cdef int REFUSED
cdef int PONG_READ
cdef int NO_ERROR
cdef int CANCEL
cdef int ENHANCE_YOUR_CALM
cdef int INADEQUATE_SECURITY
cdef Py_ssize_t STARTS_PER_TURN
cdef double STARTS_TIME
cdef double SETTINGS_TIME
cdef int SERVING
cdef int RETIRING
cdef int REFUSING
cdef int FIRST_HEAD
cdef int HEAD
cdef int RESPONDING
cdef int IDLE
cdef int LAST_CHANCE
cdef int LINGERING
cdef double DRAIN_GRACE


cdef class HTTP2Connection(Multiplexer):
    cdef Py_ssize_t _most
    cdef list _ready
    cdef list _at_work
    cdef int _ending
    cdef double _refuse_by
    cdef double _settings_by

    cpdef object data_received(self, bytes data)
    @cython.locals(stream=HTTP2Stream, cycle=Cycle)
    cdef object _hear_the_end(self)
    @cython.locals(stream=HTTP2Stream)
    cdef object _drop_stuck(self)
    @cython.locals(stream=HTTP2Stream, cycle=Cycle)
    cdef object abandon(self)
    @cython.locals(stream=HTTP2Stream)
    cpdef object check_deadlines(self, double now)
    @cython.locals(stream=HTTP2Stream, cycle=Cycle)
    cpdef object drain(self)
    @cython.locals(context=WorkerContext)
    cdef object _read(self)
    cdef object _idle(self)
    @cython.locals(event=int)
    cdef object _next(self)
    @cython.locals(stream=HTTP2Stream, cycle=HTTPCycle, head=RequestHead, access_log=AccessLog, tracer=Tracer)
    cdef object _begin(self)
    cdef object _add(self, HTTP2Stream stream)
    @cython.locals(stream=HTTP2Stream)
    cdef object _take_body(self)
    cdef object _end_request(self, HTTP2Stream stream)
    @cython.locals(stream=HTTP2Stream)
    cdef object _on_reset(self)
    @cython.locals(stream=HTTP2Stream)
    cdef object _on_refused(self)
    cdef object _forsake(self, HTTP2Stream stream)
    cdef object _drop(self, HTTP2Stream stream)
    @cython.locals(stream=HTTP2Stream, cycle=Cycle, limit=Py_ssize_t, room=Py_ssize_t)
    cdef object _start_ready(self)
    cdef object _log_refusal(self, str what, object error, HTTP2Stream stream=*)
    cdef object _refuse(self, HTTP2Stream stream, object error)
    cdef object _fail(self, object error)
    cdef object _end(self, int code, str text)
    cdef object _send_goaway(self, bint last, int code, str text)
    cdef object _check_stream(self, HTTP2Stream stream, double now)
    cpdef object wind_down(self)
    cdef object _retire(self)
    cdef object _refuse_streams(self)
    cdef object _await_first(self)
