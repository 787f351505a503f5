cimport cython

from thestral._core.socket cimport ReadBuffer
from thestral.protocol.connection cimport Connection
from thestral.protocol.preamble cimport Preamble
from thestral.net.transport cimport Protocol, SocketTransport

cdef Py_ssize_t GATHER_MAX
cdef int HANDSHAKE_RECORD


cdef class TLSTransport


cdef class TLSHandshake(Preamble):
    cdef object _contexts
    cdef object _incoming
    cdef object _outgoing
    cdef object _secure
    cdef bint _begun
    cdef bint _failed

    cpdef object data_received(self, bytes data)
    cdef object _flush(self)
    @cython.locals(transport=TLSTransport)
    cdef object _complete(self)
    cdef object _fail(self, object error)


cdef class TLSTransport(Protocol):
    cdef public dict tls
    cdef object _below
    cdef SocketTransport _owned
    cdef Connection _above
    cdef object _secure
    cdef object _inner
    cdef object _incoming
    cdef object _outgoing
    cdef bint _sent
    cdef bint _ended
    cdef bint _closed

    cdef object begin(self)
    cpdef object data_received(self, bytes data)
    cdef object receive_from(self, ReadBuffer buffer)
    @cython.locals(data=bytes)
    cdef object _decrypt(self)
    @cython.locals(taken=Py_ssize_t, size=Py_ssize_t)
    cdef object _encrypt(self, bytes data)
    cdef object _end(self)
    cdef object _fail(self, object error)
    @cython.locals(data=bytes)
    cdef object _flush(self)
    cdef object _send_close_notify(self)
    cpdef object write(self, bytes data)
    cpdef object writelines(self, object parts)
    cpdef bint is_closing(self) except -1
    cpdef Py_ssize_t get_write_buffer_size(self) except -1
    cpdef object close(self)
