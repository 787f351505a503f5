"""All extern declarations of csrc. The headers document them."""

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "base.h" nogil:
    enum th_status:
        TH_OK
        TH_ENOMEM
        TH_ESYNTAX
        TH_EHTTP2
        TH_EBLOCKED
        TH_ESYSTEM

    int th_status_code(int status)
    const char *th_status_text(int status)

    ctypedef struct th_slice:
        uint32_t offset
        uint32_t length

    int64_t th_now()


cdef extern from "ascii.h" nogil:
    int th_field_name_lower(const char *src, size_t n, char *dst)
    int th_percent_decode(const char *src, size_t n, char *dst)
    int th_equals_lower(const char *a, const char *b, size_t n)
    int th_list_next(const char *src, size_t n, size_t *pos, th_slice *out)


cdef extern from "buffer.h" nogil:
    ctypedef struct th_buffer:
        char *data
        size_t length
        size_t capacity

    void th_buffer_init(th_buffer *buffer)
    void th_buffer_free(th_buffer *buffer)
    int th_buffer_reserve(th_buffer *buffer, size_t n)
    int th_buffer_append(th_buffer *buffer, const char *src, size_t n)
    int th_buffer_append_decimal(th_buffer *buffer, uint64_t value)


cdef extern from "escape.h" nogil:
    int th_append_escaped(th_buffer *buffer, const char *src, size_t n)
    int th_append_json(th_buffer *buffer, const char *src, size_t n)


cdef extern from "head.h" nogil:
    enum th_field_id:
        TH_FIELD_OTHER
        TH_FIELD_HOST
        TH_FIELD_CONTENT_LENGTH
        TH_FIELD_TRANSFER_ENCODING
        TH_FIELD_CONNECTION
        TH_FIELD_DATE
        TH_FIELD_SERVER
        TH_FIELD_UPGRADE

    enum th_target_form:
        TH_ORIGIN_FORM
        TH_ABSOLUTE_FORM
        TH_ASTERISK_FORM

    ctypedef struct th_field:
        th_slice name
        th_slice value
        int32_t id

    ctypedef struct th_head:
        const char *data
        uint32_t field_count
        uint8_t method
        uint8_t version
        uint8_t form
        uint8_t keep_alive
        uint8_t chunked
        uint8_t expect_continue
        uint8_t upgrade
        uint8_t websocket
        uint8_t trailers
        uint8_t forwarded
        uint8_t https_target
        uint8_t path_escaped
        uint64_t content_length
        th_slice path
        th_slice query
        th_slice authority

    int th_field_lookup(const char *name, size_t n)
    const char *th_field_name(int id)
    int th_field_count()
    th_field *th_head_field(const th_head *head, uint32_t index)


cdef extern from "http1.h" nogil:
    enum th_event:
        TH_NEED_DATA
        TH_HEAD
        TH_BODY
        TH_END

    ctypedef struct th_http1_limits:
        uint32_t request_line
        uint32_t head
        uint32_t fields
        uint64_t body

    ctypedef struct th_http1:
        th_head head
        const char *body
        size_t body_length
        const char *next
        int32_t failed
        th_buffer pieces
        const char *excerpt
        size_t excerpt_length

    void th_http1_init(th_http1 *http1, const th_http1_limits *limits)
    void th_http1_free(th_http1 *http1)
    void th_http1_feed(th_http1 *http1, const char *data, size_t n)
    size_t th_http1_left(const th_http1 *http1)
    int th_http1_is_idle(const th_http1 *http1)
    int th_http1_is_head(const th_http1 *http1)
    int th_http1_next(th_http1 *http1)
    const char *th_http1_reason(const th_http1 *http1)
    const char *th_method_name(int method)
    int th_method_count()


cdef extern from "response.h" nogil:
    const char *th_reason_phrase(int code)
    int th_write_status_line(th_buffer *buffer, int code)
    int th_write_field(th_buffer *buffer, const char *name, size_t name_length, const char *value, size_t value_length)
    int th_write_chunk_head(th_buffer *buffer, uint64_t size)
    int th_write_chunk(th_buffer *buffer, const char *src, size_t n)
    int th_read_content_length(const char *src, size_t n, uint64_t *length)


cdef extern from "deflate.h" nogil:
    ctypedef struct th_deflate_stream:
        uint8_t bits
        uint8_t takeover
        uint8_t level
        uint8_t memory

    void th_deflate_free(th_deflate_stream *deflater)
    int th_deflate(th_deflate_stream *deflater, const char *src, size_t n, th_buffer *out)


