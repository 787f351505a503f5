"""Each option's effect on the running command, and the messages when something is wrong."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner
from process import PLAIN, ROOT, Command

import thestral
from thestral.cli import main


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "main.py").write_text(PLAIN)
    return tmp_path


@pytest.fixture
def start(folder):
    """Function (*arguments, env=None) that starts a Command on a free port; ended with the test."""
    commands = []

    def start(*arguments, env=None):
        command = Command(*arguments, "--port", "0", cwd=folder, env=env)
        commands.append(command)
        return command

    yield start
    for command in commands:
        command.__exit__(None, None, None)


def failed(command, status=3):
    """Return the output of a command that could not start, without the line about its process."""
    assert command.wait() == status
    assert "Thestral running" not in command.stderr
    lines = [line for line in command.stderr.splitlines() if "Started server process" not in line]
    return "\n".join(lines)


def raw(url, data):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(data)
        received = b""
        while more := sock.recv(65536):
            received += more
    return received


# --- The application --------------------------------------------------------------------------


def test_example_application(start):
    url = start("--app-dir", str(ROOT / "examples"), "application:app").url()
    assert httpx.get(url).text == '{"Hello":"World"}'
    assert httpx.get(f"{url}/items/5?q=x").text == '{"item_id":5,"q":"x"}'
    assert httpx.get(f"{url}/items/5").text == '{"item_id":5,"q":null}'
    user = {"first_name": "Albus", "last_name": "Dumbledore"}
    reply = httpx.post(f"{url}/user", json=user)
    assert reply.text == '{"first_name":"Albus","last_name":"Dumbledore"}'
    assert httpx.post(f"{url}/user", json={"first_name": "Albus"}).status_code == 422


@pytest.mark.parametrize(
    "arguments", [["main:app"], ["main"], ["main:create_app", "--factory"], ["main:create_app"]]
)
def test_application_is_found(start, arguments):
    command = start(*arguments)
    assert httpx.get(command.url()).text == " /"
    assert ("use --factory" in command.stderr) == (arguments == ["main:create_app"])


def test_application_from_the_environment(start):
    assert httpx.get(start(env={"THESTRAL_APP": "main:app"}).url()).text == " /"


@pytest.mark.parametrize(("loop", "module"), [("asyncio", "asyncio."), ("uvloop", "uvloop")])
def test_loop(start, loop, module):
    assert httpx.get(start("main:app", "--loop", loop).url() + "/loop").text.startswith(module)


# --- Options ----------------------------------------------------------------------------------


def test_banner_and_access_log(start):
    command = start("main:app")
    url = command.url()
    httpx.get(f"{url}/a%20b?c=d")
    command.saw("GET")
    line = r'INFO:     127\.0\.0\.1:\d+ - "GET /a%20b\?c=d HTTP/1\.1" 200 OK\n'
    assert re.search(line, command.stdout)
    assert re.match(r"INFO:     Started server process \[\d+\]\n", command.stderr)
    assert "INFO:     Waiting for application startup.\n" in command.stderr
    assert "INFO:     Application startup complete.\n" in command.stderr
    assert f"INFO:     Thestral running on {url} (Press CTRL+C to quit)\n" in command.stderr
    assert "\x1b[" not in command.stdout + command.stderr  # no colours in a pipe


def test_no_access_log(start):
    command = start("main:app", "--no-access-log")
    httpx.get(command.url())
    command.process.terminate()
    assert command.wait() == 0
    assert "GET" not in command.stdout


def test_log_level(start):
    command = start("main:app", "--log-level", "error")
    command.saw("lifespan startup")
    command.process.terminate()
    assert command.wait() == 0
    assert command.stderr == ""


def test_headers_of_the_server(start):
    arguments = ["--header", "X-Served-By: a", "--header", "x-served-by:b"]
    headers = httpx.get(start("main:app", *arguments).url()).headers
    assert headers.get_list("x-served-by") == ["a", "b"]
    assert headers["server"] == "thestral"
    assert "date" in headers


def test_no_server_and_no_date_header(start):
    headers = httpx.get(start("main:app", "--no-server-header", "--no-date-header").url()).headers
    assert "server" not in headers
    assert "date" not in headers


def test_root_path(start):
    url = start("main:app", "--root-path", "/api").url()
    assert httpx.get(f"{url}/x").text == "/api /api/x"
    assert httpx.get(f"{url}/api/x").text == "/api /api/x"


def test_host(start):
    assert start("main:app", "--host", "127.0.0.2").url().startswith("http://127.0.0.2:")


@pytest.mark.parametrize(
    ("option", "request_head", "status"),
    [
        ("--limit-request-line=20", b"GET /67890 HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("--limit-request-line=20", b"GET /6789012 HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (
            "--limit-header-size=30",
            b"GET / HTTP/1.1\r\nHost: a\r\nx: 345678901234567\r\n\r\n",
            431,
        ),
        ("--limit-header-count=1", b"GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\r\n", 431),
        ("--limit-request-body=3", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", 413),
        ("--timeout-head=0.1", b"GET / HTTP/1.1\r\n", 408),
        ("--timeout-body=0.1", b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", 408),
        ("--timeout-keep-alive=0.1", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    ],
)
def test_limits_and_timeouts(start, option, request_head, status):
    """Each response is read until the connection ends, because each option here ends it."""
    extra = ["--timeout-keep-alive=0.1"] if status == 200 else []
    answer = raw(start("main:app", option, *extra).url(), request_head)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_timeout_write(start, folder):
    big = "await send({'type': 'http.response.body', 'body': bytes(1 << 26)})"
    (folder / "big.py").write_text(
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    await send({'type': 'http.response.start', 'status': 200})\n"
        f"    {big}\n"
    )
    host, port = start("big:app", "--timeout-write=0.1").url().removeprefix("http://").split(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(10)
        sock.connect((host, int(port)))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        poll = select.poll()
        poll.register(sock, select.POLLERR | select.POLLHUP)
        assert poll.poll(10_000), "the server still waits for a client that does not read"


def test_environment_variable_of_thestral_beats_that_of_uvicorn(start):
    env = {"THESTRAL_ROOT_PATH": "/ours", "UVICORN_ROOT_PATH": "/theirs"}
    assert httpx.get(start("main:app", env=env).url()).text == "/ours /ours/"
    env = {"UVICORN_ROOT_PATH": "/theirs", "UVICORN_SERVER_HEADER": "0"}
    answer = httpx.get(start("main:app", env=env).url())
    assert answer.text == "/theirs /theirs/"
    assert "server" not in answer.headers


def test_command_line_before_environment(start):
    command = start("main:app", "--root-path", "/line", env={"THESTRAL_ROOT_PATH": "/env"})
    assert httpx.get(command.url()).text == "/line /line/"


@pytest.mark.parametrize("mode", ["on", "auto", "off"])
def test_lifespan(start, mode):
    command = start("main:app", "--lifespan", mode)
    command.url()
    command.process.terminate()
    assert command.wait() == 0
    ran = "" if mode == "off" else "lifespan startup\nlifespan shutdown\n"
    assert command.stdout == ran


# --- Help -------------------------------------------------------------------------------------


def run(*arguments, cwd):
    with Command(*arguments, cwd=cwd) as command:
        status = command.wait()
    return status, command.stdout, command.stderr


def test_help(folder):
    status, out, err = run("--help", cwd=folder)
    assert (status, err) == (0, "")
    for text in (
        "Binding:", "Application:", "HTTP:", "Limits:", "Timeouts:", "Logging:",
        "--port INTEGER", "--timeout-head SECONDS", "--limit-header-size BYTES",
        "THESTRAL_TIMEOUT_HEAD", "[default: 10.0]", "[default: 65536]", "[auto|on|off]",
    ):  # fmt: skip
        assert text in re.sub(r"\s+", " ", out), text


def test_version(folder):
    status, out, _ = run("--version", cwd=folder)
    assert status == 0
    assert re.fullmatch(
        rf"thestral {re.escape(thestral.__version__)} with CPython 3\.\d+\.\d+"
        r" and llhttp 9\.4\.3 on \w+\n",
        out,
    )


def test_without_arguments(folder):
    status, out, err = run(cwd=folder)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: ")
    assert "thestral main:app " in err
    assert len(err.splitlines()) < 15  # all options are in --help


@pytest.fixture
def files(folder, monkeypatch):
    """Files and packages with applications in the working directory."""
    (folder / "src/pkg").mkdir(parents=True)
    (folder / "src/pkg/__init__.py").touch()
    (folder / "src/pkg/main.py").write_text("application = print")
    (folder / "plain").mkdir()
    (folder / "plain/made.py").write_text("def create_app():\n    return print")
    (folder / "plain/other.py").write_text("api = print")
    monkeypatch.chdir(folder)
    for name in ("THESTRAL_APP", "UVICORN_APP"):
        monkeypatch.delenv(name, raising=False)
    return folder


def refused(*arguments, **environment):
    """Return the command's message about a mistake in its arguments."""
    result = CliRunner().invoke(main, arguments, prog_name="thestral", env=environment)
    assert result.exit_code == 2, result.output
    return result.output.splitlines()[-1].removeprefix("Error: ")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("run main:app", "main:app"),
        ("run main.py", "main:app"),
        ("run", "main:app"),
        ("run --workers 2 src/pkg/main.py", "--workers 2 pkg.main:application --app-dir src"),
        ("check run main.py", "check main:app"),
        ("dev main.py", "main:app --reload"),
        ("dev main.py --port 80", "main:app --port 80 --reload"),
        ("dev --reload main.py", "--reload main:app"),
        ("dev", "main:app --reload"),
    ],
)
def test_commands_of_other_tools_get_a_hint(files, typed, right):
    word = "dev" if "dev" in typed else "run"
    (files / word).mkdir()  # a directory of this name is not a module
    assert refused(*typed.split()) == f"There is no command '{word}'. Type: thestral {right}"


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("main.py", "main:app"),
        ("./main.py", "main:app"),
        ("main.py:create_app", "main:create_app --factory"),
        ("src/pkg/main.py", "pkg.main:application --app-dir src"),
        ("src/pkg/main:asgi", "pkg.main:asgi --app-dir src"),
        ("src/pkg", "pkg:NAME --app-dir src"),
        ("plain/made.py", "made:create_app --app-dir plain --factory"),
        ("plain/other.py", "other:NAME --app-dir plain"),
    ],
)
def test_file_in_place_of_a_module_gets_a_hint(files, typed, right):
    said = f"'{typed}' is a path, not a module. "
    assert refused(typed) == f"{said}Type: thestral {right}"
    assert refused("check", typed, "--port", "80") == (
        f"{said}Type: thestral check {right.split()[0]} --port 80{right[len(right.split()[0]) :]}"
    )
    assert refused(THESTRAL_APP=typed) == f"{said}Use this instead: {right}"


