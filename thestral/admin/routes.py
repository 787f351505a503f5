"""The paths of the admin port and their answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qsl

from thestral.admin.server import Reply, Request, Response, refusal
from thestral.admin.status import Process, ServerInfo, status_of
from thestral.config import Config
from thestral.logging.loggers import LOG_LEVELS
from thestral.metrics.prometheus import OPENMETRICS_TYPE, TEXT_TYPE, text
from thestral.metrics.snapshot import Snapshot

JSON = "application/json"
OPENMETRICS = "application/openmetrics-text"
PATHS = {
    "/": "GET: this list",
    "/livez": "GET: 200 if no worker is stuck, else 503",
    "/readyz": "GET: 200 if a worker accepts and no shutdown has begun, else 503",
    "/metrics": "GET: metrics for Prometheus, or as OpenMetrics if Accept asks for it",
    "/status": "GET: the server, its options, workers and running requests, as JSON",
    "/reload": "POST: replace the workers one by one, as SIGHUP does",
    "/workers": "POST ?add=1 or ?remove=1: change the number of workers",
    "/log-level": "POST ?level=debug[&logger=NAME]: set the level of the log",
    "/stacks": "POST: the stacks of each worker's threads and tasks",
}
BEFORE_END = ("/reload", "/workers")  # refused once a shutdown has begun
MOST_CHANGED = 64  # workers that one request may add or remove


class Controls(Protocol):
    """The part of a supervisor that the admin port uses."""

    config: Config

    def info(self) -> ServerInfo: ...
    def snapshot(self) -> Snapshot | None: ...
    def reload(self) -> str:
        """Replace the workers; return a sentence for the client that says so."""

    def resize(self, change: int) -> str:
        """Change the number of workers; return a sentence, too."""

    def set_level(self, logger: str, level: str) -> str:
        """Set a level in every process; return a sentence, too."""

    def gather_stacks(self, done: Callable[[str], None]) -> None:
        """Call `done` with the stacks of every worker once they are there."""


class Refused(Exception):  # noqa: N818 (the client's error)
    """A request that cannot be met, with the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.response = refusal(status, reason)


