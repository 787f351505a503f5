"""The lifespan protocol: what each mode does for every way in which an application may respond."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging

import pytest

import thestral.process.lifespan
from thestral.errors import LifespanError
from thestral.logging.loggers import error_logger
from thestral.process.lifespan import Lifespan

# Exceptions that an application may raise when it does not know the scope's type.
UNSUPPORTED = [AssertionError, KeyError, TypeError, ValueError, NotImplementedError]


@contextlib.contextmanager
def logged():
    """The records of thestral.error, whatever its level and handlers are."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    level = error_logger.level
    error_logger.setLevel(logging.DEBUG)
    error_logger.addHandler(handler)
    try:
        yield records
    finally:
        error_logger.removeHandler(handler)
        error_logger.setLevel(level)


def outcome(app, mode):
    """Start and stop; return "served", or the message of the error that prevented it."""

    async def life():
        lifespan = Lifespan(app, mode)
        try:
            await asyncio.wait_for(lifespan.startup(), 5)
        except LifespanError as error:
            return str(error)
        await asyncio.wait_for(lifespan.shutdown(), 5)
        return "served"

    return asyncio.run(life())


def tracebacks(records):
    return [record.exc_info[0] for record in records if record.exc_info]


async def complete(scope, receive, send):
    for phase in ("startup", "shutdown"):
        assert await receive() == {"type": f"lifespan.{phase}"}
        await send({"type": f"lifespan.{phase}.complete"})


# --- Scope ----------------------------------------------------------------------------------------


def test_scope_is_as_the_specification_says():
    scopes = []

    async def app(scope, receive, send):
        scopes.append(dict(scope))
        await complete(scope, receive, send)

    assert outcome(app, "on") == "served"
    assert scopes == [
        {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    ]


def test_off_never_calls_the_application():
    async def app(scope, receive, send):
        raise SystemError("called")

    with logged() as records:
        assert outcome(app, "off") == "served"
    assert records == []


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_complete_application_is_served_and_ends_on_its_own(mode):
    ended = []

    async def app(scope, receive, send):
        await complete(scope, receive, send)
        ended.append(True)

    with logged() as records:
        assert outcome(app, mode) == "served"
    assert [record.getMessage() for record in records] == [
        "Waiting for application startup.",
        "Application startup complete.",
        "Waiting for application shutdown.",
        "Application shutdown complete.",
    ]
    assert ended == [True]


# --- Startup --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"message": "DB is down"}, "DB is down"),
        ({"message": ""}, "Application startup failed"),
        ({}, "Application startup failed"),
    ],
)
def test_startup_failed_is_a_failure(mode, message, said):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", **message})

    with logged() as records:
        assert outcome(app, mode) == said
    assert tracebacks(records) == []