def test_file_is_looked_for_in_the_directory_given(files):
    said = refused("pkg/main.py", "--app-dir", "src")
    assert said.endswith("Type: thestral pkg.main:application --app-dir src")
    said = refused("main.py", "--app-dir", "src/pkg")
    assert said.endswith("Type: thestral pkg.main:application --app-dir src/pkg --app-dir src")


def test_module_may_be_called_run(folder):
    (folder / "run.py").write_text("from main import app")
    status, out, _ = run("check", "run", cwd=folder)
    assert (status, out.splitlines()[-1]) == (0, "The application starts and stops.")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (
            "--log-",
            ["--log-format", "--log-timestamps", "--log-file", "--log-config", "--log-level"],
        ),
        ("--log-level de", ["debug"]),
        ("ma", ["main:app", "main:create_app"]),
        ("--ssl-certfile fu", ["fu"]),  # kind "file": the shell completes it
    ],
)
def test_shell_completion(folder, words, completed):
    environment = {
        "_THESTRAL_COMPLETE": "bash_complete",
        "COMP_WORDS": f"thestral {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    result = subprocess.run(
        [sys.executable, "-c", "from thestral.cli import main; main(prog_name='thestral')"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.split(",") for line in result.stdout.split()]
    assert [value for _, value in found] == completed
    assert {kind for kind, _ in found} == {"file" if words.startswith("--ssl") else "plain"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--port", "65536"],
            "'--port': 65536 given, expected an integer from 0 to 65535",
        ),
        (["--port", "http"], "'--port'"),
        (
            ["--timeout-head", "0"],
            "'--timeout-head': 0.0 given, expected a number of seconds above 0",
        ),
        (["--timeout-head", "nan"], "'--timeout-head': nan given"),
        (["--limit-header-count", "-1"], "'--limit-header-count': -1 given, expected a"),
        (["--lifespan", "maybe"], "'maybe' given, expected one of auto, on, off"),
        (["--header", "no colon"], "'--header': 'no colon' given, expected 'Name: Value'"),
        (["--header", "a b: c"], "'--header': 'a b' is not a valid field name"),
        (["--header", "a: b\rc"], "'--header': 'b\\rc' is not a valid field value"),
        (["--root-path", "api"], "'--root-path': 'api' given, expected a path"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_option(folder, arguments, said):
    status, _, err = run("main:app", *arguments, cwd=folder)
    assert status == 2
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


# --- Failed starts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("mian:app", 'ERROR:    Could not import module "mian". Did you mean "main"? (looked in'),
        ("nothing:app", 'ERROR:    Could not import module "nothing". (looked in'),
        (
            "main:ap",
            'Attribute "ap" not found in module "main". Did you mean "app"? It has: app, cr',
        ),
        ("mian.py:app", 'Could not import module "mian.py". Name it without ".py"'),
        (":app", '":app" is not of the form "module:attribute"'),
        ("json:__name__", "'json' is not callable, so it is not an ASGI application"),
        ("json", 'Module "json" has none of app, application, create_app'),
    ],
)
def test_no_application_is_one_line(start, app, said):
    output = failed(start(app))
    assert said in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_na"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("def f():\n    raise RuntimeError('mine')\nf()", "RuntimeError: mine"),
        ("raise SystemExit(4)", "SystemExit: 4"),
    ],
)
def test_fault_in_the_applications_code_shows_that_code_only(start, folder, text, said):
    (folder / "broken.py").write_text(text)
    output = failed(start("broken:app"))
    assert said in output
    assert "broken.py" in output
    assert "importlib" not in output
    assert "importer.py" not in output


