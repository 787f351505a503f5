"""The admin port of a running server."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from urllib.request import urlopen

import pytest
from certificate import Certificate
from load import ask_aside
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from support import read_all, wait_until

from thestral import __version__
from thestral.admin.client import AdminError, ask
from thestral.admin.status import options_of
from thestral.config import Config

# An application whose start waits for a file.
HELD = """
import asyncio, os

async def app(scope, receive, send):
    await receive()
    while not os.path.exists("release"):
        await asyncio.sleep(0.01)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
"""
GETS = ["/", "/livez", "/readyz", "/metrics", "/status"]
POSTS = ["/reload", "/workers?add=1", "/log-level?level=info", "/stacks"]


def raw(address, request):
    """The whole response to the bytes of a request, as text."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address.path)
        sock.sendall(request)
        return read_all(sock).decode()


def status_of(command):
    answer = command.get("/status")
    assert answer.status == 200
    return json.loads(answer.body)


def workers_of(command, state="serving"):
    """PIDs of the workers in a state."""
    return {one["pid"] for one in status_of(command)["workers"] if one["state"] == state}


def test_a_unix_socket_is_for_its_owner_and_removed_at_the_end(operated):
    command = operated()
    path = command.admin().path
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    command.stop()
    assert not os.path.exists(path)


def test_connections_that_are_open_do_not_hold_up_the_end(operated):
    command = operated()
    path = command.admin().path
    with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as answered:
        idle.connect(path)
        answered.connect(path)
        answered.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(answered).endswith(b"alive\n")
        command.stop()
        assert read_all(idle) == b""
    assert "Traceback" not in command.stderr
    assert not os.path.exists(path)


