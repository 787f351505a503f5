from thestral._core.csrc cimport th_deflate_stream, th_ws

cpdef enum Event:
    NEED_DATA = 0
    MESSAGE = 1
    PING = 2
    CLOSE = 3


cpdef bint is_close_code(int code) except -1


cdef class FrameParser:
    cdef th_ws _ws
    cdef bytes _fed  # the bytes that _ws reads
    cdef readonly int close_code

    cpdef object use_deflate(self, int window_bits, bint takeover)
    cpdef object feed(self, bytes data)
    cpdef int next_event(self) except -1
    cpdef object read_message(self)
    cpdef bytes read_control(self)
    cpdef Py_ssize_t left(self) except -1


cdef class FrameWriter:
    cdef th_deflate_stream _deflater
    cdef bint _deflates
    cdef Py_ssize_t _min_size

    cpdef object use_deflate(self, int window_bits, bint takeover, int level, int memory_level, Py_ssize_t min_size)
    cpdef bytes message(self, object data)
    cpdef bytes ping(self)
    cpdef bytes pong(self, bytes payload)
    cpdef bytes close(self, int code, bytes reason)
    cpdef object forget(self)
    cdef bytes _deflated(self, int first, const char *src, Py_ssize_t n)
