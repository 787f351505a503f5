"""The HTTP/2 codec: FrameCodec, for both directions of a connection, because their windows are linked."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.stdint cimport uint64_t
from libc.string cimport memset

from thestral._core.csrc cimport (
    TH_FIELD_CONNECTION,
    TH_FIELD_CONTENT_LENGTH,
    TH_FIELD_DATE,
    TH_FIELD_SERVER,
    TH_FIELD_TRANSFER_ENCODING,
    TH_FIELD_UPGRADE,
    TH_HTTP2_INCREMENTAL,
    TH_HTTP2_ID_MAX,
    TH_HTTP2_NEED_DATA,
    TH_OK,
    th_buffer_append,
    th_buffer_free,
    th_field,
    th_field_lookup,
    th_field_name_lower,
    th_head,
    th_head_field,
    th_hpack_encode,
    th_hpack_encode_status,
    th_http2_begin_headers,
    th_http2_catch_up,
    th_http2_check_field,
    th_http2_completed,
    th_http2_consumed,
    th_http2_end_headers,
    th_http2_feed,
    th_http2_find,
    th_http2_free,
    th_http2_init,
    th_http2_is_reading_head,
    th_http2_left,
    th_http2_limits,
    th_http2_next,
    th_http2_ping,
    th_http2_reset,
    th_http2_rest,
    th_http2_scratch,
    th_http2_scratch_init,
    th_http2_sendable,
    th_http2_stream,
    th_http2_write_data_head,
    th_http2_write_goaway,
    th_read_content_length,
    th_status_code,
    th_status_text,
)
from thestral._core.errors cimport raise_failed, raise_field
from thestral._core.head cimport METHOD_HEAD, head_of, line_of, make_line
from thestral._core.http1 cimport pair_of

from thestral.errors import LocalProtocolError, RemoteProtocolError

# Fields of a connection, which HTTP/2 does not have (RFC 9113 section 8.2.2). The others have ids.
cdef frozenset HOP_BY_HOP = frozenset((b"keep-alive", b"proxy-connection"))
# Shared by all connections of the thread, because a head is read in one go.
cdef th_http2_scratch SCRATCH
th_http2_scratch_init(&SCRATCH)


cdef int check(int status) except -1:
    """Raise MemoryError for the only way in which writing fails."""
    if status < 0:
        raise MemoryError
    return 0


@cython.final
cdef class ResponseFields:
    cdef object _add(self, object pair, bint drop_content_length):
        cdef tuple field = pair_of(pair)
        cdef bytes name = <bytes>PyTuple_GET_ITEM(field, 0)
        cdef bytes value = <bytes>PyTuple_GET_ITEM(field, 1)
        cdef bytes lower
        cdef int known
        cdef int status
        known = th_field_lookup(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        status = th_http2_check_field(
            PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        )
        if status < 0:
            raise_field(status, name)
        if status > 0:  # RFC 9113 section 8.2.1: names are lower-case, values have no blanks at their ends
            lower = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(name))
            th_field_name_lower(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), PyBytes_AS_STRING(lower))
            name = lower
            value = value.strip(b" \t")
            field = (name, value)
        if known < 0:
            if name not in HOP_BY_HOP:
                self._pairs.append(field)
            return None
        if known in (TH_FIELD_TRANSFER_ENCODING, TH_FIELD_CONNECTION, TH_FIELD_UPGRADE):
            return None
        if known == TH_FIELD_CONTENT_LENGTH:
            first = self.content_length < 0
            self._note_length(value)
            if drop_content_length or not first:
                return None
        elif known == TH_FIELD_DATE:
            self.has_date = True
        elif known == TH_FIELD_SERVER:
            self.has_server = True
        self._pairs.append(field)

    cdef object _note_length(self, bytes value):
        cdef uint64_t length = 0
        if th_read_content_length(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), &length) < 0 or length >> 63:
            raise LocalProtocolError(f"response header content-length: {value[:100]!r} is not a length in bytes")
        if self.content_length >= 0 and <uint64_t>self.content_length != length:
            raise LocalProtocolError(
                f"response header content-length: {self.content_length} and {length} contradict each other"
            )
        self.content_length = <int64_t>length

    cpdef object announce(self, int64_t length):
        self.content_length = length
        self._pairs.append((b"content-length", b"%d" % length))

    cpdef list pairs(self):
        return self._pairs


cpdef ResponseFields check_fields(object headers, bint drop_content_length):
    cdef ResponseFields fields = ResponseFields.__new__(ResponseFields)
    fields._pairs = []
    fields.content_length = -1
    for pair in headers:
        fields._add(pair, drop_content_length)
    return fields


@cython.final
cdef class FrameCodec:
    """Reads and writes the frames of one connection: feed(), then next_event() until NEED_DATA."""

    def __cinit__(
        self,
        uint32_t streams,
        uint32_t connection_window,
        uint32_t stream_window_max,
        uint32_t head,
        uint32_t fields,
        uint64_t body,
        bint websocket,
        double now,
    ):
        cdef th_http2_limits limits
        limits.streams = streams
        limits.connection_window = connection_window
        limits.stream_window_max = stream_window_max
        limits.head = head
        limits.fields = fields
        limits.body = body
        limits.websocket = websocket
        check(th_http2_init(&self._http2, &limits, &SCRATCH, now))

    def __dealloc__(self):
        th_http2_free(&self._http2)

    # --- Reading

    cpdef object feed(self, bytes data, double now):
        cdef Py_ssize_t left = th_http2_left(&self._http2)
        if left > 0:
            data = PyBytes_FromStringAndSize(self._http2.next, left) + data
        self._fed = data
        self._http2.now = now
        th_http2_feed(&self._http2, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cpdef object borrow(self, ReadBuffer buffer, double now):
        if th_http2_left(&self._http2) > 0:
            self.feed(buffer.take(), now)
        else:
            self._fed = None
            self._http2.now = now
            th_http2_feed(&self._http2, buffer.data, buffer.size)

    cpdef object keep(self):
        cdef Py_ssize_t left = th_http2_left(&self._http2)
        if self._fed is None and left > 0:
            self._fed = PyBytes_FromStringAndSize(self._http2.next, left)
            th_http2_feed(&self._http2, PyBytes_AS_STRING(self._fed), left)

    cpdef int next_event(self) except -1:
        cdef int event = th_http2_next(&self._http2)
        if event < 0:
            raise_failed(event)
        if event == TH_HTTP2_NEED_DATA:
            self._let_go()
        return event

    cdef object _let_go(self):
        th_http2_feed(&self._http2, b"", 0)
        self._fed = None

    cpdef RequestHead read_head(self):
        return head_of(&SCRATCH.head, self._headers())

    cdef list _headers(self):
        """Return the fields in order, with :authority first, as Host."""
        cdef const th_head *head = &SCRATCH.head
        cdef const th_http2_hint *hints = <const th_http2_hint *><void *>SCRATCH.hints.data
        cdef Py_ssize_t at = 1 if head.authority.length > 0 else 0
        cdef list headers = PyList_New(at + head.field_count)
        cdef tuple line
        cdef uint32_t i
        if at > 0:
            line = self._authority()
            Py_INCREF(line)
            PyList_SET_ITEM(headers, 0, line)
        for i in range(head.field_count):
            line = self._line(&hints[i], i)
            Py_INCREF(line)
            PyList_SET_ITEM(headers, at + i, line)
        return headers

    cdef tuple _authority(self):
        cdef const th_head *head = &SCRATCH.head
        cdef uint32_t serial = SCRATCH.authority.serial
        cdef tuple line
        if serial and self._lines is not None and self._serials[serial % LINES_KEPT] == serial:
            return <tuple>PyList_GET_ITEM(self._lines, serial % LINES_KEPT)
        line = make_line(b"host", head.data + head.authority.offset, head.authority.length)
        self._keep_line(serial, line)
        return line

    cdef tuple _line(self, const th_http2_hint *hint, uint32_t index):
        """Return a field as (name, value), reusing an earlier request's pair if the table's entry is the same."""
        cdef uint32_t serial = hint.serial
        cdef tuple line
        if serial and self._lines is not None and self._serials[serial % LINES_KEPT] == serial:
            return <tuple>PyList_GET_ITEM(self._lines, serial % LINES_KEPT)
        line = line_of(&SCRATCH.head, th_head_field(&SCRATCH.head, index))
        self._keep_line(serial, line)
        return line

    cdef object _keep_line(self, uint32_t serial, tuple line):
        if serial == 0:
            return None
        if self._lines is None:
            self._lines = [None] * LINES_KEPT
        self._serials[serial % LINES_KEPT] = serial
        self._lines[serial % LINES_KEPT] = line

    cpdef bytes read_body(self):
        return PyBytes_FromStringAndSize(self._http2.body, self._http2.body_length)

    cpdef uint32_t stream(self) noexcept:
        return self._http2.stream

    cpdef bint ended(self) noexcept:
        return self._http2.ended

    cpdef bint is_head(self) noexcept:
        return SCRATCH.head.method == METHOD_HEAD

    cpdef object error(self):
        if self._http2.status == TH_OK:
            return None
        return RemoteProtocolError(th_status_code(self._http2.status), th_status_text(self._http2.status).decode())

    cpdef uint32_t reset_code(self) noexcept:
        return self._http2.code

    cpdef Py_ssize_t left(self) noexcept:
        return th_http2_left(&self._http2)

    cpdef bint is_reading_head(self) noexcept:
        return th_http2_is_reading_head(&self._http2)

    cpdef bint settings_acked(self) noexcept:
        return self._http2.settings_acked

    cpdef uint32_t last_id(self) noexcept:
        return self._http2.last_id

    # --- Windows and priorities

    cpdef Py_ssize_t sendable(self, uint32_t id, Py_ssize_t size) noexcept:
        return th_http2_sendable(&self._http2, id, size)

    cpdef bint may_receive(self, uint32_t id) noexcept:
        cdef const th_http2_stream *stream = th_http2_find(&self._http2, id)
        return stream != NULL and stream.window > 0 and self._http2.window > 0

    cpdef int urgency(self, uint32_t id) noexcept:
        cdef const th_http2_stream *stream = th_http2_find(&self._http2, id)
        return stream.urgency if stream != NULL else 7

    cpdef bint is_incremental(self, uint32_t id) noexcept:
        cdef const th_http2_stream *stream = th_http2_find(&self._http2, id)
        return stream != NULL and stream.flags & TH_HTTP2_INCREMENTAL

    cpdef object consumed(self, uint32_t id, Py_ssize_t size, bint waits):
        check(th_http2_consumed(&self._http2, id, size, waits))

    cpdef object set_stalled(self, bint stalled):
        self._http2.stalled = stalled
        if not stalled:
            check(th_http2_catch_up(&self._http2))

    cpdef object rest(self):
        th_http2_rest(&self._http2)
        if self._lines is not None:
            self._lines = None
            memset(self._serials, 0, sizeof(self._serials))

    cpdef object completed(self):
        th_http2_completed(&self._http2)

    # --- Writing

    cpdef bint has_output(self) noexcept:
        return self._http2.out.length > 0

    cpdef object write_output(self, ResponseWriter writer):
        check(th_buffer_append(&writer.buffer, self._http2.out.data, self._http2.out.length))
        th_buffer_free(&self._http2.out)

    cpdef object write_head(self, ResponseWriter writer, uint32_t id, int status, ResponseFields fields, list more, bint end):
        cdef size_t mark
        check(th_http2_begin_headers(&self._http2, &writer.buffer, &mark))
        check(th_hpack_encode_status(&self._http2.encoder, &writer.buffer, status))
        self._encode(&writer.buffer, fields._pairs)
        self._encode(&writer.buffer, more)
        check(th_http2_end_headers(&self._http2, &writer.buffer, mark, id, end))

    cpdef object write_trailers(self, ResponseWriter writer, uint32_t id, ResponseFields fields):
        cdef size_t mark
        check(th_http2_begin_headers(&self._http2, &writer.buffer, &mark))
        self._encode(&writer.buffer, fields._pairs)
        check(th_http2_end_headers(&self._http2, &writer.buffer, mark, id, True))

    cdef object _encode(self, th_buffer *out, list pairs):
        cdef bytes name
        cdef bytes value
        for pair in pairs:
            name = <bytes>PyTuple_GET_ITEM(pair, 0)
            value = <bytes>PyTuple_GET_ITEM(pair, 1)
            check(
                th_hpack_encode(
                    &self._http2.encoder,
                    out,
                    PyBytes_AS_STRING(name),
                    PyBytes_GET_SIZE(name),
                    PyBytes_AS_STRING(value),
                    PyBytes_GET_SIZE(value),
                )
            )

    cpdef object write_data(self, ResponseWriter writer, uint32_t id, bytes data, Py_ssize_t start, Py_ssize_t size, bint end):
        self.write_data_head(writer, id, size, end)
        self.write_part(writer, data, start, size)

    cpdef object write_data_head(self, ResponseWriter writer, uint32_t id, Py_ssize_t size, bint end):
        check(th_http2_write_data_head(&self._http2, &writer.buffer, id, size, end))

    cpdef object write_part(self, ResponseWriter writer, bytes data, Py_ssize_t start, Py_ssize_t size):
        check(th_buffer_append(&writer.buffer, PyBytes_AS_STRING(data) + start, size))

    cpdef object write_reset(self, ResponseWriter writer, uint32_t id, uint32_t code):
        check(th_http2_reset(&self._http2, &writer.buffer, id, code))

    cpdef object write_goaway(self, ResponseWriter writer, bint last, uint32_t code, str text):
        cdef uint32_t id = self._http2.last_id if last else <uint32_t>TH_HTTP2_ID_MAX
        cdef bytes debug = text.encode()
        check(th_http2_write_goaway(&self._http2, &writer.buffer, id, code, PyBytes_AS_STRING(debug)))

    cpdef object write_ping(self, ResponseWriter writer):
        check(th_http2_ping(&self._http2, &writer.buffer))
