"""thestral: an ASGI server for Python whose bytes are read and written in C."""

from thestral.config import Config
from thestral.lifespan import shutdown_event
from thestral.running import run
from thestral.server import Server

__all__ = ["Config", "Server", "__version__", "run", "shutdown_event"]
__version__ = "0.1.0"
