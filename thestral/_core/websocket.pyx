"""The WebSocket codec: FrameParser for input, FrameWriter for output."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DATA, PyUnicode_DecodeUTF8, PyUnicode_New
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from thestral._core.csrc cimport (
    TH_WS_BINARY,
    TH_WS_CLOSE,
    TH_WS_CLOSE_EVENT,
    TH_WS_FIN,
    TH_WS_NEED_DATA,
    TH_WS_NO_CODE,
    TH_WS_PING,
    TH_WS_PONG,
    TH_WS_RSV1,
    TH_WS_TEXT,
    th_buffer,
    th_buffer_free,
    th_buffer_init,
    th_deflate,
    th_deflate_free,
    th_ws_feed,
    th_ws_free,
    th_ws_head_size,
    th_ws_init,
    th_ws_is_close_code,
    th_ws_left,
    th_ws_next,
    th_ws_write_head,
)
from thestral._core.errors cimport raise_failed

from thestral.errors import LocalProtocolError

# zlib runs without the GIL from this size on; for less, releasing the GIL costs more than it gains.
cdef enum:
    GIL_FREE_MIN = 4 * 1024  # bytes


cpdef bint is_close_code(int code) except -1:
    return th_ws_is_close_code(code)


@cython.final
cdef class FrameParser:
    """Parses the messages of one connection: feed(), then next_event() until NEED_DATA."""

    def __cinit__(self, uint64_t max_size):
        th_ws_init(&self._ws, max_size)

    def __dealloc__(self):
        th_ws_free(&self._ws)

    cpdef object use_deflate(self, int window_bits, bint takeover):
        self._ws.deflates = True
        self._ws.inflater.bits = window_bits
        self._ws.inflater.takeover = takeover

    cpdef object feed(self, bytes data):
        cdef Py_ssize_t left = th_ws_left(&self._ws)
        if left > 0:
            data = PyBytes_FromStringAndSize(self._ws.next, left) + data
        self._fed = data
        th_ws_feed(&self._ws, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cpdef int next_event(self) except -1:
        cdef int event
        if self._ws.deflates and th_ws_left(&self._ws) >= GIL_FREE_MIN:
            with nogil:
                event = th_ws_next(&self._ws)
        else:
            event = th_ws_next(&self._ws)
        if event < 0:
            raise_failed(event)
        if event == TH_WS_NEED_DATA:
            th_ws_feed(&self._ws, b"", 0)
            self._fed = None
        elif event == TH_WS_CLOSE_EVENT:
            self.close_code = self._ws.close_code
        return event

    cpdef object read_message(self):
        cdef th_buffer *message = &self._ws.message
        cdef object data
        if self._ws.opcode == TH_WS_TEXT:
            if self._ws.utf8.wide:
                data = PyUnicode_DecodeUTF8(message.data, message.length, NULL)
            else:  # known to be ASCII, so need not be decoded
                data = PyUnicode_New(message.length, 127)
                if message.length > 0:
                    memcpy(PyUnicode_DATA(data), message.data, message.length)
        else:
            data = PyBytes_FromStringAndSize(message.data, message.length)
        th_buffer_free(message)
        return data

    cpdef bytes read_control(self):
        return PyBytes_FromStringAndSize(self._ws.control, self._ws.control_length)

    cpdef Py_ssize_t left(self) except -1:
        return th_ws_left(&self._ws)


@cython.final
cdef class FrameWriter:
    """Turns each message into one frame, unmasked, as a server sends it."""

    def __dealloc__(self):
        th_deflate_free(&self._deflater)

    cpdef object use_deflate(self, int window_bits, bint takeover, int level, int memory_level, Py_ssize_t min_size):
        self._deflates = True
        self._min_size = max(min_size, 1)  # th_deflate() takes no empty message
        self._deflater.bits = window_bits
        self._deflater.takeover = takeover
        self._deflater.level = level
        self._deflater.memory = memory_level

    cpdef bytes message(self, object data):
        cdef const char *src
        cdef Py_ssize_t n = 0
        cdef int first
        if isinstance(data, str):
            first = TH_WS_FIN | TH_WS_TEXT
            try:
                src = PyUnicode_AsUTF8AndSize(data, &n)
            except UnicodeEncodeError as error:
                raise LocalProtocolError(f"text cannot be sent as UTF-8: {error.reason}") from None
        else:
            first = TH_WS_FIN | TH_WS_BINARY
            if not isinstance(data, bytes):
                raise TypeError(f"expected str or bytes, got {type(data).__name__}")
            src = PyBytes_AS_STRING(data)
            n = PyBytes_GET_SIZE(data)
        if self._deflates and n >= self._min_size:
            return self._deflated(first | TH_WS_RSV1, src, n)
        return frame(first, src, n)

    cdef bytes _deflated(self, int first, const char *src, Py_ssize_t n):
        cdef th_buffer out
        cdef int status
        th_buffer_init(&out)
        try:
            if n >= GIL_FREE_MIN:
                with nogil:
                    status = th_deflate(&self._deflater, src, n, &out)
            else:
                status = th_deflate(&self._deflater, src, n, &out)
            if status < 0:
                raise MemoryError
            return frame(first, out.data, out.length)
        finally:
            th_buffer_free(&out)

    cpdef bytes ping(self):
        return frame(TH_WS_FIN | TH_WS_PING, NULL, 0)

    cpdef bytes pong(self, bytes payload):
        return frame(TH_WS_FIN | TH_WS_PONG, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))

    cpdef bytes close(self, int code, bytes reason):
        cdef bytes payload = b"" if code == TH_WS_NO_CODE else bytes((code >> 8, code & 0xFF)) + reason
        return frame(TH_WS_FIN | TH_WS_CLOSE, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))

    cpdef object forget(self):
        th_deflate_free(&self._deflater)


cdef bytes frame(int first, const char *src, Py_ssize_t n):
    """Return a whole frame."""
    cdef Py_ssize_t head = th_ws_head_size(n)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, head + n)
    th_ws_write_head(PyBytes_AS_STRING(data), first, n)
    if n > 0:
        memcpy(PyBytes_AS_STRING(data) + head, src, n)
    return data
