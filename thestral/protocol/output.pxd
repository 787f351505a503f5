from thestral._core.http1 cimport ResponseWriter
from thestral.net.transport cimport Protocol, SocketTransport
from thestral.protocol.context cimport WorkerContext

cdef Py_ssize_t OUTPUT_MAX
cdef Py_ssize_t GATHER_MIN


cdef class Output(Protocol):
    cdef public WorkerContext context
    cdef public object transport
    cdef public SocketTransport owned
    cdef public Py_ssize_t written
    cdef public bint lost
    cdef list _pieces
    cdef Py_ssize_t _pieces_size
    cdef ResponseWriter _writer
    cdef bint _corked
    cdef bint _joined

    cdef ResponseWriter output(self)
    cdef object append(self, bytes data)
    cdef bint copies(self, Py_ssize_t size) noexcept
    cdef object emit(self)
    cdef object expect_turn_end(self)
    cdef object end_turn(self)
    cdef object flush(self)
    cdef object write(self, bytes data)
    cdef object write_from(self, ResponseWriter writer)
    cdef object write_gathered(self, list parts)
    cdef object count_written(self, Py_ssize_t size)
    cdef bint is_broken(self) except -1
    cdef object abandon(self)
