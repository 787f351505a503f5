from thestral._core.csrc cimport th_head


cdef str method_of(const th_head *head)
cdef bint is_head(const th_head *head) noexcept
cdef bytes raw_path_of(const th_head *head)
cdef str path_of(const th_head *head)
cdef bytes query_of(const th_head *head)
cdef list headers_of(const th_head *head)
