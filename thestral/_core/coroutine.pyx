"""Steps a coroutine without the objects that Python creates around each step."""

cimport cython
from cpython.object cimport PyObject_Call
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_REFCNT, PyObject

from thestral._core.csrc cimport PYGEN_NEXT, PyCoro_CheckExact, PyIter_Send, PySendResult

from asyncio import Task


@cython.final
cdef class Finished:
    """Returned by advance() when the coroutine has returned."""


cpdef object advance(object coroutine):
    cdef PyObject *found = NULL
    cdef PySendResult how = PyIter_Send(coroutine, None, &found)
    cdef object result = <object>found
    Py_DECREF(result)  # the reference that PyIter_Send returned
    return result if how == PYGEN_NEXT else Finished


cpdef bint is_native(object thing) except -1:
    return PyCoro_CheckExact(thing)


cpdef bint is_held_once(object thing) except -1:
    return Py_REFCNT(thing) == 2  # its one holder, and the caller's variable


cpdef long this_thread():
    return PyThread_get_thread_ident()


cpdef object task_of(object coroutine, dict arguments):
    return PyObject_Call(Task, (coroutine,), arguments)
