cdef class Timeouts:
    cdef public double head
    cdef public double body
    cdef public double keep_alive
    cdef public double write
    cdef public double request
    cdef public double tls_handshake
    cdef public double ws_ping_interval
    cdef public double ws_ping_timeout
    cdef public double ws_close_timeout
    cdef public double interval


cdef class Clock:
    cdef public object loop
    cdef public double interval
    cdef public double now
    cdef public bytes date
    cdef public list observers
    cdef public object on_second
    cdef Py_ssize_t _second
    cdef object _timer

    cpdef double after(self, double seconds) noexcept
    cpdef object start(self)
    cpdef object refresh(self)
