from thestral.net.poller cimport Poller, Watched
from thestral.net.transport cimport SocketTransport

cdef int LISTENING
cdef int ACCEPTS_PER_TURN


cdef class Listener(Watched):
    cdef object _sock
    cdef object _factory
    cdef object _own
    cdef bint _tcp
    cdef object _timer
    cdef bint _warned

    cdef bint _accept(self) except -1
    cdef object _open(self, int fd, object peer)
    cdef object _pause(self, object exc)
