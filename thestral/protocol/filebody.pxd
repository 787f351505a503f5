from libc.stdint cimport int64_t

from thestral.protocol.connection cimport Stream
from thestral.protocol.messages cimport byte_count_of


cdef class FileBody:
    cdef int _number
    cdef int64_t _at
    cdef int64_t left
    cdef bint is_whole
    cdef bint is_last
    cdef object original

    cdef Py_ssize_t send_piece(self, Stream stream) except -1
    cdef object advance_original(self)
    cdef object close(self)


cpdef FileBody open_path(dict message)
cpdef FileBody open_duplicate(dict message)