cdef extern from "utf8.h" nogil:
    ctypedef struct th_utf8:
        uint8_t wide


cdef extern from "websocket.h" nogil:
    enum th_ws_opcode:
        TH_WS_TEXT
        TH_WS_BINARY
        TH_WS_CLOSE
        TH_WS_PING
        TH_WS_PONG

    enum th_ws_bit:
        TH_WS_FIN
        TH_WS_RSV1

    enum th_ws_event:
        TH_WS_NEED_DATA
        TH_WS_MESSAGE_EVENT
        TH_WS_PING_EVENT
        TH_WS_CLOSE_EVENT

    enum th_ws_close_code:
        TH_WS_NO_CODE

    ctypedef struct th_ws:
        th_buffer message
        const char *control
        uint8_t control_length
        uint8_t opcode
        uint16_t close_code
        uint8_t deflates
        uint8_t compressed
        th_deflate_stream inflater
        th_utf8 utf8
        const char *next

    void th_ws_init(th_ws *ws, uint64_t max_size)
    void th_ws_free(th_ws *ws)
    void th_ws_feed(th_ws *ws, const char *data, size_t n)
    size_t th_ws_left(const th_ws *ws)
    int th_ws_next(th_ws *ws)
    size_t th_ws_head_size(uint64_t n)
    void th_ws_write_head(char *dst, int first, uint64_t n)
    int th_ws_is_close_code(int code)


cdef extern from "socket.h" nogil:
    enum th_family:
        TH_INET
        TH_INET6
        TH_UNIX

    ctypedef struct th_address:
        int32_t family
        uint32_t port
        uint32_t flow
        uint32_t scope
        uint32_t length
        char text[108]

    enum th_ready_bit:
        TH_READABLE
        TH_WRITABLE
        TH_HANGUP
        TH_BROKEN
        TH_LISTENING

    ctypedef struct th_ready:
        int32_t fd
        uint32_t bits

    ctypedef struct th_part:
        const char *data
        size_t length

    enum:
        TH_PARTS_MAX
        TH_READY_MAX

    int th_accept(int listener, th_address *peer)
    int th_own_address(int fd, th_address *own)
    int th_receive(int fd, char *dst, size_t n)
    int th_send(int fd, const char *src, size_t n)
    int th_send_parts(int fd, const th_part *parts, int count)
    int th_socket_error(int fd)
    int th_end_output(int fd)
    int th_send_at_once(int fd)
    int th_drop_syn(int fd)
    int th_close(int fd)
    int th_poll_open()
    int th_poll_add(int poll, int fd, int bits)
    int th_poll_change(int poll, int fd, int bits)
    int th_poll_remove(int poll, int fd)
    int th_poll_take(int poll, th_ready *ready)


cdef extern from "metrics.h" nogil:
    enum:
        TH_METRICS_VERSION
        TH_METRICS_METHODS
        TH_METRICS_CLASSES
        TH_METRICS_STATUSES
        TH_METRICS_TIMEOUTS
        TH_METRICS_CLOSE_CODES
        TH_METRICS_ERROR_CODES
        TH_METRICS_GENERATIONS
        TH_METRICS_RUNNING

    ctypedef struct th_histogram:
        pass

    ctypedef struct th_running:
        uint64_t received
        uint64_t sent

    ctypedef struct th_row:
        th_histogram *durations

    ctypedef struct th_slot:
        uint64_t version
        uint64_t ticked
        uint64_t interval
        uint64_t in_flight
        uint64_t connections_open
        uint64_t websockets_open
        uint64_t streams_open
        uint64_t tasks
        uint64_t *longest_block
        uint64_t begun
        uint64_t aborted
        uint64_t received
        uint64_t sent
        uint64_t connections_accepted
        uint64_t connections_refused
        uint64_t handshakes_failed
        uint64_t *refused
        uint64_t *timeouts
        uint64_t messages_received
        uint64_t messages_sent
        uint64_t message_bytes_received
        uint64_t message_bytes_sent
        uint64_t *websockets_closed
        uint64_t streams
        uint64_t *resets_received
        uint64_t *resets_sent
        uint64_t *goaways_sent
        uint64_t *collections
        uint64_t collecting
        th_histogram first_byte
        th_histogram lag
        th_running *running
        th_row *rows

    const char *th_metrics_method(int index)
    const char *th_metrics_timeout(int index)
    void th_slot_take(th_slot *slot, uint64_t pid, uint64_t number, uint64_t now)
    void th_slot_leave(th_slot *slot)
    void th_histogram_add(th_histogram *histogram, uint64_t ns)
    void th_running_client(th_running *running, const char *client, size_t n, uint32_t port)
    void th_running_begin(
        th_running *running,
        uint64_t began,
        int method,
        int version,
        const char *path,
        size_t n,
    )
    void th_running_end(th_running *running)
    int th_slot_row(th_slot *slot, int method, const char *name, size_t n)
    void th_slot_end_request(th_slot *slot, int row, int status, uint64_t taken, uint64_t first_byte)
    void th_set(uint64_t *value, uint64_t to)
    void th_count(uint64_t *value, uint64_t more)


