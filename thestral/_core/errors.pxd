from thestral._core.csrc cimport th_http1


cdef object raise_refused(const th_http1 *http1, int status)
cdef object raise_failed(int status)
cdef object raise_field(int status, bytes name)