def test_raising_behind_startup_failed_is_said_once(caplog):
    """Starlette sends the reason, and then raises the exception as well."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("no database")

    with logged() as records:
        assert outcome(app, "auto") == "no database"
    gc.collect()  # asyncio complains about exceptions that were never retrieved
    assert tracebacks(records) == []
    assert [record for record in caplog.records if record.name == "asyncio"] == []


class Wordless(RuntimeError):
    def __str__(self):
        raise ValueError("no words")


FAILURES = [
    *(kind("no") for kind in (*UNSUPPORTED, RuntimeError, OSError)),
    *(GeneratorExit(), ExceptionGroup("x", [ValueError()]), Wordless()),
    asyncio.CancelledError(),  # a leaking cancel scope; the server itself is not cancelled
]


@pytest.mark.parametrize("raised", FAILURES, ids=lambda exc: type(exc).__name__)
@pytest.mark.parametrize("mode", ["auto", "on"])
def test_raising_after_startup_was_received_is_told_and_fatal_when_on(mode, raised):
    # ASGI: "the server must continue but not send any lifespan events".
    events = []

    async def app(scope, receive, send):
        events.append((await receive())["type"])
        raise raised

    with logged() as records:
        served = outcome(app, mode)
    assert events == ["lifespan.startup"]
    assert tracebacks(records) == [type(raised)]
    told = [(one.levelname, one.getMessage()) for one in records if one.levelno > logging.INFO]
    assert told[0] == ("ERROR", "Exception in lifespan")
    if mode == "auto":
        note = ("WARNING", "Serving without lifespan; --lifespan on makes this fatal.")
        assert (served, told[1:]) == ("served", [note])
        assert records[-1].getMessage() == "Application startup complete."
    else:
        assert (served, told[1:]) == ("Application startup failed", [])


@pytest.mark.parametrize("raised", [SystemExit(0), SystemExit("no database"), KeyboardInterrupt()])
@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("received", [True, False])
def test_asking_for_the_end_of_the_process_ends_the_start(mode, raised, received):
    """It does not mean a lack of support: an unhandled Ctrl-C is also raised in the application."""

    async def app(scope, receive, send):
        if received:
            await receive()
        raise raised

    with logged() as records:
        assert outcome(app, mode) == "Application startup failed"
    (record,) = [record for record in records if record.exc_info]
    assert record.levelname == "ERROR"
    assert record.exc_info[1].__cause__ is raised


@pytest.mark.parametrize("raised", UNSUPPORTED)
def test_raising_before_startup_was_received_is_unsupported_in_auto(raised):
    async def app(scope, receive, send):
        raise raised("http only\nforged line")

    with logged() as records:
        assert outcome(app, "auto") == "served"
    said = {
        KeyError: r"KeyError: 'http only\nforged line'",
    }.get(raised, f"{raised.__name__}: http only")
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("INFO", "Waiting for application startup."),
        # The exception is logged, because start-up code before receive() may have raised it.
        ("INFO", f"The application has no lifespan: it raised {said}"),
        ("INFO", "Application startup complete."),  # uvicorn's words, which scripts look for
    ]


@pytest.mark.parametrize("raised", [*UNSUPPORTED, RuntimeError])
def test_raising_before_startup_was_received_is_a_failure_when_on(raised):
    async def app(scope, receive, send):
        raise raised("http only")

    with logged() as records:
        assert outcome(app, "on") == "Application startup failed"
    assert tracebacks(records) == [raised]


def test_unusual_exception_before_startup_is_served_but_told():
    async def app(scope, receive, send):
        raise RuntimeError("broken")

    with logged() as records:
        assert outcome(app, "auto") == "served"
    assert tracebacks(records) == [RuntimeError]
    assert [record.levelname for record in records] == ["INFO", "ERROR", "WARNING", "INFO"]


@pytest.mark.parametrize(("mode", "served"), [("auto", True), ("on", False)])
@pytest.mark.parametrize("received", [True, False])
def test_returning_without_an_answer_is_unsupported(mode, served, received):
    async def app(scope, receive, send):
        if received:
            await receive()

    with logged() as records:
        assert (outcome(app, mode) == "served") is served
    assert tracebacks(records) == []
    assert ("The application has no lifespan." in [r.getMessage() for r in records]) is served


@pytest.mark.parametrize(
    "message",
    [
        {"type": "lifespan.shutdown.complete"},
        {"type": "lifespan.started"},
        {"type": "nonsense"},
        {"type": ["lifespan.startup.complete"]},
        {},
    ],
)
@pytest.mark.parametrize(
    ("mode", "said"), [("auto", "served"), ("on", "Application startup failed")]
)
def test_another_message_than_the_expected_one_raises(mode, said, message):
    async def app(scope, receive, send):
        await receive()
        await send(message)

    with logged() as records:
        assert outcome(app, mode) == said
    (record,) = [record for record in records if record.exc_info]
    assert record.exc_info[0].__name__ == "LocalProtocolError"
    assert repr(message.get("type")) in str(record.exc_info[1])
    assert "lifespan.startup.complete" in str(record.exc_info[1])


@pytest.mark.parametrize("message", [None, "lifespan.startup.complete", 5, [("type", "x")]])
def test_a_message_that_is_not_a_dict_raises(message):
    async def app(scope, receive, send):
        await receive()
        await send(message)

    with logged() as records:
        assert outcome(app, "auto") == "served"
    (record,) = [record for record in records if record.exc_info]
    assert type(message).__name__ in str(record.exc_info[1])


@pytest.mark.parametrize("answer", ["startup.failed", "shutdown.complete", "shutdown.failed"])
def test_a_lifespan_that_swallows_its_cancellation_is_left_behind(monkeypatch, answer):
    monkeypatch.setattr(thestral.process.lifespan, "FINISH_GRACE", 0.05)
    release = []

    async def app(scope, receive, send):
        await receive()
        if answer != "startup.failed":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": f"lifespan.{answer}"})
        cancelled = 0
        while cancelled < 2:  # by the lifespan, then by the end of the loop
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled += 1
        release.append(True)

    async def life():
        lifespan = Lifespan(app, "auto")
        try:
            await lifespan.startup()
            await lifespan.shutdown()
        except LifespanError:
            return "failed"
        return "served"

    with logged() as records:
        assert asyncio.run(life()) == ("served" if answer == "shutdown.complete" else "failed")
    assert release == [True]
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == [
        "The application's lifespan has not ended although cancelled"
    ]


def test_answering_twice_is_the_applications_fault():
    errors = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        try:
            await send({"type": "lifespan.startup.complete"})
        except Exception as exc:
            errors.append(type(exc).__name__)
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    assert outcome(app, "on") == "served"
    assert errors == ["LocalProtocolError"]


# --- Shutdown -------------------------------------------------------------------------------------


def shutdown_of(step):
    """Shut down an application that has started; return "ended", or the error's message."""

    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        assert await receive() == {"type": "lifespan.shutdown"}
        await step(send)

    async def life():
        lifespan = Lifespan(app, "auto")
        await lifespan.startup()
        try:
            await asyncio.wait_for(lifespan.shutdown(), 5)
        except LifespanError as error:
            return str(error)
        return "ended"

    return asyncio.run(life())


