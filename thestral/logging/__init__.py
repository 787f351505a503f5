"""Public names, for users' logging configurations and programs."""

from thestral.logging.formatters import AccessFormatter, ColourizedFormatter, DefaultFormatter
from thestral.logging.jsonlines import JsonFormatter
from thestral.logging.loggers import TRACE_LOG_LEVEL
from thestral.logging.output import BoundedStreamHandler
from thestral.logging.running import RequestFilter

__all__ = [
    "TRACE_LOG_LEVEL",
    "AccessFormatter",
    "BoundedStreamHandler",
    "ColourizedFormatter",
    "DefaultFormatter",
    "JsonFormatter",
    "RequestFilter",
]
