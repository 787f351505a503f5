from thestral._core.csrc cimport th_head


cdef str method_of(const th_head *head)
cdef bint is_head(const th_head *head) noexcept
cdef bytes raw_path_of(const th_head *head)
cdef str path_of(const th_head *head)
cdef bytes query_of(const th_head *head)
cdef list headers_of(const th_head *head)


cdef class Template:
    cdef tuple _keys
    cdef tuple _values
    cdef dict _copy

    cpdef dict fresh(self)
    cdef bint _is_unused(self) noexcept
