from thestral.protocol.connection cimport Connection
from thestral.protocol.context cimport WorkerContext
from thestral.protocol.http1 cimport HTTP1Connection


cdef class ProxyHandshake(Connection):
    cdef bytes _received

    cpdef object data_received(self, bytes data)
    cdef object _hand_over(self, object proxied, bytes rest)
    cdef object _make_way(self, object connection)
    cdef object _fail(self, int status, bytes data)
