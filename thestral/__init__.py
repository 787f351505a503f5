"""thestral: an ASGI server for Python whose bytes are read and written in C."""

from thestral import _compiled as _compiled  # first: the others import compiled modules
from thestral.config import Config
from thestral.process.lifespan import shutdown_event
from thestral.process.server import Server
from thestral.run import run

__all__ = ["Config", "Server", "__version__", "run", "shutdown_event"]
__version__ = "0.1.0"
