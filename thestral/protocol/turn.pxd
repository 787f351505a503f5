cimport cython

from thestral._core.http1 cimport ResponseWriter
from thestral.net.transport cimport Protocol

cdef Py_ssize_t SPARE_WRITERS


cdef class Turn:
    cdef public Py_ssize_t steps
    cdef public list waiting
    cdef object _loop
    cdef object _context
    cdef bint _scheduled
    cdef list _writers
    cdef Py_ssize_t _spare

    cdef object join(self, Protocol connection)
    @cython.locals(connection=Protocol)
    cpdef object end(self)
    @cython.locals(writer=ResponseWriter)
    cdef ResponseWriter lend_writer(self)
    cdef object take_back(self, ResponseWriter writer)