def test_factory_that_raises(start, folder):
    (folder / "broken.py").write_text("def make():\n    raise RuntimeError('mine')")
    output = failed(start("broken:make", "--factory"))
    assert "The application factory failed" in output
    assert "RuntimeError: mine" in output


LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        {}
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"served"}})
"""
FAILED = "await send({'type': 'lifespan.startup.failed', 'message': 'DB is down'})"
RAISED = "raise RuntimeError('mine')"


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
@pytest.mark.parametrize(
    ("body", "mode", "said"),
    [
        (FAILED, "auto", "DB is down"),
        (FAILED, "on", "DB is down"),
        (RAISED, "on", "RuntimeError: mine"),
        ("return", "on", "its lifespan ended without an answer"),
        ("raise SystemExit(0)", "auto", "SystemExit: 0"),
    ],
)
def test_lifespan_that_fails(start, folder, body, mode, said, workers):
    (folder / "broken.py").write_text(LIFESPAN.format(body))
    assert said in failed(start("broken:app", "--lifespan", mode, *workers))


@pytest.mark.parametrize(
    ("arguments", "lifespans"), [((), 1), (("--workers", "2"), 2)], ids=["alone", "workers"]
)
def test_lifespan_that_raises_is_served_and_told(start, folder, arguments, lifespans):
    (folder / "broken.py").write_text(LIFESPAN.format(RAISED))
    command = start("broken:app", *arguments)
    answer = raw(command.url(), b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"served")
    command.saw("--lifespan on makes this fatal", times=lifespans)
    command.stop()
    assert command.stderr.count("ERROR:    Exception in lifespan\nTraceback (most ") == lifespans
    assert command.stderr.count("WARNING:  Serving without lifespan; --lifespan on") == lifespans
    assert "application shutdown" not in command.stderr


def test_port_in_use_names_its_owner_and_imports_nothing(folder):
    (folder / "loud.py").write_text("print('imported', flush=True)\napp = print")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        with Command("loud:app", "--port", port, cwd=folder) as command:
            output = failed(command, 1)
    assert f"Port {port} is in use by" in output
    assert f"(PID {os.getpid()})" in output
    assert len(output.splitlines()) == 1
    assert command.stdout == ""


def test_address_of_another_machine(folder):
    with Command("main:app", "--port", "0", "--host", "192.0.2.1", cwd=folder) as command:
        assert "Cannot listen on 192.0.2.1" in failed(command, 1)


# --- Colours ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(folder, env, coloured):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "thestral", "nothing:app"],
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, **env},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    received = b""
    try:
        while data := os.read(ours, 65536):
            received += data
    except OSError:  # a terminal's sign that the other end is closed
        pass
    os.close(ours)
    assert process.wait(10) == 3
    assert (b"\x1b[31mERROR\x1b[0m:" in received) == coloured
    assert b"ERROR" in received
