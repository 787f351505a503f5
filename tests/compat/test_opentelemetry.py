"""OpenTelemetry's spans: a client that leaves is not an error of the application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from apps import Gate, get
from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import Running, read_to, reset, wait_until
from uvicorn_peer import beside_uvicorn


class Spans:
    """The exported spans, which stay in this process."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of_requests(self) -> dict[str, ReadableSpan]:
        """One for each request, by name."""
        return {span.name: span for span in self.all() if span.kind is SpanKind.SERVER}

    def failed(self) -> list[tuple[str, list[str]]]:
        """Names of the spans with an error or an exception, and the names of their events."""
        return [
            (span.name, [event.name for event in span.events])
            for span in self.all()
            if span.status.status_code is StatusCode.ERROR or span.events
        ]


# For each request, the part of its response that is read before the client leaves.
REQUESTS = {
    "/working": b"",
    "/silent": b"first",
    "/ticking": b"first",
    "/file": b"\r\n\r\n",
}


def application(gate: Gate, file: Any, **options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/working")
    async def working():
        await gate.wait()
        return {"worked": True}

    @app.get("/silent")
    async def silent():
        async def parts():
            yield b"first"
            await asyncio.Event().wait()

        return StreamingResponse(parts())

    @app.get("/ticking")
    async def ticking():
        async def parts():
            yield b"first"
            while True:
                yield b"x"
                await asyncio.sleep(0.001)

        return StreamingResponse(parts())

    @app.get("/file")
    async def large():
        return FileResponse(file)

    @app.get("/fails")
    async def fails():
        raise ZeroDivisionError("on purpose")

    @app.get("/fails-late")
    async def fails_late():
        async def parts():
            yield b"first"
            raise ZeroDivisionError("on purpose, too")

        return StreamingResponse(parts())

    return app


def by_instrumentation_of_fastapi(app: FastAPI, spans: Spans) -> Any:
    FastAPIInstrumentor.instrument_app(app, tracer_provider=spans.provider)
    return app


def by_middleware(app: FastAPI, spans: Spans) -> Any:
    return OpenTelemetryMiddleware(app, tracer_provider=spans.provider)


def requests_whose_clients_leave(running: Running, gate: Gate) -> None:
    """Begin each of REQUESTS and reset it; let the application that works meanwhile answer."""
    socks = []
    for path, first in REQUESTS.items():
        sock = running.connect(receive_buffer=4096)
        sock.sendall(get(path))
        read_to(sock, first)
        socks.append(sock)
    wait_until(lambda: gate.reached)
    for sock in socks:
        reset(sock)
    wait_until(lambda: not running.context.connections)
    gate.open(running)
    wait_until(lambda: not running.context.cycles)


@pytest.fixture
def file(tmp_path) -> Any:
    (tmp_path / "large.bin").write_bytes(bytes(5 * 2**20))
    return tmp_path / "large.bin"


@beside_uvicorn
@pytest.mark.parametrize("instrument", [by_instrumentation_of_fastapi, by_middleware])
def test_only_errors_of_the_application_are_errors(
    serve, file, instrument: Callable[[FastAPI, Spans], Any], complaints
):
    spans, gate = Spans(), Gate()
    running = serve(instrument(application(gate, file), spans))
    requests_whose_clients_leave(running, gate)
    assert set(spans.of_requests()) == {f"GET {path}" for path in REQUESTS}
    assert not spans.failed()
    assert not complaints()

    assert httpx.get(f"{running.url}/fails", trust_env=False).status_code == 500
    with contextlib.suppress(httpx.TransportError):
        httpx.get(f"{running.url}/fails-late", trust_env=False)
    wait_until(lambda: not running.context.cycles)
    assert {"exception"} == {event for _, events in spans.failed() for event in events}
    assert {name for name, _ in spans.failed()} >= {"GET /fails", "GET /fails-late"}


@beside_uvicorn
def test_spans_of_fastapi_itself_name_the_client(serve, file, complaints):
    """FastAPI counts a response as failed if its client has not waited, and gives that reason."""
    spans, gate = Spans(), Gate()
    telemetry = {"tracer_provider": spans.provider}
    running = serve(application(gate, file, telemetry=telemetry))
    requests_whose_clients_leave(running, gate)
    served = spans.of_requests()
    reasons = {name: span.attributes.get("error.type") for name, span in served.items()}
    assert reasons == {
        "GET /working": None,
        "GET /silent": "ConnectionError",
        "GET /ticking": "ConnectionError",
        "GET /file": "ConnectionError",
    }
    assert not complaints()
    assert httpx.get(f"{running.url}/fails", trust_env=False).status_code == 500
    wait_until(lambda: not running.context.cycles)
    failed = spans.of_requests()["GET /fails"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "ZeroDivisionError"
