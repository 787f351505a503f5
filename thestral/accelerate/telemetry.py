"""Whether OpenTelemetry is configured costs FastAPI three look-ups for each request. Here one look
at what those depend on says that nothing is; else FastAPI looks itself.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi.telemetry import _asgi
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import _internal as logs_internal
from opentelemetry.metrics import _internal as metrics_internal

REPLACES = ("fastapi.telemetry._asgi:NativeTelemetry.enabled",)
RELIES_ON = (
    "fastapi.telemetry._api:_unconfigured",
    "opentelemetry.trace:get_tracer_provider",
    "opentelemetry.metrics:get_meter_provider",
    "opentelemetry._logs:get_logger_provider",
)

original_enabled = _asgi.NativeTelemetry.enabled
original_tracer_provider = trace.get_tracer_provider
original_meter_provider = metrics.get_meter_provider
original_logger_provider = _logs.get_logger_provider
# What os.environ keeps its variables in: it is asked without encoding the name each time.
ENVIRONMENT: Any = os.environ
VARIABLES: dict[bytes, bytes] = ENVIRONMENT._data
TRACER, METER, LOGGER = (
    ENVIRONMENT.encodekey(f"OTEL_PYTHON_{kind}_PROVIDER") for kind in ("TRACER", "METER", "LOGGER")
)


def install() -> None:
    _asgi.NativeTelemetry.enabled = enabled  # type: ignore[method-assign]


def why_not(route: Any) -> str | None:
    return None


def nothing_is_configured(config: Any) -> bool:
    """Whether there is neither a provider of the application's own, nor a global one, nor one
    that the environment names, which would be loaded when it is asked for.

    Args:
        config: the TelemetryConfig of the application.
    """
    return (
        trace._TRACER_PROVIDER is None
        and metrics_internal._METER_PROVIDER is None
        and logs_internal._LOGGER_PROVIDER is None
        and config["tracer_provider"] is None
        and config["meter_provider"] is None
        and config["logger_provider"] is None
        and TRACER not in VARIABLES
        and METER not in VARIABLES
        and LOGGER not in VARIABLES
        and trace.get_tracer_provider is original_tracer_provider
        and metrics.get_meter_provider is original_meter_provider
        and _logs.get_logger_provider is original_logger_provider
    )


def enabled(self: Any) -> bool:
    return not nothing_is_configured(self.config) and original_enabled(self)
