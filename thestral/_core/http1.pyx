"""The HTTP/1.1 codec: RequestParser for input, ResponseWriter for output."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint32_t, uint64_t

from thestral._core.csrc cimport (
    TH_EHTTP2,
    TH_FIELD_CONNECTION,
    TH_FIELD_CONTENT_LENGTH,
    TH_FIELD_DATE,
    TH_FIELD_SERVER,
    TH_FIELD_TRANSFER_ENCODING,
    TH_NEED_DATA,
    th_buffer_append,
    th_buffer_append_decimal,
    th_buffer_free,
    th_buffer_init,
    th_equals_lower,
    th_field_lookup,
    th_http1_feed,
    th_http1_free,
    th_http1_init,
    th_http1_is_head,
    th_http1_is_idle,
    th_http1_left,
    th_http1_limits,
    th_http1_next,
    th_list_next,
    th_read_content_length,
    th_reason_phrase,
    th_send,
    th_slice,
    th_write_chunk,
    th_write_chunk_head,
    th_write_field,
    th_write_status_line,
)
from thestral._core.errors cimport raise_field, raise_refused
from thestral._core.head cimport RequestHead, head_of, headers_of
from thestral._core.socket cimport outcome_of

from thestral.errors import LocalProtocolError

# Types accepted as bytes, as in a body.
cdef tuple BYTES = (bytes, bytearray, memoryview)
# A buffer that a large response has grown beyond this is freed.
cdef enum:
    SCRATCH_KEPT = 256 * 1024


cdef tuple converted_pair(object pair):
    """Do for pair_of() what a pair that is no tuple of bytes needs."""
    try:
        name, value = pair
    except (TypeError, ValueError):
        raise LocalProtocolError(f"response header {pair!r:.100}: expected a pair (name, value)") from None
    if not isinstance(name, BYTES) or not isinstance(value, BYTES):
        raise LocalProtocolError(f"response header {pair!r:.100}: expected bytes for name and value")
    return bytes(name), bytes(value)


cpdef str reason_phrase(int status):
    return th_reason_phrase(status).decode()


cpdef int64_t length_of(bytes value) noexcept:
    cdef uint64_t length = 0
    if th_read_content_length(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &length) < 0 or length >> 63:
        return -1
    return <int64_t>length


@cython.final
cdef class RequestParser:
    """Parses the requests of one connection: feed(), then next_event() until NEED_DATA."""

    def __cinit__(self, uint32_t request_line, uint32_t head, uint32_t fields, uint64_t body):
        cdef th_http1_limits limits
        limits.request_line = request_line
        limits.head = head
        limits.fields = fields
        limits.body = body
        th_http1_init(&self._http1, &limits)

    def __dealloc__(self):
        th_http1_free(&self._http1)

    cpdef object feed(self, bytes data):
        cdef Py_ssize_t left = th_http1_left(&self._http1)
        if left > 0:
            data = PyBytes_FromStringAndSize(self._http1.next, left) + data
        self._fed = data
        th_http1_feed(&self._http1, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cpdef object borrow(self, ReadBuffer buffer):
        if th_http1_left(&self._http1) > 0:
            self.feed(buffer.take())
        else:
            self._fed = None
            th_http1_feed(&self._http1, buffer.data, buffer.size)

    cpdef object keep(self):
        cdef Py_ssize_t left = th_http1_left(&self._http1)
        if self._fed is None and left > 0:
            self._fed = PyBytes_FromStringAndSize(self._http1.next, left)
            th_http1_feed(&self._http1, PyBytes_AS_STRING(self._fed), left)

    cpdef int next_event(self) except -1:
        cdef int event = th_http1_next(&self._http1)
        if event < 0:
            raise_refused(&self._http1, event)
        if event == TH_NEED_DATA:
            self._let_go()
        return event

    cdef object _let_go(self):
        th_http1_feed(&self._http1, b"", 0)  # not NULL: arithmetic with it is undefined
        self._fed = None

    cpdef RequestHead read_head(self):
        return head_of(&self._http1.head, headers_of(&self._http1.head))

    cpdef bytes read_body(self):
        # If all the bytes of a read are body, pass them on uncopied.
        if (
            self._fed is not None
            and self._http1.body == PyBytes_AS_STRING(self._fed)
            and <Py_ssize_t>self._http1.body_length == PyBytes_GET_SIZE(self._fed)
        ):
            return self._fed
        return PyBytes_FromStringAndSize(self._http1.body, self._http1.body_length)

    cpdef Py_ssize_t left(self) except -1:
        return th_http1_left(&self._http1)

    cpdef bytes take_left(self):
        cdef bytes data = PyBytes_FromStringAndSize(self._http1.next, th_http1_left(&self._http1))
        self._let_go()
        th_http1_free(&self._http1)
        return data

    cpdef bint is_idle(self) except -1:
        return th_http1_is_idle(&self._http1)

    cpdef bint is_head(self) except -1:
        return th_http1_is_head(&self._http1)

    cpdef bint is_http2(self) except -1:
        return self._http1.failed == TH_EHTTP2

    cpdef bytes take_head(self):
        # The pieces end with what has been read of the last input.
        cdef bytes data = PyBytes_FromStringAndSize(self._http1.pieces.data, self._http1.pieces.length)
        return data + self.take_left()


@cython.final
cdef class ResponseWriter:
    """Serialises a connection's output of a turn into one growing buffer."""

    def __cinit__(self):
        th_buffer_init(&self.buffer)

    def __dealloc__(self):
        th_buffer_free(&self.buffer)

    cpdef Py_ssize_t begin(self, int status) except -1:
        cdef Py_ssize_t mark = self.buffer.length
        self.content_length = -1
        self.close = False
        self.has_date = False
        self.has_server = False
        self.write_status(status)
        return mark

    cpdef object write_status(self, int status):
        if th_write_status_line(&self.buffer, status) < 0:
            raise MemoryError

    cpdef object write_headers(self, object headers, bint drop_content_length):
        if type(headers) is list:
            for pair in <list>headers:
                self._write_header(pair, drop_content_length)
        else:
            for pair in headers:
                self._write_header(pair, drop_content_length)

    cdef object _write_header(self, object pair, bint drop_content_length):
        cdef tuple field = pair_of(pair)
        cdef bytes name = <bytes>PyTuple_GET_ITEM(field, 0)
        cdef bytes value = <bytes>PyTuple_GET_ITEM(field, 1)
        cdef int known
        cdef int status
        known = th_field_lookup(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if known == TH_FIELD_TRANSFER_ENCODING:
            return None  # the server decides the framing: RFC 9112 section 6.1
        if known == TH_FIELD_CONTENT_LENGTH:
            if self.content_length >= 0 or drop_content_length:
                self._note(known, value)
                return None
        status = th_write_field(
            &self.buffer,
            PyBytes_AS_STRING(name),
            PyBytes_GET_SIZE(name),
            PyBytes_AS_STRING(value),
            PyBytes_GET_SIZE(value),
        )
        if status < 0:
            raise_field(status, name)
        if known >= 0:
            self._note(known, value)

    cdef object _note(self, int known, bytes value):
        """Note what a field means for the framing and the connection."""
        cdef int64_t length
        cdef const char *src = PyBytes_AS_STRING(value)
        cdef size_t n = PyBytes_GET_SIZE(value)
        cdef size_t pos = 0
        cdef th_slice token
        if known == TH_FIELD_CONTENT_LENGTH:
            length = length_of(value)
            if length < 0:
                raise LocalProtocolError(f"response header content-length: {value[:100]!r} is not a length in bytes")
            if self.content_length >= 0 and self.content_length != length:
                raise LocalProtocolError(
                    f"response header content-length: {self.content_length} and {length} contradict each other"
                )
            self.content_length = length
        elif known == TH_FIELD_CONNECTION:
            while th_list_next(src, n, &pos, &token):
                if token.length == 5 and th_equals_lower(src + token.offset, b"close", 5):
                    self.close = True
        elif known == TH_FIELD_DATE:
            self.has_date = True
        elif known == TH_FIELD_SERVER:
            self.has_server = True

    cpdef object write_content_length(self, int64_t length):
        self.write(b"content-length: ")
        if th_buffer_append_decimal(&self.buffer, <uint64_t>length) < 0:
            raise MemoryError
        self.write(b"\r\n")

    cpdef object write(self, bytes data):
        if th_buffer_append(&self.buffer, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            raise MemoryError

    cpdef object write_chunk_head(self, Py_ssize_t size):
        if th_write_chunk_head(&self.buffer, <uint64_t>size) < 0:
            raise MemoryError

    cpdef object write_chunk(self, bytes data):
        if th_write_chunk(&self.buffer, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            raise MemoryError

    cpdef Py_ssize_t size(self) except -1:
        return self.buffer.length

    cpdef object truncate(self, Py_ssize_t mark):
        if mark < <Py_ssize_t>self.buffer.length:
            self.buffer.length = mark
        if mark == 0 and self.buffer.capacity > SCRATCH_KEPT:
            th_buffer_free(&self.buffer)

    cpdef int send(self, int fd) noexcept:
        return outcome_of(th_send(fd, self.buffer.data, self.buffer.length))

    cpdef bytes peek(self, Py_ssize_t mark):
        return PyBytes_FromStringAndSize(self.buffer.data + mark, self.buffer.length - mark)

    cpdef bytes take(self, Py_ssize_t mark):
        cdef bytes data = PyBytes_FromStringAndSize(self.buffer.data + mark, self.buffer.length - mark)
        self.truncate(mark)
        return data