@pytest.mark.parametrize("given", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_on_tcp_everything_can_be_read_and_nothing_changed(operated, given):
    command = operated(admin=given)
    address = command.admin()
    for path in GETS:
        assert command.get(path).status == 200
    for path in POSTS:
        answer = command.post(path)
        assert answer.status == 403
        assert "Unix socket" in answer.body
    command.stop()
    with pytest.raises(AdminError, match="refused"):
        ask(address, "GET", "/livez")


def test_one_worker_gets_a_supervisor(operated):
    command = operated()
    (worker,) = workers_of(command)
    assert worker != command.process.pid


def test_methods_and_paths(operated):
    command = operated()
    address = command.admin()
    listed = command.get("/").body
    for path in GETS:
        assert f"{path} " in listed
        assert ask(address, "HEAD", path).status == 200
        assert "\r\nallow: GET, HEAD\r\n" in raw(
            address, f"POST {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
        assert ask(address, "DELETE", path).status == 405
    for path in POSTS:
        path = path.partition("?")[0]
        assert f"{path} " in listed
        assert "\r\nallow: POST\r\n" in raw(
            address, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        )
    missing = command.get("/metric")
    assert missing.status == 404
    assert listed in missing.body


def test_metrics_are_read_by_prometheus_own_parsers(operated):
    command = operated("--workers", "2")
    for _ in range(5):
        urlopen(command.url()).close()
    plain = wait_until(lambda: counted(command, 5))
    assert f'version="{__version__}"' in plain
    answer = raw(
        command.admin(),
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text;"
        b"version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1\r\n\r\n",
    )
    head, _, body = answer.partition("\r\n\r\n")
    assert "\r\ncontent-type: application/openmetrics-text; version=1.0.0" in head
    assert {"http_server_request_duration_seconds", "thestral_requests"} <= {
        family.name for family in openmetrics(body)
    }


def counted(command, number):
    """The metrics, once this many requests have ended."""
    body = command.get("/metrics").body
    samples = [sample for family in prometheus(body) for sample in family.samples]
    ended = sum(
        sample.value
        for sample in samples
        if sample.name == "http_server_request_duration_seconds_count"
    )
    assert ended <= number
    return body if ended == number else ""


def test_status_shows_the_options_the_workers_and_what_runs(operated, tmp_path):
    command = operated("--workers", "2", env={"THESTRAL_TIMEOUT_HEAD": "7"})
    url = command.url()
    wait_until(lambda: len(workers_of(command)) == 2)
    asking = ask_aside(url, "/wait?secret=1")
    command.saw("/wait")
    found = status_of(command)
    (tmp_path / "release").touch()
    asking.join()
    assert found["version"] == __version__
    assert found["pid"] == command.process.pid
    assert found["state"] == "serving"
    assert found["addresses"] == [url]
    assert found["workers_wanted"] == 2
    options = found["options"]
    assert options["workers"] == {"value": 2, "source": "command line"}
    assert options["timeout_head"] == {"value": 7.0, "source": "environment"}
    assert options["timeout_body"] == {"value": 30.0, "source": "default"}
    workers = found["workers"]
    assert [worker["number"] for worker in workers] == [1, 2]
    assert all(worker["resident_bytes"] > 1_000_000 for worker in workers)
    (request,) = [request for worker in workers for request in worker["running"]]
    assert request["method"] == "GET"
    assert request["path"] == "/wait"
    assert request["client"].startswith("127.0.0.1:")
    assert "secret=1" not in json.dumps(found)


def test_secrets_are_hidden():
    given = {"version": 1, "handlers": {"mail": {"credentials": ["me", "hidden"]}}}
    config = Config("a:b", ssl_keyfile_password="hidden", log_config=given, port=9)
    found = options_of(config)
    assert "hidden" not in json.dumps(found)
    assert found["ssl_keyfile_password"] == {"value": "***", "source": "program"}
    assert found["port"] == {"value": 9, "source": "program"}


def test_readyz_turns_at_sigterm_while_the_port_still_accepts(operated, tmp_path):
    command = operated("--shutdown-delay", "60")
    url = command.url()
    assert command.get("/readyz").body == "ready: 1 of 1 workers accept\n"
    command.signal(signal.SIGTERM)
    wait_until(lambda: command.get("/readyz").status == 503)
    assert command.get("/readyz").body == "not ready: the server is shutting down\n"
    assert command.get("/livez").status == 200
    assert status_of(command)["state"] == "stopping"
    urlopen(url).close()
    for path in ("/reload", "/workers?add=1"):
        assert command.post(path).status == 409
    command.signal(signal.SIGTERM)  # does not wait
    assert command.wait() == 0


def test_without_a_worker_that_accepts_the_server_is_not_ready(operated, tmp_path):
    command = operated("--lifespan", "on", wait=False, app=HELD)
    wait_until(lambda: "Admin port on" in command.stderr)
    answer = command.get("/readyz")
    assert answer.status == 503
    assert answer.body.startswith("not ready: no worker accepts (worker 1 [")
    assert command.get("/livez").status == 200
    assert status_of(command)["state"] == "starting"
    (tmp_path / "release").touch()
    wait_until(lambda: command.get("/readyz").status == 200)


def test_a_stuck_worker_is_seen_and_the_port_answers(operated, tmp_path):
    """Even if it is the only worker."""
    command = operated()
    asking = ask_aside(command.url(), "/block")
    wait_until(lambda: command.get("/livez").status == 503)
    assert "is stuck: its event loop has not turned for" in command.get("/livez").body
    assert command.get("/readyz").status == 503
    (worker,) = status_of(command)["workers"]
    assert worker["state"] == "stuck"
    assert worker["silent_seconds"] > 1
    assert [request["path"] for request in worker["running"]] == ["/block"]
    stacks = command.post("/stacks").body
    assert f"[{worker['pid']}]:\nIt does not answer. What faulthandler sees:\n" in stacks
    assert "in wait_for_gate\n" in stacks
    open(tmp_path / "gate", "w").close()  # lets it go on
    asking.join()
    wait_until(lambda: command.get("/livez").status == 200)
    assert command.get("/readyz").status == 200


def test_a_killed_worker_is_replaced_and_its_requests_stay_counted(operated):
    command = operated()
    for _ in range(3):
        urlopen(command.url()).close()
    wait_until(lambda: counted(command, 3))
    (pid,) = workers_of(command)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: workers_of(command) - {pid})
    assert counted(command, 3)
    assert status_of(command)["worker_ends"]["died"] == 1


def test_reload_replaces_the_workers(operated):
    command = operated("--workers", "2")
    before = wait_until(lambda: set(pids) if len(pids := workers_of(command)) == 2 else None)
    answer = command.post("/reload")
    assert answer.status == 202
    wait_until(lambda: len(workers_of(command) - before) == 2 and not workers_of(command) & before)


def test_workers_are_added_and_removed(operated):
    command = operated()
    assert command.post("/workers?add=2").body == "Workers: 1 before, 3 from now on\n"
    wait_until(lambda: len(workers_of(command)) == 3)
    assert command.post("/workers?remove=64").body == "Workers: 3 before, 1 from now on\n"
    wait_until(lambda: len(status_of(command)["workers"]) == 1)
    for query in ("", "?add=0", "?add=65", "?add=-1", "?add=x", "?add=1&remove=1", "?more=1"):
        assert command.post(f"/workers{query}").status == 400


def test_levels_are_set_in_every_worker_and_in_later_ones(operated):
    command = operated("--workers", "2")
    wait_until(lambda: len(workers_of(command)) == 2)
    assert command.post("/log-level?level=error").status == 202
    pids = workers_of(command)
    assert command.post("/reload").status == 202
    wait_until(lambda: len(workers_of(command) - pids) == 2)
    count = len(command.err)
    for _ in range(10):
        urlopen(command.url()).close()
    wait_until(lambda: counted(command, 10))
    assert command.post("/log-level?level=info&logger=uvicorn.access").status == 202
    wait_until(lambda: len(urlopen(command.url()).read()) and "GET /" in command.stdout)
    assert not any("GET /" in line for line in command.err[count:])
    for query in ("", "?level=loud", "?level=info&more=1", "?logger=a"):
        assert command.post(f"/log-level{query}").status == 400


def test_stacks_show_the_threads_and_tasks_of_every_worker(operated, tmp_path):
    command = operated("--workers", "2")
    wait_until(lambda: len(workers_of(command)) == 2)
    asking = [ask_aside(command.url(), path) for path in ("/wait", "/thread")]
    command.saw("/wait")
    command.saw("/thread")
    wait_until(lambda: "in wait_for_gate" in command.post("/stacks").body)  # of a thread
    found = command.post("/stacks")
    assert found.status == 200
    assert all(f"[{pid}]:\n" in found.body for pid in workers_of(command))
    assert "await asyncio.sleep(0.01)" in found.body  # of a task
    (tmp_path / "release").touch()
    open(tmp_path / "gate", "w").close()
    for each in asking:
        each.join()


def test_a_worker_that_reads_nothing_delays_nobody(operated):
    """Its pipe fills up."""
    command = operated("--workers", "2", "--timeout-worker-healthcheck", "600")
    wait_until(lambda: len(workers_of(command)) == 2)
    pid = min(workers_of(command))
    os.kill(pid, signal.SIGSTOP)
    name = "a" * 4000
    answers = [command.post(f"/log-level?level=info&logger={name}{n}").body for n in range(150)]
    assert any(f"[{pid}], which does not read" in answer for answer in answers)
    stacks = command.post("/stacks").body
    assert f"[{pid}]:\nIt does not answer" in stacks
    assert stacks.count("Task ") >= 2  # of the other one
    assert status_of(command)["state"] == "serving"
    assert command.get("/readyz").status == 200
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: len(workers_of(command)) == 2)
    command.stop()


