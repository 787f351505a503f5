cimport cython
from libc.stdint cimport int64_t

from thestral._core.coroutine cimport is_held_once
from thestral._core.log cimport monotonic
from thestral._core.socket cimport ReadBuffer
from thestral.protocol.access cimport AccessLog
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.exchange cimport Exchange
from thestral.protocol.output cimport Output
from thestral.net.transport cimport SocketTransport

cdef Py_ssize_t BURST_MAX
cdef double BURST_TIME


cdef class Connection(Output):
    cdef public object client
    cdef public object server
    cdef public object proxied
    cdef public object scheme
    cdef public dict tls
    cdef public dict scope_template
    cdef public double deadline
    cdef public double write_deadline
    cdef public Py_ssize_t taken
    cdef public bint write_paused
    cdef public bint reading_paused

    cdef object open(self, object transport)
    cpdef bint trusts_peer(self) except -1
    cpdef object data_received(self, bytes data)
    cdef object receive_from(self, ReadBuffer buffer)
    cdef object take_over(self, bytes data)
    cdef object count_received(self, Py_ssize_t size)
    cdef object give_way(self, Connection successor, object transport)
    cpdef object wind_down(self)
    cpdef object refuse(self, object error)
    cpdef object abort(self)
    cdef object pause_reading(self)
    cdef object resume_reading(self)
    cdef object close_flushing(self)
    cdef object writable(self)
    cpdef object check_deadlines(self, double now)
    cpdef object on_deadline(self)
    cpdef object drain(self)


cdef class Stream(Exchange):
    cdef public Connection connection
    cdef Cycle _cycle
    cdef bint ended

    cdef object attach(self, Cycle cycle)
    cdef Cycle cycle(self)
    @cython.locals(access_log=AccessLog)
    cdef object end(self, bint aborted)
    cpdef bint is_counted(self) except -1
    cdef object count_abort(self)
    cdef void note_progress(self) noexcept
    cdef object receive(self, Py_ssize_t size)
    cpdef object start(self, int status, object headers)
    cpdef object write(self, bytes data, bint end)
    cpdef object respond(self, int status, object headers, bytes body)
    cpdef object withdraw(self)
    cpdef int64_t announced(self) except -2
    cpdef object announce(self, int64_t size)
    cpdef Py_ssize_t write_file(self, int file, int64_t offset, int64_t size) except -2
    cpdef object write_trailers(self, object headers)
    cpdef object flush(self)
    cpdef object inform(self, int status, object headers)
    cpdef object open_tunnel(self, object headers)
    cpdef object wake_at(self, double when)
    cpdef object want_body(self)
    cpdef object consumed(self, Py_ssize_t size)
    cpdef object reset(self)
    cpdef object cut(self)
    cpdef bint is_writable(self) except -1


cdef class Sending


cdef class Cycle:
    cdef public dict scope
    cdef public Stream stream
    cdef public WorkerContext context
    cdef public object task
    cdef public double deadline
    cdef public bint counted
    cdef Py_ssize_t _burst
    cdef double _burst_began
    cdef double _sent_at
    cdef bint _blocks
    cdef bint _timed_out
    cdef bint _cancelled
    cdef bint _disconnected
    cdef bint _gone
    cdef list _readers
    cdef list _writers

    cdef object begin(self, dict scope, Stream stream, WorkerContext context)
    cdef object on_data(self, bytes data)
    cdef object on_end(self)
    cdef object on_disconnect(self)
    cdef object on_closed(self)
    cdef object on_over(self)
    cdef object on_writable(self)
    cdef object on_turn_end(self)
    cdef object on_deadline(self)
    cdef object on_drain(self)
    cpdef object cancel(self)
    cpdef object on_timeout(self)
    cdef bint take(self, object message) except -1
    cdef bint proceed(self, bint waited) except -1
    cdef bint may_go_on(self) except -1
    cdef object count(self, Py_ssize_t size)
    @cython.locals(sending=Sending)
    cdef object sending(self, object message)
    cdef object on_return(self, object exc)
    cpdef object title(self)
    cpdef object extra(self)
    cdef object until_readable(self)
    cdef object until_writable(self)
    cdef object add_waiter(self, list waiters)
    cdef object wake_readers(self)
    cdef object wake(self, list waiters)
    cdef bint is_disconnect(self, object exc) except -1
    cdef object log_raised(self, object exc)


cdef class Sending:
    cdef Cycle cycle
    cdef object message
    cdef bint taken
    cdef object waiting