class Routes:
    """Answers the requests to the admin port.

    Args:
        controls: those of the supervisor.
    """

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._gets: dict[str, Callable[[Request], Response]] = {
            "/": lambda request: Response(200, listing()),
            "/livez": lambda request: liveness(controls.info()),
            "/readyz": lambda request: readiness(controls.info()),
            "/metrics": self._metrics,
            "/status": self._status,
        }
        self._posts: dict[str, Callable[[dict[str, str], Reply], None]] = {
            "/reload": self._reload,
            "/workers": self._resize,
            "/log-level": self._set_level,
            "/stacks": self._stacks,
        }

    def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request, at once or later, by calling `reply`."""
        method, path = request.method, request.path
        if path not in PATHS:
            reply(Response(404, f"There is no {path!r:.200} here.\n\n{listing()}"))
        elif path in self._gets:
            if method in ("GET", "HEAD"):
                reply(self._gets[path](request))
            else:
                reply(not_allowed(method, b"GET, HEAD"))
        elif method != "POST":
            reply(not_allowed(method, b"POST"))
        elif not request.is_local:
            reply(refusal(403, "POST is only possible through a Unix socket (--admin unix:PATH)"))
        else:
            try:
                if path in BEFORE_END and self._controls.info().state == "stopping":
                    raise Refused(409, "the server is shutting down")
                self._posts[path](dict(parse_qsl(request.query, keep_blank_values=True)), reply)
            except Refused as refused:
                reply(refused.response)

    def _metrics(self, request: Request) -> Response:
        snapshot = self._controls.snapshot()
        if snapshot is None:
            return refusal(503, "nothing is counted")
        openmetrics = wants_openmetrics(request.accept)
        body = text(snapshot, self._controls.info().version, openmetrics)
        return Response(200, body, OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)

    def _status(self, request: Request) -> Response:
        controls = self._controls
        found = status_of(controls.info(), controls.config, controls.snapshot())
        return Response(200, json.dumps(found) + "\n", JSON)

    def _reload(self, query: dict[str, str], reply: Reply) -> None:
        take(query)
        reply(accepted(self._controls.reload()))

    def _resize(self, query: dict[str, str], reply: Reply) -> None:
        if len(query) != 1 or not query.keys() <= {"add", "remove"}:
            raise Refused(400, "expected ?add=NUMBER or ?remove=NUMBER")
        ((word, given),) = query.items()
        is_number = given.isascii() and given.isdecimal() and len(given) < 4
        if not is_number or not 1 <= int(given) <= MOST_CHANGED:
            raise Refused(400, f"{word}={given!r:.100}: expected a number from 1 to {MOST_CHANGED}")
        reply(accepted(self._controls.resize(int(given) if word == "add" else -int(given))))

    def _set_level(self, query: dict[str, str], reply: Reply) -> None:
        level, logger = take(query, "level", logger="thestral")
        if level.lower() not in LOG_LEVELS:
            expected = ", ".join(LOG_LEVELS)
            raise Refused(400, f"level={level!r:.100}: expected one of {expected}")
        reply(accepted(self._controls.set_level(logger, level.lower())))

    def _stacks(self, query: dict[str, str], reply: Reply) -> None:
        take(query)
        self._controls.gather_stacks(lambda stacks: reply(Response(200, stacks)))


def listing() -> str:
    return "".join(f"{path:<11} {what}\n" for path, what in PATHS.items())


def not_allowed(method: str, allowed: bytes) -> Response:
    reason = f"{method[:20]} is not possible here, but {allowed.decode()} is"
    return refusal(405, reason, [(b"allow", allowed)])


def accepted(what: str) -> Response:
    return Response(202, f"{what}\n")


def take(query: dict[str, str], *needed: str, **optional: str) -> list[str]:
    """Return the values of a query's fields, the needed ones first.

    Raises:
        Refused: a needed field is missing, or a field is unknown.
    """
    missing = [name for name in needed if not query.get(name)]
    unknown = [name for name in query if name not in (*needed, *optional)]
    if missing:
        raise Refused(400, f"{missing[0]!r} is missing")
    if unknown:
        raise Refused(400, f"{unknown[0]!r:.100} is unknown")
    return [query[name] for name in needed] + [query.get(name, optional[name]) for name in optional]


def wants_openmetrics(accept: str) -> bool:
    """Return whether Accept prefers OpenMetrics to Prometheus' text (RFC 9110 section 12.5.1)."""
    weights: dict[str, float] = {}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[kind] = max(weights.get(kind, 0.0), float(weight))
        except ValueError:
            continue
    ours = weights.get(OPENMETRICS, 0.0)
    return ours > 0 and ours >= weights.get("text/plain", 0.0)


def liveness(info: ServerInfo) -> Response:
    """Answer 200 if the server works; after 503 an orchestrator restarts it."""
    stuck = [f"{named(process)} is stuck: {process.why}" for process in stuck_in(info)]
    if stuck:
        return Response(503, "".join(f"not alive: {text}\n" for text in stuck))
    return Response(200, "alive\n")


def readiness(info: ServerInfo) -> Response:
    """Answer 200 if new requests may be sent here, else 503."""
    if info.state == "stopping":
        return Response(503, "not ready: the server is shutting down\n")
    accepting = sum(process.state == "serving" for process in info.processes)
    if accepting:
        return Response(200, f"ready: {accepting} of {info.wanted} workers accept\n")
    states = ", ".join(f"{named(process)} is {process.state}" for process in info.processes)
    return Response(503, f"not ready: no worker accepts ({states or 'there is none'})\n")


def stuck_in(info: ServerInfo) -> list[Process]:
    return [process for process in info.processes if process.state == "stuck"]


def named(process: Process) -> str:
    return f"worker {process.number} [{process.pid}]"
