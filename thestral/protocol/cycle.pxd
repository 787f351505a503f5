cimport cython
from libc.stdint cimport int64_t

from thestral._core.log cimport monotonic
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.filebody cimport FileBody, open_duplicate, open_path
from thestral.protocol.messages cimport (
    announced_by,
    as_dict,
    body_of,
    headers_of,
    is_event_stream,
    list_of,
    status_of,
    trailers_of,
)

cdef int EXPECT_START
cdef int EXPECT_FIRST_BODY
cdef int EXPECT_BODY
cdef int COMPLETE
cdef int EXPECT_FILE
cdef int EXPECT_TRAILERS
cdef Py_ssize_t SMALL_PIECE
cdef Py_ssize_t JOIN_MAX
cdef Py_ssize_t DROPPED_MAX
cdef double DROPPED_TIME


cdef class HTTPCycle(Cycle):
    cdef int _state
    cdef list _headers
    cdef bint _streams_events
    cdef bint _body_begun
    cdef int64_t _droppable
    cdef double _dropping_since
    cdef list _trailers
    cdef FileBody _file
    cdef bytes _body
    cdef list _more_body
    cdef Py_ssize_t _body_size
    cdef bint _request_complete
    cdef bint _body_delivered

    @cython.locals(fields=dict)
    cdef bint take(self, object message) except -1
    cdef bytes _take_body(self)
    cdef object _start(self, dict message)
    cdef object _begin_body(self)
    cdef object _cut(self)
    @cython.locals(size=Py_ssize_t)
    cdef object _drop(self, dict message)
    cdef object _report_disconnect(self)
    cdef object _require_offered(self, str kind)
    cdef bint _was_told_to_end(self, object exc) except -1
    cdef object _hint(self, dict message)
    cdef object _send_body(self, dict message)
    cdef object _fail(self)
    @cython.locals(expects_body=bint)
    cdef bint _send_extension(self, dict message) except -1
    cdef object _unexpected(self, object kind)
    cdef object _end_with_trailers(self, dict message)
    @cython.locals(length=int64_t)
    cdef object _begin_file(self, FileBody file)
    @cython.locals(file=FileBody, sent=Py_ssize_t)
    cdef bint _send_pieces(self) except -1
    cdef object _close_file(self)
