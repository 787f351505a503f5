"""Lines of a log as bytes: a buffer of them, client data escaped on its way in."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.time cimport monotonic as c_monotonic, time as c_time
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memmove

from thestral._core.csrc cimport (
    th_append_escaped,
    th_append_json,
    th_buffer,
    th_buffer_append,
    th_buffer_append_decimal,
    th_buffer_free,
    th_buffer_init,
)

# A buffer that one large line has blown up is given back.
cdef enum:
    CAPACITY_KEPT = 256 * 1024


cpdef double monotonic() noexcept:
    return c_monotonic()


cpdef double wall_clock() noexcept:
    return c_time()


cpdef str escaped(bytes data):
    cdef th_buffer buffer
    th_buffer_init(&buffer)
    try:
        if th_append_escaped(&buffer, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            raise MemoryError
        return PyUnicode_DecodeUTF8(buffer.data, buffer.length, NULL)
    finally:
        th_buffer_free(&buffer)


cpdef bytes find_field(object headers, bytes name):
    for field, value in headers:
        if field == name:
            return value
    return None


@cython.final
cdef class LineBuffer:
    """Lines that wait to be written."""

    def __cinit__(self, bint json):
        th_buffer_init(&self._buffer)
        self.json = json

    def __dealloc__(self):
        th_buffer_free(&self._buffer)

    cpdef object append(self, bytes data):
        if th_buffer_append(&self._buffer, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            raise MemoryError

    cpdef object append_value(self, bytes data):
        self._append_escaped(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cpdef object append_text(self, str text):
        cdef Py_ssize_t size
        cdef const char *src = PyUnicode_AsUTF8AndSize(text, &size)
        self._append_escaped(src, size)

    cdef object _append_escaped(self, const char *src, Py_ssize_t n):
        cdef int status
        if self.json:
            status = th_append_json(&self._buffer, src, n)
        else:
            status = th_append_escaped(&self._buffer, src, n)
        if status < 0:
            raise MemoryError

    cpdef object append_decimal(self, int64_t value):
        if th_buffer_append_decimal(&self._buffer, <uint64_t>value) < 0:
            raise MemoryError

    cpdef object append_fraction(self, int64_t value, int64_t scale):
        cdef size_t point = self._buffer.length
        self.append_decimal(scale + value)  # its leading 1 keeps the zeros, and makes room for the point
        self._buffer.data[point] = c"."

    cpdef Py_ssize_t size(self):
        return self._buffer.length

    cpdef object truncate(self, Py_ssize_t size):
        self._buffer.length = size

    cpdef str take(self, Py_ssize_t size):
        cdef str text = PyUnicode_DecodeUTF8(self._buffer.data, size, NULL)
        self._buffer.length -= size
        if self._buffer.length > 0:
            memmove(self._buffer.data, self._buffer.data + size, self._buffer.length)
        elif self._buffer.capacity > CAPACITY_KEPT:
            th_buffer_free(&self._buffer)
        return text