# Functions of Python's C API that Cython does not declare.
cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT

    # Takes a pointer: Cython would count a reference of its own for an object.
    Py_ssize_t reference_count "Py_REFCNT"(PyObject *) noexcept
    bint is_dict "PyDict_CheckExact"(PyObject *) noexcept
    Py_ssize_t dict_size "PyDict_GET_SIZE"(PyObject *) noexcept
    bint PyCoro_CheckExact(object)
    PySendResult PyIter_Send(object, object, PyObject **) except PYGEN_ERROR


cdef extern from "hpack.h" nogil:
    ctypedef struct th_hpack_encoder:
        pass

    int th_hpack_encode_status(th_hpack_encoder *encoder, th_buffer *out, int status)
    int th_hpack_encode(
        th_hpack_encoder *encoder,
        th_buffer *out,
        const char *name,
        size_t name_length,
        const char *value,
        size_t value_length,
    )


cdef extern from "http2_head.h" nogil:
    ctypedef struct th_http2_limits:
        uint32_t streams
        uint32_t connection_window
        uint32_t stream_window_max
        uint32_t head
        uint32_t fields
        uint64_t body
        uint8_t websocket

    ctypedef struct th_http2_hint:
        uint32_t serial
        uint8_t index

    ctypedef struct th_http2_scratch:
        th_head head
        th_buffer hints
        th_http2_hint authority

    void th_http2_scratch_init(th_http2_scratch *scratch)
    int th_http2_check_field(const char *name, size_t name_length, const char *value, size_t value_length)


cdef extern from "http2.h" nogil:
    enum:
        TH_HTTP2_NEED_DATA
        TH_HTTP2_HEAD
        TH_HTTP2_BODY
        TH_HTTP2_END
        TH_HTTP2_RESET
        TH_HTTP2_REFUSED
        TH_HTTP2_PONG
        TH_HTTP2_ID_MAX
        TH_HTTP2_INCREMENTAL

    ctypedef struct th_http2_stream:
        uint8_t flags
        uint8_t urgency
        int32_t window

    ctypedef struct th_http2:
        uint32_t stream
        int32_t status
        uint32_t code
        uint8_t ended
        const char *body
        size_t body_length
        double now
        uint8_t stalled
        th_buffer out
        uint8_t settings_acked
        uint32_t last_id
        uint32_t open
        int32_t window
        int64_t send_window
        th_hpack_encoder encoder
        const char *next

    int th_http2_init(th_http2 *http2, const th_http2_limits *limits, th_http2_scratch *scratch, double now)
    void th_http2_free(th_http2 *http2)
    void th_http2_feed(th_http2 *http2, const char *data, size_t n)
    size_t th_http2_left(const th_http2 *http2)
    int th_http2_next(th_http2 *http2)
    int th_http2_is_reading_head(const th_http2 *http2)
    th_http2_stream *th_http2_find(const th_http2 *http2, uint32_t id)
    size_t th_http2_sendable(const th_http2 *http2, uint32_t id, size_t n)
    int th_http2_consumed(th_http2 *http2, uint32_t id, size_t n, int waits)
    int th_http2_begin_headers(th_http2 *http2, th_buffer *out, size_t *mark)
    int th_http2_end_headers(th_http2 *http2, th_buffer *out, size_t mark, uint32_t id, int end)
    int th_http2_write_data_head(th_http2 *http2, th_buffer *out, uint32_t id, size_t n, int end)
    int th_http2_reset(th_http2 *http2, th_buffer *out, uint32_t id, uint32_t code)
    int th_http2_write_goaway(th_http2 *http2, th_buffer *out, uint32_t last, uint32_t code, const char *text)
    int th_http2_ping(th_http2 *http2, th_buffer *out)
    int th_http2_catch_up(th_http2 *http2)
    void th_http2_rest(th_http2 *http2)
    void th_http2_completed(th_http2 *http2)
