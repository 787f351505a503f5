cimport cython

from thestral.protocol.connection cimport Connection
from thestral.protocol.context cimport WorkerContext

cdef int CLOSING
cdef int FIRST_HEAD
cdef int LINGERING
cdef double LINGER_TIMEOUT


cdef class HTTPConnection(Connection):
    cdef int _phase
    cdef public double since
    cdef bint _eof

    @cython.locals(wait=double)
    cdef object enter(self, int phase)
    cdef object count_late(self)
    cdef bint has_ended(self) noexcept
    cdef object linger(self)
    cdef object stop_lingering(self)
    cdef bint still_sends(self) except -1
