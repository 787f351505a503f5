from thestral._core.coroutine cimport this_thread
from thestral._core.head cimport Template
from thestral._core.metrics cimport WorkerMetrics
from thestral.protocol.access cimport AccessLog
from thestral.protocol.clock cimport Clock, Timeouts
from thestral.protocol.settings cimport Settings
from thestral.protocol.trace cimport Tracer
from thestral.protocol.turn cimport Turn


cdef class WorkerContext:
    cdef public object app
    cdef public object loop
    cdef public long thread
    cdef public object base_context
    cdef public dict state
    cdef public object certificates
    cdef public Settings settings
    cdef public Timeouts timeouts
    cdef public tuple waits
    cdef public Clock clock
    cdef public Turn turn
    cdef public AccessLog access_log
    cdef public Tracer tracer
    cdef public object refusals
    cdef public WorkerMetrics metrics
    cdef public Template http_asgi
    cdef public Template http_extensions
    cdef public Template http_1_0_extensions
    cdef public bytes default_head
    cdef public bytes date_head
    cdef public list default_fields
    cdef public bint eager
    cdef public dict task_arguments
    cdef public object spare_sending
    cdef public bint gathers
    cdef public bint draining
    cdef public set connections
    cdef public set cycles
    cdef public Py_ssize_t running
    cdef public Py_ssize_t total_requests
    cdef public Py_ssize_t max_requests
    cdef public object on_limit
    cdef object _empty

    cpdef object add(self, object connection)
    cpdef object discard(self, object connection)
    cdef object _count_connections(self)
    cdef object count_refusal(self, int status)
    cpdef object count_timeout(self, str kind)
    cdef object discard_cycle(self, object cycle)
    cdef object _signal_if_empty(self)
    cdef object expect_own_thread(self)
