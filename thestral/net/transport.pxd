from libc.stdint cimport int64_t

from thestral._core.http1 cimport ResponseWriter
from thestral._core.socket cimport ReadBuffer, SendQueue
from thestral.net.poller cimport Poller, Watched

cdef int READABLE
cdef int WRITABLE
cdef int HANGUP
cdef int BROKEN
cdef int BLOCKED
cdef int FAILED
cdef int SENDS_PER_TURN
cdef Py_ssize_t CORK_SIZE


cdef class Protocol:
    cdef object receive_from(self, ReadBuffer buffer)
    cdef object end_turn(self)


cdef class SocketTransport(Watched):
    cdef object _protocol
    cdef Protocol _receiver
    cdef object _peer
    cdef object _own
    cdef object _socket
    cdef object _error
    cdef bytes _held
    cdef SendQueue _queue
    cdef Py_ssize_t _high
    cdef Py_ssize_t _low
    cdef bint _paused
    cdef bint _ended
    cdef bint _eof
    cdef bint _closing
    cdef bint _lost
    cdef bint _writing_paused
    cdef bint _armed

    cdef object begin(self, object protocol)
    cdef object _receive(self, int bits)
    cdef object _end(self)
    cdef object _flush(self)
    cdef object _send(self)
    cdef object _arm(self)
    cdef object _stall(self)
    cdef object _lose(self, object exc)
    cdef object _fail(self, str call, object exc)
    cdef object _report(self, str call, object exc)
    cdef object _finish(self)
    cdef object _open_socket(self)
    cpdef object write(self, object data)
    cpdef Py_ssize_t send_file(self, int file, int64_t offset, int64_t size) except -1
    cpdef object write_from(self, ResponseWriter writer)
    cdef object _hold(self, bytes data)
    cdef object _send_at_once(self, bytes data)
    cdef object _queue_rest(self, bytes data, Py_ssize_t sent)
    cpdef object writelines(self, object parts)
    cpdef object write_eof(self)
    cpdef object close(self)
    cpdef object abort(self)
    cpdef bint is_closing(self) except -1
    cpdef object pause_reading(self)
    cpdef object resume_reading(self)
    cpdef Py_ssize_t get_write_buffer_size(self) except -1
