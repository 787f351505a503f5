"""Writes what a worker counts into a th_slot, which its supervisor reads."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint64_t
from libc.string cimport memmove

from thestral._core.csrc cimport (
    TH_METRICS_CLOSE_CODES,
    TH_METRICS_ERROR_CODES,
    TH_METRICS_GENERATIONS,
    TH_METRICS_METHODS,
    TH_METRICS_RUNNING,
    TH_METRICS_STATUSES,
    TH_METRICS_TIMEOUTS,
    TH_METRICS_VERSION,
    dict_size,
    th_count,
    th_histogram_add,
    th_method_count,
    th_method_name,
    th_metrics_method,
    th_metrics_timeout,
    th_now,
    th_running_begin,
    th_running_client,
    th_running_end,
    th_set,
    th_slot,
    th_slot_end_request,
    th_slot_leave,
    th_slot_row,
    th_slot_take,
)
from thestral._core.head cimport RequestHead

cdef enum:
    FIRST_STATUS = 400
    FIRST_CLOSE_CODE = 1000
    ROUTES_KEPT = 4096  # places of routes that are remembered; a route below a mount may have many

SLOT_SIZE = sizeof(th_slot)
cdef dict TIMEOUTS = {th_metrics_timeout(kind).decode(): kind for kind in range(TH_METRICS_TIMEOUTS)}

# The method of a row, by llhttp's number of a method.
cdef unsigned char METHODS[256]


cdef object fill_methods():
    cdef list names = [th_metrics_method(index).decode() for index in range(TH_METRICS_METHODS)]
    cdef int method
    for method in range(256):
        METHODS[method] = TH_METRICS_METHODS - 1
    for method in range(th_method_count()):
        name = th_method_name(method).decode()
        if name in names:
            METHODS[method] = names.index(name)


fill_methods()


cpdef uint64_t now() noexcept:
    return th_now()


cdef inline uint64_t nanoseconds(double seconds) noexcept:
    return <uint64_t>(seconds * 1e9) if seconds > 0.0 else 0


cdef inline void lower(uint64_t *value) noexcept:
    """Lower a gauge, but not below 0: its memory may have been set back meanwhile."""
    if value[0] > 0:
        th_set(value, value[0] - 1)


cdef class Counted:
    pass


@cython.final
cdef class WorkerMetrics:
    def __cinit__(self, object memory, int pid, int number, object template=None):
        PyObject_GetBuffer(memory, &self._memory, PyBUF_WRITABLE)
        self._slot = <th_slot *>self._memory.buf
        if self._memory.len < SLOT_SIZE:
            raise ValueError(f"{self._memory.len} bytes of memory, expected at least {SLOT_SIZE}")
        if self._slot.version not in (0, TH_METRICS_VERSION):
            raise ValueError(f"memory of version {self._slot.version}, expected {TH_METRICS_VERSION}")
        self._rows = {}
        self._template = template
        for place in range(TH_METRICS_RUNNING):
            self._free[place] = TH_METRICS_RUNNING - 1 - place
        self._free_count = TH_METRICS_RUNNING
        self._clients = [...] * TH_METRICS_RUNNING  # whose addresses the places have; none yet
        th_slot_take(self._slot, pid, number, th_now())

    def __dealloc__(self):
        if self._memory.buf != NULL:
            PyBuffer_Release(&self._memory)

    def leave(self):
        th_slot_leave(self._slot)

    # --- Requests -----------------------------------------------------------------------------

    cpdef int begin(self, Counted request) except -1:
        request.head_at_ns = th_now()
        th_count(&self._slot.begun, 1)
        th_set(&self._slot.in_flight, self._slot.in_flight + 1)
        return self._fill(request)

    cpdef int place(self, Counted request) except -1:
        return self._fill(request)

    cdef inline int _fill(self, Counted request) except -1:
        cdef int place
        if self._free_count == 0:
            self._crowded = True
            request.place = -1
            return 0
        self._free_count -= 1
        place = self._free[self._free_count]
        if <PyObject *>request.client != <PyObject *>self._clients[place]:  # of another connection
            self._show_client(place, request.client)
        th_running_begin(
            &self._slot.running[place],
            request.head_at_ns,
            METHODS[request.request.method_number],
            request.request.version,
            PyBytes_AS_STRING(request.request.raw_path),
            PyBytes_GET_SIZE(request.request.raw_path),
        )
        request.place = place
        return 0

    cdef object _show_client(self, int place, object client):
        cdef const char *host = NULL
        cdef Py_ssize_t size = 0
        cdef int port = 0
        if client is not None:
            host = PyUnicode_AsUTF8AndSize(client[0], &size)
            port = client[1]
        th_running_client(&self._slot.running[place], host, size, port)
        self._clients[place] = client

    cpdef void displace(self, Counted request) noexcept:
        self._empty(request)

    cdef inline void _empty(self, Counted request) noexcept:
        if request.place >= 0:
            th_running_end(&self._slot.running[request.place])
            self._free[self._free_count] = request.place
            self._free_count += 1
            request.place = -1

    cpdef bint is_crowded(self) noexcept:
        cdef bint crowded = self._crowded
        self._crowded = False
        return crowded

    cdef int _row(self, dict scope, int method) except -1:
        if self._template is None:
            return method
        route = scope.get("route")
        if route is None and "fastapi" not in scope:
            return method
        return self._row_of_route(route, scope, method)

    cdef object _row_of_route(self, object route, dict scope, int method):
        cdef const char *name
        cdef Py_ssize_t size
        inner = scope.get("fastapi")
        inner = inner.get("effective_route_context") if type(inner) is dict else None
        key = (id(route), id(inner), method, scope.get("root_path") if "app_root_path" in scope else None)
        found = self._rows.get(key)
        if found is None:
            if len(self._rows) >= ROUTES_KEPT:
                self._rows.clear()
            name = PyUnicode_AsUTF8AndSize(self._template(scope), &size)
            # The objects stay alive, so that their ids stay theirs.
            found = (th_slot_row(self._slot, method, name, size), route, inner)
            self._rows[key] = found
        return (<tuple>found)[0]

    cpdef int end(self, Counted request, dict template) except -1:
        cdef int row = METHODS[request.request.method_number]
        cdef uint64_t first_byte = 0
        if dict_size(<PyObject *>request.scope) != dict_size(<PyObject *>template):
            row = self._row(request.scope, row)
        if request.first_byte_ns != 0:
            first_byte = request.first_byte_ns - request.head_at_ns
        th_slot_end_request(self._slot, row, request.status, th_now() - request.head_at_ns, first_byte)
        self._empty(request)
        return 0

    cpdef void progress(self, Counted request) noexcept:
        if request.place >= 0:
            th_set(&self._slot.running[request.place].received, request.received)
            th_set(&self._slot.running[request.place].sent, request.sent)

    cpdef void abort(self) noexcept:
        th_count(&self._slot.aborted, 1)

    cpdef object refuse(self, int status):
        if 0 <= status - FIRST_STATUS < TH_METRICS_STATUSES:
            th_count(&self._slot.refused[status - FIRST_STATUS], 1)

    cpdef object time_out(self, str kind):
        th_count(&self._slot.timeouts[<int>TIMEOUTS[kind]], 1)

    # --- Connections --------------------------------------------------------------------------

    cpdef void add_received(self, uint64_t size) noexcept:
        th_count(&self._slot.received, size)

    cpdef void add_sent(self, uint64_t size) noexcept:
        th_count(&self._slot.sent, size)

    cpdef object accept(self):
        th_count(&self._slot.connections_accepted, 1)

    cpdef object refuse_connection(self):
        th_count(&self._slot.connections_refused, 1)

    cpdef object fail_handshake(self):
        th_count(&self._slot.handshakes_failed, 1)

    cpdef object set_connections(self, uint64_t count):
        th_set(&self._slot.connections_open, count)

    # --- WebSockets and HTTP/2 ----------------------------------------------------------------

    cpdef object open_websocket(self):
        th_set(&self._slot.websockets_open, self._slot.websockets_open + 1)

    cpdef object close_websocket(self, int code):
        cdef int index = code - FIRST_CLOSE_CODE
        if not 0 <= index < TH_METRICS_CLOSE_CODES:
            index = TH_METRICS_CLOSE_CODES - 1
        th_count(&self._slot.websockets_closed[index], 1)
        lower(&self._slot.websockets_open)

    cpdef object receive_message(self, object message):
        th_count(&self._slot.messages_received, 1)
        th_count(&self._slot.message_bytes_received, size_of(message))

    cpdef object send_message(self, object message):
        th_count(&self._slot.messages_sent, 1)
        th_count(&self._slot.message_bytes_sent, size_of(message))

    cpdef object open_stream(self):
        th_count(&self._slot.streams, 1)
        th_set(&self._slot.streams_open, self._slot.streams_open + 1)

    cpdef object close_stream(self):
        lower(&self._slot.streams_open)

    cpdef object receive_reset(self, int code):
        th_count(&self._slot.resets_received[error_index(code)], 1)

    cpdef object send_reset(self, int code):
        th_count(&self._slot.resets_sent[error_index(code)], 1)

    cpdef object send_goaway(self, int code):
        th_count(&self._slot.goaways_sent[error_index(code)], 1)

    # --- The process --------------------------------------------------------------------------

    def tick(self, double interval, double late):
        cdef th_slot *slot = self._slot
        cdef uint64_t lag = nanoseconds(late)
        th_set(&slot.interval, nanoseconds(interval))
        th_set(&slot.ticked, th_now())
        th_histogram_add(&slot.lag, lag)
        if lag > slot.longest_block[0]:
            th_set(&slot.longest_block[0], lag)

    def begin_minute(self):
        th_set(&self._slot.longest_block[1], self._slot.longest_block[0])
        th_set(&self._slot.longest_block[0], 0)

    def set_tasks(self, uint64_t count):
        th_set(&self._slot.tasks, count)

    def add_collection(self, int generation, double seconds):
        if 0 <= generation < TH_METRICS_GENERATIONS:
            th_count(&self._slot.collections[generation], 1)
            th_count(&self._slot.collecting, nanoseconds(seconds))


cdef inline Py_ssize_t size_of(object message) except -1:
    """Return the bytes of a message."""
    if type(message) is str and not (<str>message).isascii():
        return len((<str>message).encode("utf-8", "surrogatepass"))
    return len(message)


cdef inline int error_index(int code) noexcept:
    return code if 0 <= code < TH_METRICS_ERROR_CODES else TH_METRICS_ERROR_CODES - 1