def test_forked_workers_do_not_hold_the_port(operated):
    """With --preload they inherit every descriptor."""
    command = operated("--preload", admin="127.0.0.1:0")
    address = command.admin()
    (pid,) = workers_of(command)
    os.kill(command.process.pid, signal.SIGSTOP)
    os.kill(pid, 0)
    holders = [
        held
        for descriptor in os.listdir(f"/proc/{pid}/fd")
        if (held := os.readlink(f"/proc/{pid}/fd/{descriptor}")) in listeners_of(address.port)
    ]
    os.kill(command.process.pid, signal.SIGCONT)
    assert listeners_of(address.port)
    assert holders == []
    command.stop()


def listeners_of(port):
    """The names in /proc of the sockets that listen on a port."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {
        f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")
    }


def test_a_port_that_is_in_use_is_named(operated):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        command = operated(admin=f"127.0.0.1:{port}", wait=False)
        assert command.wait() == 1
    assert f"Port {port} is in use" in command.stderr
    assert "Choose another with --admin" in command.stderr


@pytest.mark.parametrize(
    "given", ["9100", "localhost", "unix:", "::1:9100", "a:70000", "http://a:1"]
)
def test_an_invalid_address_is_refused(operated, given):
    command = operated(admin=given, wait=False)
    assert command.wait() == 2
    assert "expected HOST:PORT, [IPV6]:PORT or unix:PATH" in " ".join(command.stderr.split())


def expiries_of(command):
    name = "thestral_tls_certificate_not_after_seconds"
    (family,) = [one for one in prometheus(command.get("/metrics").body) if one.name == name]
    return {sample.labels["file"]: sample.value for sample in family.samples}


def test_ends_of_certificates_follow_their_files(operated, tmp_path):
    certificates = []
    for name, days in (("old", 3), ("new", 90)):
        (tmp_path / name).mkdir()
        expires = datetime.now(UTC) + timedelta(days=days)
        certificates.append(Certificate(tmp_path / name, expires))
    old, new = certificates
    command = operated("--ssl-certfile", old.chain, "--ssl-keyfile", old.key, wait=False)
    command.admin()
    ends = {one.chain: ssl.cert_time_to_seconds(one.not_after) for one in certificates}
    assert expiries_of(command) == {old.chain: ends[old.chain]}
    assert status_of(command)["certificates"] == {old.chain: ends[old.chain]}
    os.replace(new.key, old.key)
    os.replace(new.chain, old.chain)
    wait_until(lambda: expiries_of(command) == {old.chain: ends[new.chain]})
    command.stop()


def test_without_tls_there_is_no_end_of_a_certificate(operated):
    command = operated()
    assert expiries_of(command) == {}
    command.stop()
