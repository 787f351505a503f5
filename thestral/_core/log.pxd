from libc.stdint cimport int64_t

from thestral._core.csrc cimport th_buffer


cpdef double monotonic() noexcept
cpdef double wall_clock() noexcept
cpdef str escaped(bytes data)
cpdef bytes find_field(object headers, bytes name)


cdef class Uuids:
    cdef object _source
    cdef bytes _noise
    cdef Py_ssize_t _at

    cpdef str new(self, double now)


cdef class LineBuffer:
    cdef th_buffer _buffer
    cdef Py_ssize_t _begun
    cdef readonly bint json

    cpdef object append(self, bytes data)
    cpdef object append_value(self, bytes data)
    cpdef object append_text(self, str text)
    cpdef object append_decimal(self, int64_t value)
    cpdef object append_fraction(self, int64_t value, int64_t scale)
    cdef object _append_escaped(self, const char *src, Py_ssize_t n)
    cpdef Py_ssize_t size(self) except -1
    cpdef object end_line(self)
    cpdef object drop_line(self)
    cpdef str take_line(self)
    cpdef str take(self, Py_ssize_t limit, bint whole)
    cdef str _cut(self, Py_ssize_t start, Py_ssize_t end)
