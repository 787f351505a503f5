cimport cython

from thestral._core.head cimport Template
from thestral._core.http1 cimport RequestParser, ResponseWriter
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext


cdef dict WEBSOCKET_ASGI

@cython.locals(extensions=dict, offered=Template)
cpdef dict http_scope(RequestParser parser, Connection connection)
cpdef dict scope_template(Connection connection)
cpdef dict websocket_scope(dict scope)
cdef dict fresh_tls(dict tls)
cdef str secure_scheme(Connection connection)
cdef object mount(dict scope, str root_path)
