cimport cython

from thestral._core.coroutine cimport Finished, advance, is_native, task_of
from thestral._core.log cimport monotonic
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.trace cimport Trace
from thestral.protocol.turn cimport Turn

cdef bint MARKED


cdef class Run:
    cdef Cycle cycle
    cdef object _steps

    cdef object _step(self, tuple error)
    @cython.locals(trace=Trace)
    cdef object _begin(self, Cycle cycle)
    cdef object _end(self, object exc)


cdef object throw_into(object steps, tuple error)
@cython.locals(run=Run)
cpdef object scope_of(object task)
@cython.locals(run=Run)
cpdef object start(Cycle cycle)
