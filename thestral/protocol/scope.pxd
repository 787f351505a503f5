cimport cython

from thestral._core.http1 cimport RequestParser, ResponseWriter
from thestral.protocol.connection cimport Connection, Cycle, Stream
from thestral.protocol.context cimport WorkerContext


cdef dict EXTENSIONS
cdef dict HTTP_1_1_EXTENSIONS

@cython.locals(extensions=dict)
cpdef dict http_scope(RequestParser parser, Connection connection)
cpdef dict scope_template(Connection connection)
cpdef dict websocket_scope(dict scope)
cdef str secure_scheme(Connection connection)
cdef object mount(dict scope, str root_path)
