from thestral.protocol.connection cimport Connection
from thestral.protocol.http1 cimport HTTP1Connection

cdef Py_ssize_t GATHER_MAX
cdef int HANDSHAKE_RECORD


cdef class TLSHandshake(Connection):
    cdef object _contexts
    cdef object _incoming
    cdef object _outgoing
    cdef object _secure
    cdef bint _begun
    cdef bint _failed

    cdef object _flush(self)
    cdef object _complete(self)
    cdef object _refuse_plain(self, bytes data)
    cdef object _fail(self, object error)


cdef class TLSTransport:
    cdef public dict tls
    cdef object _below
    cdef HTTP1Connection _above
    cdef object _secure
    cdef object _incoming
    cdef object _outgoing
    cdef bint _ended
    cdef bint _closed

    cdef object begin(self, HTTP1Connection above)
    cdef object _decrypt(self)
    cdef object _end(self)
    cdef object _fail(self, object error)
    cdef object _flush(self)
    cdef object _say_goodbye(self)
    cpdef object write(self, bytes data)
    cpdef object writelines(self, object parts)
    cpdef object close(self)
