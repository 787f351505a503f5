cimport cython

from thestral._core.head cimport RequestHead, Template
from thestral.protocol.connection cimport Connection
from thestral.protocol.context cimport WorkerContext


cdef dict WEBSOCKET_ASGI

@cython.locals(extensions=dict, offered=Template)
cpdef dict http_scope(RequestHead head, Connection connection)
cpdef dict scope_template(Connection connection)
cpdef dict websocket_scope(dict scope)
cdef dict fresh_tls(dict tls)
cdef str secure_scheme(Connection connection)
cdef object mount(dict scope, str root_path)
