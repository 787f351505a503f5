from thestral._core.coroutine cimport this_thread
from thestral._core.head cimport Template
from thestral._core.http1 cimport RequestParser
from thestral.protocol.access cimport AccessLog
from thestral.protocol.turn cimport Turn


cdef class WorkerContext:
    cdef public object app
    cdef public object loop
    cdef public long thread
    cdef public object base_context
    cdef public object limits
    cdef public object websocket
    cdef public object certificates
    cdef public object trusted
    cdef public object forwarding
    cdef public bint proxy_protocol
    cdef public dict state
    cdef public set connections
    cdef public set cycles
    cdef public Turn turn
    cdef public bytes default_head
    cdef public bytes date_head
    cdef public bytes server_head
    cdef public bytes extra_head
    cdef public str root_path
    cdef public Template http_asgi
    cdef public bint raises_when_gone
    cdef public Template http_extensions
    cdef public Template http_1_0_extensions
    cdef public frozenset offered
    cdef public bint keeps_alive
    cdef public bint send_date
    cdef public bint eager
    cdef public dict task_arguments
    cdef public object spare_sending
    cdef public bint gathers
    cdef public AccessLog access_log
    cdef public object refusals
    cdef public bint draining
    cdef public double now
    cdef public double interval
    cdef public double timeout_head
    cdef public double timeout_body
    cdef public double timeout_keep_alive
    cdef public double timeout_write
    cdef public double timeout_tls_handshake
    cdef public Py_ssize_t total_requests
    cdef public Py_ssize_t max_requests
    cdef public object on_limit
    cdef public Py_ssize_t limit_concurrency
    cdef public Py_ssize_t limit_connections
    cdef public Py_ssize_t running
    cdef public double timeout_request
    cdef object _ticker
    cdef Py_ssize_t _date_second

    cpdef object add(self, object connection)
    cpdef object discard(self, object connection)
    cdef object expect_own_thread(self)
    cpdef object refresh(self)
