"""Turns th_head into RequestHead, with the Python objects for a scope. Each is made once per request."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeASCII, PyUnicode_DecodeUTF8

from thestral._core.csrc cimport (
    TH_ABSOLUTE_FORM,
    TH_ASTERISK_FORM,
    TH_FIELD_HOST,
    dict_size,
    is_dict,
    reference_count,
    th_field,
    th_field_count,
    th_field_name,
    th_field_name_lower,
    th_head,
    th_head_field,
    th_method_count,
    th_method_name,
    th_percent_decode,
    th_slice,
)
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

# Made once, so that requests only add references.
cdef list METHODS = [th_method_name(method).decode() for method in range(th_method_count())]
cdef int METHOD_HEAD = METHODS.index("HEAD")
cdef list NAMES = [<bytes>th_field_name(field) for field in range(th_field_count())]
# The last line of each known field. Most lines repeat, on a connection and between clients, and need not be made again.
cdef list LINES = [(name, b"") for name in NAMES]
cdef enum:
    LONGEST_KEPT = 512  # bytes of a value
    COPIES_KEPT = 32  # of a Template: as many requests often run at once, and more would waste memory
    HELD = 2  # references to such a copy that nobody uses: the list, and the variable of fresh()
# Fields whose values must not stay in memory.
cdef frozenset SECRETS = frozenset((b"authorization", b"cookie", b"sec-websocket-key"))
cdef str HTTP_1_0 = "1.0"
cdef str HTTP_1_1 = "1.1"
cdef str HTTP_2 = "2"
cdef bytes ROOT = b"/"
cdef bytes ASTERISK = b"*"
cdef bytes EMPTY = b""


cdef inline bytes slice_bytes(const th_head *head, th_slice part):
    return PyBytes_FromStringAndSize(head.data + part.offset, part.length)


cdef str method_of(const th_head *head):
    return <str>METHODS[head.method]


cdef bytes raw_path_of(const th_head *head):
    """Return the path as received, without the query; "/" or "*" if absolute-form has none (RFC 9112 section 3.2)."""
    if head.path.length == 0:
        return ASTERISK if head.form == TH_ASTERISK_FORM else ROOT
    return slice_bytes(head, head.path)


cdef str path_of(const th_head *head):
    """Return the percent-decoded path; invalid UTF-8 becomes U+FFFD."""
    cdef const char *src = head.data + head.path.offset
    cdef Py_ssize_t n = head.path.length
    cdef char *decoded
    if n == 0:
        return "*" if head.form == TH_ASTERISK_FORM else "/"
    if not head.path_escaped:
        return PyUnicode_DecodeASCII(src, n, NULL)
    decoded = <char *>PyMem_Malloc(n)
    if decoded == NULL:
        raise MemoryError
    try:
        n = th_percent_decode(src, n, decoded)  # cannot fail: th_head_finish has checked every escape
        return PyUnicode_DecodeUTF8(decoded, n, "replace")
    finally:
        PyMem_Free(decoded)


cdef bytes query_of(const th_head *head):
    return EMPTY if head.query.length == 0 else slice_bytes(head, head.query)


cdef bytes name_of(const th_head *head, const th_field *field):
    """Return the lower-case name of an unknown field."""
    cdef bytes name = PyBytes_FromStringAndSize(NULL, field.name.length)
    th_field_name_lower(head.data + field.name.offset, field.name.length, PyBytes_AS_STRING(name))
    return name


cdef tuple make_line(bytes name, const char *value, uint32_t n):
    cdef tuple line = PyTuple_New(2)
    cdef bytes copy = PyBytes_FromStringAndSize(value, n)
    Py_INCREF(name)
    PyTuple_SET_ITEM(line, 0, name)
    Py_INCREF(copy)
    PyTuple_SET_ITEM(line, 1, copy)
    return line


cdef tuple line_of(const th_head *head, const th_field *field):
    """Return a field line as (lower-case name, value)."""
    cdef const char *value = head.data + field.value.offset
    cdef uint32_t n = field.value.length
    cdef tuple line
    cdef bytes last
    if field.id < 0:
        return make_line(name_of(head, field), value, n)
    line = <tuple>PyList_GET_ITEM(LINES, field.id)
    last = <bytes>PyTuple_GET_ITEM(line, 1)
    if PyBytes_GET_SIZE(last) == n and memcmp(PyBytes_AS_STRING(last), value, n) == 0:
        return line
    line = make_line(<bytes>NAMES[field.id], value, n)
    if n <= LONGEST_KEPT and NAMES[field.id] not in SECRETS:
        LINES[field.id] = line
    return line


cdef list headers_of(const th_head *head):
    """Return the field lines in order. The authority of absolute-form replaces Host (RFC 9112 section 3.2.2)."""
    cdef bint absolute = head.authority.length > 0
    cdef bint host_seen = False
    cdef list headers = PyList_New(head.field_count)
    cdef const th_field *field
    cdef tuple line
    cdef uint32_t i
    for i in range(head.field_count):
        field = th_head_field(head, i)
        if absolute and field.id == TH_FIELD_HOST:
            host_seen = True
            line = (b"host", slice_bytes(head, head.authority))
        else:
            line = line_of(head, field)
        Py_INCREF(line)
        PyList_SET_ITEM(headers, i, line)
    if absolute and not host_seen:  # HTTP/1.0 may omit Host
        headers.insert(0, (b"host", slice_bytes(head, head.authority)))
    return headers


@cython.final
@cython.freelist(16)
cdef class RequestHead:
    """The head of a request, the same for every version of HTTP."""

    cpdef object fill(self, dict scope):
        scope["method"] = self.method
        scope["path"] = self.path
        scope["raw_path"] = self.raw_path
        scope["query_string"] = self.query
        scope["headers"] = self.headers


cdef RequestHead head_of(const th_head *head, list headers):
    cdef RequestHead made = RequestHead.__new__(RequestHead)
    made.version = head.version
    made.http_version = HTTP_1_1 if head.version == 11 else HTTP_2 if head.version == 20 else HTTP_1_0
    made.method = method_of(head)
    made.method_number = head.method
    made.path = path_of(head)
    made.raw_path = raw_path_of(head)
    made.query = query_of(head)
    made.headers = headers
    made.content_length = head.content_length
    made.chunked = head.chunked
    made.head_only = head.method == METHOD_HEAD
    made.keep_alive = head.keep_alive
    made.expect_continue = head.expect_continue
    made.upgrade = head.upgrade
    made.websocket = head.websocket
    made.forwarded = head.forwarded
    made.trailers = head.trailers
    made.https_target = head.https_target
    return made


@cython.final
cdef class Template:
    def __init__(self, dict items):
        self._items = dict(items)
        self._keys = tuple(items)
        self._values = tuple(items.values())
        self._nested = tuple([key for key, value in items.items() if type(value) is dict])
        self._copies = []
        self._last = 0

    cpdef dict fresh(self):
        cdef dict copy
        cdef int tried
        for tried in range(2):
            if self._last < len(self._copies):
                copy = <dict>PyList_GET_ITEM(self._copies, self._last)
                if self._is_unused(copy):
                    return copy
                self._last = (self._last + 1) % COPIES_KEPT
        copy = self._items.copy()
        for key in self._nested:
            copy[key] = {}
        if self._last < len(self._copies):
            self._copies[self._last] = copy
        else:
            self._last = len(self._copies)
            self._copies.append(copy)
        return copy

    cdef bint _is_unused(self, dict copy) noexcept:
        """Whether one of the copies and the dicts in it have no other references and are unchanged."""
        # Local, as each use of an attribute would count a reference: this runs for every request.
        cdef tuple keys = self._keys
        cdef tuple values = self._values
        cdef Py_ssize_t position = 0
        cdef Py_ssize_t index
        cdef PyObject *key = NULL
        cdef PyObject *value = NULL
        cdef PyObject *made = NULL
        if reference_count(<PyObject *>copy) > HELD or dict_size(<PyObject *>copy) != len(keys):
            return False
        for index in range(len(keys)):
            made = PyTuple_GET_ITEM(values, index)
            if not PyDict_Next(copy, &position, &key, &value) or key != PyTuple_GET_ITEM(keys, index):
                return False
            if value == made:
                continue
            if not is_dict(made) or not is_dict(value) or reference_count(value) > 1 or dict_size(value) > 0:
                return False
        return True
