cdef class Finished:
    pass


cpdef object advance(object coroutine)
cpdef bint is_held_once(object thing) except -1
cpdef long this_thread()
cpdef object task_of(object coroutine, dict arguments)
cpdef bint is_native(object thing) except -1
