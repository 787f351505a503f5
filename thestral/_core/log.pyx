"""Builds log lines as bytes in a buffer; client data is escaped when it is appended."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.time cimport monotonic as c_monotonic, time as c_time
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memmove

from thestral._core.csrc cimport (
    th_append_escaped,
    th_append_json,
    th_buffer,
    th_buffer_append,
    th_buffer_append_decimal,
    th_buffer_free,
    th_buffer_init,
)

# A buffer that a large line has grown beyond CAPACITY_KEPT is freed.
cdef enum:
    CAPACITY_KEPT = 256 * 1024
    UUID_LENGTH = 36
    UUID_NOISE = 10
    UUIDS_AT_ONCE = 256  # whose random bytes are fetched together: a system call for each would be dear

cdef const char *DIGITS = b"0123456789abcdef"


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


cdef str uuid7_of(uint64_t milliseconds, const char *noise):
    cdef unsigned char number[16]
    cdef char text[UUID_LENGTH]
    cdef int at = 0
    cdef int i
    for i in range(6):
        number[i] = milliseconds >> 40 - 8 * i & 0xFF
    memcpy(number + 6, noise, UUID_NOISE)
    number[6] = number[6] & 0x0F | 0x70  # the version
    number[8] = number[8] & 0x3F | 0x80  # the variant
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            text[at] = c"-"
            at += 1
        text[at] = DIGITS[number[i] >> 4]
        text[at + 1] = DIGITS[number[i] & 0x0F]
        at += 2
    return PyUnicode_DecodeASCII(text, UUID_LENGTH, NULL)


@cython.final
cdef class Uuids:
    def __cinit__(self, object source):
        self._source = source
        self._noise = b""

    cpdef str new(self, double now):
        cdef bytes fetched
        if self._at >= PyBytes_GET_SIZE(self._noise):
            fetched = self._source(UUID_NOISE * UUIDS_AT_ONCE)
            if PyBytes_GET_SIZE(fetched) != UUID_NOISE * UUIDS_AT_ONCE:
                raise ValueError(f"{len(fetched)} random bytes, expected {UUID_NOISE * UUIDS_AT_ONCE}")
            self._noise = fetched
            self._at = 0
        self._at += UUID_NOISE
        return uuid7_of(<uint64_t>(now * 1000.0), PyBytes_AS_STRING(self._noise) + self._at - UUID_NOISE)


@cython.final
cdef class LineBuffer:
    """Complete lines that wait to be written, and the line being built."""

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
        self.append_decimal(scale + value)  # the leading 1 keeps the zeros, and is replaced by the point
        self._buffer.data[point] = c"."

    cpdef Py_ssize_t size(self) except -1:
        return self._begun

    cpdef object end_line(self):
        self.append(b"\n")
        self._begun = self._buffer.length

    cpdef object drop_line(self):
        self._buffer.length = self._begun

    cpdef str take_line(self):
        return self._cut(self._begun, self._buffer.length)

    cpdef str take(self, Py_ssize_t limit, bint whole):
        cdef Py_ssize_t end = self._begun
        if end > limit:
            end = self._last_end(limit)
            if end == 0:
                end = self._first_end(limit) if whole else self._character_end(limit)
        self._begun -= end
        return self._cut(0, end)

    def _last_end(self, Py_ssize_t limit):
        """Return the end of the last line that ends within the first `limit` bytes; 0 if none does."""
        return PyBytes_FromStringAndSize(self._buffer.data, limit).rfind(b"\n") + 1

    def _first_end(self, Py_ssize_t start):
        """Return the end of the line that contains byte `start`."""
        return PyBytes_FromStringAndSize(self._buffer.data, self._begun).index(b"\n", start) + 1

    def _character_end(self, Py_ssize_t limit):
        """Return the end of the last character that ends within the first `limit` bytes."""
        while limit > 0 and self._buffer.data[limit] & 0xC0 == 0x80:
            limit -= 1
        return limit

    cdef str _cut(self, Py_ssize_t start, Py_ssize_t end):
        cdef str text = PyUnicode_DecodeUTF8(self._buffer.data + start, end - start, NULL)
        cdef Py_ssize_t rest = self._buffer.length - end
        self._buffer.length = start + rest
        if rest > 0:
            memmove(self._buffer.data + start, self._buffer.data + end, rest)
        elif start == 0 and self._buffer.capacity > CAPACITY_KEPT:
            th_buffer_free(&self._buffer)
        return text
