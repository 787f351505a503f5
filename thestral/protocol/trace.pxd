cimport cython

from thestral._core.log cimport Uuids, monotonic, wall_clock


cdef bytes ID_NAME
cdef Py_ssize_t ID_LENGTH


cdef class Trace:
    cdef readonly str request_id
    cdef readonly str trace_id
    cdef readonly str span_id
    cdef readonly double began
    cdef readonly double started
    cdef readonly double answered
    cdef readonly double first_byte
    cdef readonly bint sends_id

    cpdef object answer(self, object headers)


cdef class Tracer:
    cdef readonly bint makes_ids
    cdef readonly bint marks
    cdef bint _sends_ids
    cdef bint _timing
    cdef Uuids _uuids

    @cython.locals(trace=Trace, headers=list, name=bytes, value=bytes, given=bytes, parent=bytes)
    cpdef Trace begin(self, dict scope, object connection)
    cpdef list fields(self, Trace trace)


cdef bytes server_timing(Trace trace, double now)
