from thestral._core.head cimport RequestHead
from thestral._core.websocket cimport FrameParser, FrameWriter
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.messages cimport as_dict, body_of, headers_of, status_of
from thestral.protocol.scope cimport websocket_scope

cdef int MESSAGE
cdef int PING
cdef int CLOSE
cdef int CONNECTING
cdef int DENYING
cdef int DENIED
cdef int OPEN
cdef int CLOSING
cdef int CLOSED
cdef int NORMAL
cdef int ABNORMAL
cdef int INTERNAL_ERROR
cdef int SERVICE_RESTART
cdef Py_ssize_t MANY


cdef class WebSocketCycle(Cycle):
    cdef FrameParser _parser
    cdef FrameWriter _writer
    cdef object _deflate
    cdef Py_ssize_t _max_queue
    cdef Py_ssize_t _max_queue_size
    cdef int _state
    cdef bint _counted
    cdef object _queue
    cdef Py_ssize_t _queue_size
    cdef Py_ssize_t _held
    cdef object _fault
    cdef bytes _pong
    cdef int _code
    cdef str _reason
    cdef bint _connect_delivered
    cdef bint _disconnect_delivered
    cdef bint _heard
    cdef bint _sent
    cdef double _ping_at
    cdef double _dead_at
    cdef double _close_by

    cdef object _unexpected(self, object kind)
    cdef object _send_message(self, dict message)
    cdef object _accept(self, dict message)
    cdef object _deny(self, dict message)
    cdef object _close_by_app(self, dict message)
    cdef object _read(self, bint answering)
    cdef object _on_fault(self, object error, bint answering)
    cdef object _queue_message(self, object message)
    cdef object _answer_ping(self, bytes payload)
    cdef object _refuse(self, int status, object headers, bytes body)
    cdef object _start_close(self, int code, str reason)
    cdef object _await_close(self, double by)
    cdef object _fail_late(self)
    cdef object _fail(self, int code, str reason)
    cdef object _end(self, int code, str reason, bytes frame)
    cdef object _disconnect(self, int code, str reason)
    cdef object _count_end(self, int code)
    cdef object _set_deadline(self)


cpdef object begin_websocket(Stream stream, RequestHead head, dict scope)
