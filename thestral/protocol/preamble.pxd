cimport cython

from thestral.protocol.connection cimport Connection


cdef class Preamble(Connection):
    cdef object _successor

    @cython.locals(connection=Connection)
    cdef Connection hand_over(self, object transport, object alpn)
    @cython.locals(connection=Connection)
    cdef object refuse_as_http(self, object error)
