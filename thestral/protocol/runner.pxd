from thestral.protocol.connection cimport Connection, Cycle, Stream


cpdef object start(Cycle cycle)
cdef object call(Cycle cycle)
cdef object ended(Cycle cycle, object exc)
