"""Which groups are on: what fits, what was asked for, what is required; values of the option."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import child
import httpx
import pytest

from thestral import Config
from thestral.accelerate import fingerprints, groups
from thestral.errors import ConfigError

ALL = groups.FASTAPI
# Ends with the log's lines and the result, as JSON.
TURN_ON = """
import importlib, json, logging, sys
import thestral.accelerate
from thestral.accelerate import fingerprints, groups

lines = []
class Lines(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger("thestral.error").addHandler(Lines())
"""


def turned_on(program, *arguments):
    return json.loads(child.run(TURN_ON + program, *arguments))


def test_nothing_is_imported_unless_asked_for():
    child.run("""
        import sys
        import thestral, thestral.cli, thestral.run
        thestral.Config("main:app")
        assert "thestral.accelerate" not in sys.modules
        thestral.Config("main:app", accelerate="fastapi")
        import thestral.accelerate
        assert not {"fastapi", "starlette", "anyio", "pydantic"} & set(sys.modules)
    """)


def test_all_groups_fit_what_is_installed():
    result, lines = turned_on("print(json.dumps([thestral.accelerate.fastapi(), lines]))")
    assert result == dict.fromkeys(ALL)
    assert not lines


@pytest.mark.parametrize("group", ALL)
def test_each_group_alone(group):
    program = """
before = {name: importlib.import_module(name) for name in sys.argv[2:]}
result = thestral.accelerate.fastapi([sys.argv[1]], require=True)
print(json.dumps([result, list(groups.status())]))
"""
    assert turned_on(program, group) == [{group: None}, [group]]


@pytest.mark.parametrize("group", ALL)
@pytest.mark.parametrize("kind", ["REPLACES", "RELIES_ON"])
def test_changed_code_turns_a_group_off_in_one_line_that_names_it(group, kind):
    """Each name that a group lists, with the fingerprint of other code."""
    program = """
module = groups.module_of(sys.argv[1])
found = []
for name in getattr(module, sys.argv[2]):
    for kept in (groups._groups, groups._code, groups._tested):
        kept.clear()
    groups.tested()[name] = {fingerprints.PYTHON: ["0" * fingerprints.DIGITS]}
    lines.clear()
    originals = [fingerprints.find(one) for one in module.REPLACES]
    result = thestral.accelerate.fastapi([sys.argv[1]])
    same = [fingerprints.find(one) is was for one, was in zip(module.REPLACES, originals)]
    found.append([name, result, lines.copy(), all(same)])
print(json.dumps(found))
"""
    found = turned_on(program, group, kind)
    assert found
    for name, result, lines, untouched in found:
        reason = f"{name} differs from what was tested"
        assert result == {group: reason}
        assert lines == [f"Not accelerated: {group} ({reason})"]
        assert untouched


def test_a_replaced_function_turns_its_group_off():
    """As tracers do, with the attributes of the function that they replace."""
    program = """
import functools
from fastapi.dependencies import utils
original = utils._get_param_model
@functools.wraps(original)
def traced(*args):
    return original(*args)
utils._get_param_model = traced
result = thestral.accelerate.fastapi(["introspection", "telemetry"])
print(json.dumps([result, lines, utils._get_param_model is traced]))
"""
    result, lines, untouched = turned_on(program)
    reason = "fastapi.dependencies.utils:_get_param_model differs from what was tested"
    assert result == {"introspection": reason, "telemetry": None}
    assert lines == [f"Not accelerated: introspection ({reason})"]
    assert untouched


def test_code_that_is_missing():
    program = """
from fastapi.dependencies import utils
import thestral.accelerate.introspection
del utils.get_validation_alias
print(json.dumps([thestral.accelerate.fastapi(["introspection"]), lines]))
"""
    result, lines = turned_on(program)
    reason = "fastapi.dependencies.utils:get_validation_alias is missing"
    assert result == {"introspection": reason}
    assert lines == [f"Not accelerated: introspection ({reason})"]


def test_an_untested_python():
    program = """
groups.PYTHON = "3.99"
print(json.dumps([thestral.accelerate.fastapi(["telemetry"]), lines]))
"""
    result, _ = turned_on(program)
    name = "fastapi.telemetry._asgi:NativeTelemetry.enabled"
    assert result == {"telemetry": f"{name} was not tested with Python 3.99"}


def test_without_fastapi_one_line_for_all():
    program = """
sys.modules["fastapi"] = None
result = thestral.accelerate.fastapi([name for name in groups.FASTAPI if name != "threads"])
print(json.dumps([list(result.values()), lines]))
"""
    reasons, lines = turned_on(program)
    assert all("fastapi" in reason for reason in reasons)
    assert len(lines) == len(set(reasons)) == 2


def test_required_groups():
    program = """
from thestral.errors import AccelerateError
groups.tested()["fastapi.telemetry._api:_unconfigured"] = {}
try:
    thestral.accelerate.fastapi(["telemetry", "introspection"], require=True)
except AccelerateError as error:
    print(json.dumps([str(error), lines, groups.status()]))
"""
    message, lines, status = turned_on(program)
    name = "fastapi.telemetry._api:_unconfigured"
    reason = f"{name} was not tested with Python {fingerprints.PYTHON}"
    assert message == f"Not accelerated: telemetry ({reason})"
    assert not lines
    assert status == {"introspection": None, "telemetry": reason}


def test_a_second_call_adds_groups_and_says_nothing_twice():
    program = """
from fastapi.dependencies import utils
groups.tested()["fastapi.exceptions:RequestValidationError"] = {}
first = thestral.accelerate.fastapi(["introspection", "parameters"])
replaced = utils._get_param_model
second = thestral.accelerate.fastapi()
assert utils._get_param_model is replaced
print(json.dumps([first, second, lines]))
"""
    first, second, lines = turned_on(program)
    reason = first["parameters"]
    assert reason
    assert second == dict.fromkeys(ALL) | {"parameters": reason}
    assert lines == [f"Not accelerated: parameters ({reason})"]


def test_unknown_groups_are_refused():
    with pytest.raises(ValueError, match="tea: no such group, expected some of introspection"):
        groups.turn_on(["tea", "router"])
    assert not groups.status()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("fastapi", (ALL, False)),
        ("fastapi=require", (ALL, True)),
        ("fastapi=router,introspection", (["introspection", "router"], False)),
        ("fastapi=router, require", (["router"], True)),
        ("threads", (("threads",), False)),
        ("threads=require", (("threads",), True)),
    ],
)
def test_values_of_the_option(value, expected):
    assert groups.read(value) == expected
    assert Config("main:app", accelerate=value).accelerate == [value]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("django", "'django' given, expected one of fastapi, threads"),
        ("", "'' given, expected one of fastapi, threads"),
        ("fastapi=", "'' given for fastapi, expected some of introspection, "),
        ("fastapi=tea", "'tea' given for fastapi, expected some of introspection, "),
        ("threads=router", "'router' given for threads, expected some of threads, require"),
    ],
)
def test_refused_values_of_the_option(value, reason):
    with pytest.raises(ConfigError) as caught:
        Config("main:app", accelerate=["threads", value])
    assert caught.value.option == "accelerate"
    assert caught.value.reason.startswith(reason)


PROGRAM = """
import thestral.accelerate.groups as groups
early = dict(groups.status())

from fastapi import APIRouter, FastAPI, WebSocket

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
router = APIRouter(prefix="/inner")


@app.get("/status")
async def status():
    return early


@router.get("/{number}")
async def number(number: int):
    return number


@router.websocket("/talk")
async def talk(websocket: WebSocket):
    await websocket.accept()


app.include_router(router)
below = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
below.add_api_route("/{name}", number, methods=["PUT"])
app.mount("/below", below)
"""


def check(directory, *options):
    command = [sys.executable, "-m", "thestral", "check", "main:app", *options]
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "main.py").write_text(PROGRAM)
    return tmp_path


def test_check_says_which_routes_are_accelerated(directory):
    done = check(directory, "--accelerate", "fastapi=introspection,telemetry")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    at = lines.index("Accelerated: introspection, telemetry")
    assert lines[at + 1 :] == [
        "  GET /status: accelerated",
        "  GET /inner/{number}: accelerated",
        "  APIWebSocketRoute /inner/talk: accelerated",
        "  PUT /below/{name}: accelerated",
        "The application starts and stops.",
    ]


def test_check_names_the_groups_that_leave_a_route_alone(directory):
    done = check(directory, "--accelerate", "fastapi")
    assert done.returncode == 0, done.stderr
    reason = "without parameters, stacks, router (of class APIWebSocketRoute)"
    assert f"  APIWebSocketRoute /inner/talk: {reason}\n" in done.stdout


def test_check_says_why_not(directory, monkeypatch):
    (directory / "sitecustomize.py").write_text(
        "import fastapi.telemetry._api as api\nreal = api._unconfigured\n"
        "api._unconfigured = lambda provider: real(provider)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(directory))
    reason = "fastapi.telemetry._api:_unconfigured differs from what was tested"
    done = check(directory, "--accelerate", "fastapi=introspection,telemetry")
    assert done.returncode == 0, done.stderr
    assert "Accelerated: introspection\n" in done.stdout
    assert f"Not accelerated: telemetry ({reason})\n" in done.stdout
    done = check(directory, "--accelerate", "fastapi=telemetry,require")
    assert done.returncode == 3
    assert done.stderr.endswith(f"ERROR:    Not accelerated: telemetry ({reason})\n")


def test_check_without_the_option_says_nothing(directory):
    assert "ccelerated" not in check(directory).stdout


def test_gunicorns_worker_accelerates_before_it_loads_the_application(directory):
    """The option is in CONFIG_KWARGS of a subclass, as all that gunicorn does not have."""
    (directory / "own.py").write_text(
        "from thestral.workers import ThestralWorker\n"
        "class Worker(ThestralWorker):\n"
        "    CONFIG_KWARGS = {'accelerate': 'fastapi=router,require'}\n"
    )
    options = ["-b", "127.0.0.1:0", "-k", "own.Worker", "--no-control-socket"]
    command = [sys.executable, "-m", "gunicorn", *options, "main:app"]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            for line in process.stderr:
                address = re.search(r"Listening at: (\S+)", line)
                if address:
                    break
            assert address
            assert httpx.get(f"{address[1]}/status", timeout=30).json() == {"router": None}
        finally:
            process.terminate()
