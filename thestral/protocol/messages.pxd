cimport cython
from libc.stdint cimport int64_t

from thestral._core.http1 cimport length_of

cdef int LOWEST_STATUS
cdef int HIGHEST_STATUS


@cython.locals(number=int)
cpdef int status_of(dict message) except -1
cpdef dict as_dict(object message)
cpdef list headers_of(dict message)
cpdef list trailers_of(dict message)
cpdef list list_of(dict message, str key)
cpdef bytes value_of(list headers, bytes name)
cpdef int64_t announced_by(list headers) except -2
cpdef bint is_event_stream(list headers) except -1
cpdef object byte_count_of(dict message, str key)
cpdef bytes body_of(dict message)
