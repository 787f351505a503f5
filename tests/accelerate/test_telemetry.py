"""The group `telemetry`: FastAPI looks itself as soon as anything is configured."""

from __future__ import annotations

import child
import pytest

ASKED = """
import os, sys
import thestral.accelerate
thestral.accelerate.fastapi(["telemetry"], require=True)
from fastapi import FastAPI
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk import _logs as sdk_logs, metrics as sdk_metrics, trace as sdk_trace

app = FastAPI()
telemetry = app._native_telemetry
assert not telemetry.enabled()
"""


@pytest.mark.parametrize(
    "program",
    [
        "trace.set_tracer_provider(sdk_trace.TracerProvider())",
        "metrics.set_meter_provider(sdk_metrics.MeterProvider())",
        "_logs.set_logger_provider(sdk_logs.LoggerProvider())",
        "os.environ['OTEL_PYTHON_TRACER_PROVIDER'] = 'sdk_tracer_provider'",
        "os.environ['OTEL_PYTHON_METER_PROVIDER'] = 'sdk_meter_provider'",
        "os.environ['OTEL_PYTHON_LOGGER_PROVIDER'] = 'sdk_logger_provider'",
        "telemetry.config['tracer_provider'] = sdk_trace.TracerProvider()",
        "telemetry.config['meter_provider'] = sdk_metrics.MeterProvider()",
        "telemetry.config['logger_provider'] = sdk_logs.LoggerProvider()",
        "trace.get_tracer_provider = lambda: sdk_trace.TracerProvider()",
        "metrics.get_meter_provider = lambda: sdk_metrics.MeterProvider()",
        "_logs.get_logger_provider = lambda: sdk_logs.LoggerProvider()",
    ],
)
def test_what_is_configured_later(program):
    child.run(f"{ASKED}\n{program}\nassert telemetry.enabled()\n")


@pytest.mark.parametrize("kind", ["tracing", "metrics", "logs"])
def test_what_the_application_has_turned_off(kind):
    child.run(f"""{ASKED}
trace.set_tracer_provider(sdk_trace.TracerProvider())
metrics.set_meter_provider(sdk_metrics.MeterProvider())
_logs.set_logger_provider(sdk_logs.LoggerProvider())
telemetry.config.update(tracing=False, metrics=False, logs=False)
assert not telemetry.enabled()
telemetry.config[{kind!r}] = True
assert telemetry.enabled()
""")