@pytest.mark.parametrize(
    ("message", "said"),
    [({"message": "queue is full"}, "queue is full"), ({}, "Application shutdown failed")],
)
def test_shutdown_failed_is_an_error(message, said):
    async def step(send):
        await send({"type": "lifespan.shutdown.failed", **message})

    assert shutdown_of(step) == said


@pytest.mark.parametrize(
    ("raised", "shown"),
    [(ValueError("mine"), ValueError), (SystemExit(0), RuntimeError), (GeneratorExit(), None)],
)
def test_raising_in_shutdown_is_an_error_with_its_traceback(raised, shown):
    async def step(send):
        raise raised

    with logged() as records:
        assert shutdown_of(step) == "Application shutdown failed"
    assert tracebacks(records) == [shown or type(raised)]


def test_returning_without_an_answer_to_shutdown_is_its_end():
    async def step(send):
        return

    with logged() as records:
        assert shutdown_of(step) == "ended"
    assert tracebacks(records) == []


@pytest.mark.parametrize(("raised", "shown"), [(None, []), (RuntimeError("mine"), [RuntimeError])])
def test_lifespan_that_ends_while_serving_is_told_at_shutdown(raised, shown):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        if raised:
            raise raised

    with logged() as records:
        assert outcome(app, "auto") == "served"
    assert tracebacks(records) == shown


# --- State and context ----------------------------------------------------------------------------

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_each_request_has_a_shallow_copy_of_the_state(serve):
    pool = ["connection"]
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = pool
            await complete(scope, receive, send)
            return
        seen.append((dict(scope["state"]), scope["state"]["pool"] is pool))
        scope["state"]["mine"] = True
        scope["state"]["pool"].append("more")
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    server = serve(app, lifespan="on")
    for _ in range(2):
        server.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    # Each request has its own dictionary, with the same object in it.
    assert seen == [({"pool": pool}, True), ({"pool": pool}, True)]
    assert pool == ["connection", "more", "more"]


def test_requests_have_the_state_that_was_there_before_the_lifespan_raised(serve):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            scope["state"]["before"] = "kept"
            await receive()
            raise RuntimeError("no database")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": repr(scope["state"]).encode()})

    answer = serve(app).raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n{'before': 'kept'}")


def test_requests_see_the_context_that_startup_left(serve):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            VARIABLE.set("from lifespan")
            await complete(scope, receive, send)
            return
        before = VARIABLE.get()
        VARIABLE.set("from a request")
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": before.encode()})

    server = serve(app, lifespan="on")
    for _ in range(2):
        answer = server.raw(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer.endswith(b"\r\n\r\nfrom lifespan")


@pytest.mark.parametrize("kind", ["http.response.start", "websocket.accept"])
def test_an_application_that_ignores_its_scope_has_no_lifespan(kind):
    async def app(scope, receive, send):
        await receive()
        await send({"type": kind, "status": 200, "headers": []})

    with logged() as records:
        assert outcome(app, "auto") == "served"
    assert [record.levelname for record in records] == ["INFO", "INFO", "INFO"]
    with logged() as records:
        assert outcome(app, "on") == "Application startup failed"
    assert len(tracebacks(records)) == 1
