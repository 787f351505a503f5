cimport cython

from thestral.protocol.connection cimport Connection
from thestral.protocol.preamble cimport Preamble


cdef class ProxyHandshake(Preamble):
    cdef bytes _received

    cpdef object data_received(self, bytes data)
    @cython.locals(connection=Connection)
    cdef object _complete(self, object proxied, bytes rest)
    cdef object _fail(self, int status, bytes data)
