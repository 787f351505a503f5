from thestral._core.csrc cimport th_buffer, th_ready

cpdef enum Bit:
    READABLE = 1
    WRITABLE = 2
    HANGUP = 4
    BROKEN = 8
    LISTENING = 16

cpdef enum Outcome:
    BLOCKED = -1
    FAILED = -2


cpdef object system_error()
cdef int outcome_of(int result) noexcept
cpdef object accept(int listener)
cpdef object own_address(int fd)
cpdef int send(int fd, bytes data) noexcept
cpdef object socket_error(int fd)
cpdef bint end_output(int fd) noexcept
cpdef bint send_at_once(int fd) noexcept
cpdef bint close(int fd) noexcept


cdef class ReadBuffer:
    cdef th_buffer _buffer
    cdef readonly Py_ssize_t capacity
    cdef const char *data
    cdef readonly Py_ssize_t size

    cpdef int receive(self, int fd) noexcept
    cpdef bytes take(self)


cdef class SendQueue:
    cdef list _parts
    cdef Py_ssize_t _first
    cdef Py_ssize_t _offset
    cdef readonly Py_ssize_t size

    cpdef object push(self, bytes data, Py_ssize_t offset)
    cpdef int flush(self, int fd) except -3


cdef class Ready:
    cdef th_ready _ready[256]

    cpdef int fd(self, int index) noexcept
    cpdef int bits(self, int index) noexcept


cdef class Poll:
    cdef readonly int fd

    cpdef object add(self, int fd, int bits)
    cpdef object change(self, int fd, int bits)
    cpdef object remove(self, int fd)
    cpdef int take(self, Ready ready) except -1
    cpdef object close(self)
