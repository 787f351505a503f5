"""Stream sockets and epoll, by file descriptor."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport errno

from thestral._core.csrc cimport (
    TH_EBLOCKED,
    TH_INET,
    TH_INET6,
    TH_PARTS_MAX,
    TH_UNIX,
    th_accept,
    th_address,
    th_buffer_free,
    th_buffer_init,
    th_buffer_reserve,
    th_close,
    th_drop_syn,
    th_end_output,
    th_own_address,
    th_part,
    th_poll_add,
    th_poll_change,
    th_poll_open,
    th_poll_remove,
    th_poll_take,
    th_receive,
    th_send,
    th_send_at_once,
    th_send_parts,
    th_socket_error,
)

import os


cpdef object system_error():
    cdef int number = errno
    return OSError(number, os.strerror(number))


cdef object name_of(const th_address *address):
    """Return an address in the form of socket.getpeername()."""
    if address.family == TH_UNIX:
        if address.length > 0 and address.text[0] == 0:
            return PyBytes_FromStringAndSize(address.text, address.length)
        return os.fsdecode(address.text[:address.length])
    if address.family == TH_INET:
        return (address.text[:address.length].decode("ascii"), address.port)
    if address.family == TH_INET6:
        host = address.text[:address.length].decode("ascii")
        return (host, address.port, address.flow, address.scope)
    return None


cdef int outcome_of(int result) noexcept:
    if result >= 0:
        return result
    return BLOCKED if result == TH_EBLOCKED else FAILED


cpdef object accept(int listener):
    cdef th_address peer
    cdef int fd = th_accept(listener, &peer)
    if fd == TH_EBLOCKED:
        return None
    if fd < 0:
        raise system_error()
    return (fd, name_of(&peer))


cpdef object own_address(int fd):
    cdef th_address own
    return name_of(&own) if th_own_address(fd, &own) == 0 else None


cpdef int send(int fd, bytes data) noexcept:
    return outcome_of(th_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)))


cpdef object socket_error(int fd):
    return system_error() if th_socket_error(fd) < 0 else None


cpdef bint end_output(int fd) noexcept:
    return th_end_output(fd) == 0


cpdef bint send_at_once(int fd) noexcept:
    return th_send_at_once(fd) == 0


def drop_syn(int fd):
    return th_drop_syn(fd) == 0


cpdef bint close(int fd) noexcept:
    return th_close(fd) == 0


@cython.final
cdef class ReadBuffer:
    """A buffer to receive into; its owner lends it for the duration of a call."""

    def __cinit__(self, Py_ssize_t capacity):
        th_buffer_init(&self._buffer)
        if th_buffer_reserve(&self._buffer, capacity) < 0:
            raise MemoryError
        self.capacity = capacity
        self.data = self._buffer.data

    def __dealloc__(self):
        th_buffer_free(&self._buffer)

    cpdef int receive(self, int fd) noexcept:
        cdef int size = outcome_of(th_receive(fd, self._buffer.data, self.capacity))
        self.size = size if size > 0 else 0
        return size

    cpdef bytes take(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


@cython.final
cdef class SendQueue:
    """Bytes that a socket has not accepted yet, kept without copying."""

    def __cinit__(self):
        self._parts = []

    cpdef object push(self, bytes data, Py_ssize_t offset):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - offset
        if size == 0:
            return
        if self.size == 0:
            self._offset = offset
        elif offset:
            data = data[offset:]
        self._parts.append(data)
        self.size += size

    cpdef int flush(self, int fd) except -3:
        cdef th_part parts[TH_PARTS_MAX]
        cdef Py_ssize_t index = self._first
        cdef Py_ssize_t offset = self._offset
        cdef Py_ssize_t end = len(self._parts)
        cdef Py_ssize_t offered = 0
        cdef Py_ssize_t left
        cdef int count = 0
        cdef int sent
        cdef bytes data
        while count < TH_PARTS_MAX and index < end:
            data = <bytes>self._parts[index]
            parts[count].data = PyBytes_AS_STRING(data) + offset
            parts[count].length = PyBytes_GET_SIZE(data) - offset
            offered += parts[count].length
            offset = 0
            index += 1
            count += 1
        if count == 0:
            return 0
        sent = outcome_of(th_send_parts(fd, parts, count))
        if sent < 0:
            return sent
        self.size -= sent
        left = sent
        while self._first < end:
            data = <bytes>self._parts[self._first]
            if left < PyBytes_GET_SIZE(data) - self._offset:
                self._offset += left
                break
            left -= PyBytes_GET_SIZE(data) - self._offset
            self._offset = 0
            self._parts[self._first] = None  # frees its memory at once
            self._first += 1
        if self._first == end:
            self._parts = []
            self._first = 0
        elif self._first >= TH_PARTS_MAX and self._first * 2 >= end:
            del self._parts[:self._first]
            self._first = 0
        return sent if sent == offered else BLOCKED


@cython.final
cdef class Ready:
    """The sockets that one Poll.take() reported."""

    cpdef int fd(self, int index) noexcept:
        return self._ready[index].fd

    cpdef int bits(self, int index) noexcept:
        return <int>self._ready[index].bits


@cython.final
cdef class Poll:
    """An epoll instance."""

    def __cinit__(self):
        self.fd = -1
        self.fd = th_poll_open()
        if self.fd < 0:
            raise system_error()

    def __dealloc__(self):
        if self.fd >= 0:
            th_close(self.fd)

    cpdef object add(self, int fd, int bits):
        if th_poll_add(self.fd, fd, bits) < 0:
            raise system_error()

    cpdef object change(self, int fd, int bits):
        if th_poll_change(self.fd, fd, bits) < 0:
            raise system_error()

    cpdef object remove(self, int fd):
        if th_poll_remove(self.fd, fd) < 0:
            raise system_error()

    cpdef int take(self, Ready ready) except -1:
        cdef int count = th_poll_take(self.fd, ready._ready)
        if count < 0:
            raise system_error()
        return count

    cpdef object close(self):
        if self.fd >= 0:
            th_close(self.fd)
            self.fd = -1
