cimport cython

from thestral._core.log cimport monotonic
from thestral._core.socket cimport Poll, ReadBuffer, Ready

cdef Py_ssize_t READ_SIZE
cdef int CORK_FROM
cdef double CORK_WORK
cdef double CORK_TIME
cdef double LAST


cdef class Poller


cdef class Watched:
    cdef Poller _poller
    cdef int fd
    cdef int _pending
    cdef bint _deferred
    cdef bint _corked

    cdef object ready(self, int bits)
    cdef object on_deferred(self)
    cdef object uncork(self)
    cdef object on_poller_close(self)


cdef Watched entry_at(list entries, Py_ssize_t index)


cdef class Poller:
    cdef readonly object loop
    cdef object _context
    cdef Poll _poll
    cdef Ready _ready
    cdef ReadBuffer _buffer
    cdef list _watched
    cdef list _later
    cdef bint _scheduled
    cdef list _corked
    cdef bint corking
    cdef public double work
    cdef Py_ssize_t writes
    cdef Py_ssize_t _crowd
    cdef double _began
    cdef double _since
    cdef readonly Py_ssize_t open
    cdef readonly Py_ssize_t turns

    cdef object _begin_crowd(self, Py_ssize_t count)
    cdef object _leave_crowd(self)
    cpdef object end_crowd(self)
    cdef object _release_late(self)
    cdef object uncork(self)
    cdef object cork(self, Watched entry)
    cdef object watch(self, Watched entry, int bits)
    cdef object change(self, Watched entry, int bits)
    cdef object unwatch(self, Watched entry)
    cdef object defer(self, Watched entry)
    cdef ReadBuffer borrow(self)
    cdef object give_back(self, ReadBuffer buffer)
    @cython.locals(entry=Watched)
    cpdef object close(self)
