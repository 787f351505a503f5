from libc.stdint cimport uint32_t, uint64_t

from thestral._core.csrc cimport th_field, th_head


cdef int METHOD_HEAD


cdef class RequestHead:
    cdef readonly int version
    cdef readonly str http_version
    cdef readonly str method
    cdef readonly int method_number
    cdef readonly str path
    cdef readonly bytes raw_path
    cdef readonly bytes query
    cdef readonly list headers
    cdef readonly uint64_t content_length
    cdef readonly bint chunked
    cdef readonly bint head_only
    cdef readonly bint keep_alive
    cdef readonly bint expect_continue
    cdef readonly bint upgrade
    cdef readonly bint websocket
    cdef readonly bint forwarded
    cdef readonly bint trailers
    cdef readonly bint https_target

    cpdef object fill(self, dict scope)


cdef tuple make_line(bytes name, const char *value, uint32_t n)
cdef tuple line_of(const th_head *head, const th_field *field)
cdef list headers_of(const th_head *head)
cdef RequestHead head_of(const th_head *head, list headers)


cdef class Template:
    cdef dict _items
    cdef tuple _nested
    cdef tuple _keys
    cdef tuple _values
    cdef list _copies
    cdef Py_ssize_t _last  # of the copies that was handed out

    cpdef dict fresh(self)
    cdef bint _is_unused(self, dict copy) noexcept
