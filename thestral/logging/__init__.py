"""Public names, for users' logging configurations and programs."""

from thestral.logging.formatters import AccessFormatter, ColourizedFormatter, DefaultFormatter
from thestral.logging.loggers import TRACE_LOG_LEVEL
from thestral.logging.output import BoundedStreamHandler

__all__ = [
    "TRACE_LOG_LEVEL",
    "AccessFormatter",
    "BoundedStreamHandler",
    "ColourizedFormatter",
    "DefaultFormatter",
]
