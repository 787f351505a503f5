"""--on-worker-start and --on-worker-exit."""

from __future__ import annotations

import os
import re
import signal
import urllib.request

import pytest
from load import APP, ask, workers
from process import ROOT, Command
from support import PATIENCE, wait_until

HOOKS = """
import os

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def start(number, pid):
    say("start", number, pid == os.getpid(), pid)

def end(number, pid, status):
    say("end", number, pid, status, os.getpid())

def fail(*arguments):
    raise RuntimeError("no hook today")

not_a_function = 1
"""
BOTH = ["--on-worker-start", "hooks:start", "--on-worker-exit", "hooks:end"]
METRICS = """
import os
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

alive = Gauge("alive", "Workers", multiprocess_mode="liveall")
alive.set(1)

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    body = b"%d 1" % os.getpid()
    if scope["path"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        body = generate_latest(registry)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
"""
DEPLOYMENT = (ROOT / "docs/deployment.md").read_text()


@pytest.fixture(autouse=True)
def hooks(folder):
    (folder / "hooks.py").write_text(HOOKS)


@pytest.mark.parametrize("how", [[], ["--workers", "2"], ["--workers", "2", "--preload"]])
def test_hooks_are_called_in_the_worker_and_in_the_supervisor(start, how):
    command = start(*BOTH, *how)
    url = command.url()
    count = 2 if how else 1
    first = workers(command, count)
    for number, pid in enumerate(first, 1):
        assert f"start {number} True " in command.stdout
        assert f"True {pid}\n" in command.stdout
    os.kill(first[0], signal.SIGKILL)
    command.saw(f" {first[0]} -9 {command.process.pid}\n")
    (new,) = set(workers(command, count + 1)) - set(first)
    wait_until(lambda: ask(url) != first[0])
    command.stop()
    assert f"{new} 0 {command.process.pid}\n" in command.stdout  # one that was told to stop
    lines = command.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("start", "end"))].count(
        "end"
    ) == (count + 1)


def test_start_comes_before_the_application_and_its_lifespan(start, folder):
    (folder / "main.py").write_text("print('imported', flush=True)\n" + APP)
    command = start("--on-worker-start", "hooks:start")
    command.url()
    command.stop()
    places = [command.stdout.index(text) for text in ("start 1", "imported", "lifespan.startup")]
    assert places == sorted(places)


def test_exception_at_start_is_a_failed_start(start, folder):
    command = start("--workers", "2", "--on-worker-start", "hooks:fail")
    assert command.wait() == 3
    assert 'on_worker_start, "hooks:fail", failed:\n' in command.stderr
    assert 'hooks.py", line ' in command.stderr
    assert "RuntimeError: no hook today" in command.stderr
    assert "A worker could not start" in command.stderr


def test_exception_at_the_end_is_logged_and_changes_nothing(start):
    command = start("--on-worker-exit", "hooks:fail")
    url = command.url()
    (first,) = workers(command, 1)
    os.kill(first, signal.SIGKILL)
    command.saw("RuntimeError: no hook today")
    assert "Exception in on_worker_exit\nTraceback" in command.stderr
    assert ask(url) == workers(command, 2)[1]
    command.stop()
    assert command.stderr.count("RuntimeError: no hook today") == 2


@pytest.mark.parametrize("option", ["--on-worker-start", "--on-worker-exit"])
@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ("hooks", 2, "'hooks' given, expected MODULE:FUNCTION"),
        ("hooks:strat", 3, 'Attribute "strat" not found in module "hooks".'),
        ("hoks:start", 3, 'Could not import module "hoks". Did you mean "hooks"?'),
        ("hooks:not_a_function", 3, '"hooks:not_a_function" is not callable'),
    ],
)
def test_hook_that_cannot_be_used(start, option, given, status, said):
    command = start(option, given)
    assert command.wait() == status
    assert said in re.sub(r"\s+", " ", command.stderr)


def test_gauges_of_a_dead_worker_go_with_prometheus_client(folder):
    """As docs/deployment.md shows it."""
    (folder / "main.py").write_text(METRICS)
    documented = re.search("```python\n(from prometheus_client.*?)```", DEPLOYMENT, re.DOTALL)
    (folder / "hooks.py").write_text(documented[1])
    (folder / "metrics").mkdir()
    arguments = ["main:app", "--port", "0", "--workers", "2"]
    arguments += ["--on-worker-exit", "hooks:worker_exit"]
    env = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics")}
    with Command(*arguments, cwd=folder, env=env) as command:
        url = command.url()

        def pids():
            with urllib.request.urlopen(f"{url}/metrics", timeout=PATIENCE) as answer:
                return set(re.findall(r'alive{pid="(\d+)"} 1.0', answer.read().decode()))

        first = wait_until(lambda: found if len(found := pids()) == 2 else None)
        dead = min(first)
        os.kill(int(dead), signal.SIGKILL)
        second = wait_until(lambda: found if len(found := pids() - {dead}) == 2 else None)
        assert dead not in pids()
        assert second & first == first - {dead}
        command.stop()
    assert [path.name for path in (folder / "metrics").iterdir() if "live" in path.name] == []
