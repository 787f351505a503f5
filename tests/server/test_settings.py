"""Options from files, and `thestral check`: precedence, spelling, errors, output."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from thestral.cli import main
from thestral.config import Config, options

APP = """
events = []

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    events.append("start")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    events.append("stop")
    await send({"type": "lifespan.shutdown.complete"})

async def failing(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})

async def raising(scope, receive, send):
    await receive()
    raise RuntimeError("no database")
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Function (*arguments) that runs `thestral check` in a directory with an application."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("THESTRAL_", "UVICORN_")):
            monkeypatch.delenv(name)
    (tmp_path / "checked.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments: str, **environment: str):
        return CliRunner().invoke(main, ["check", *arguments], env=environment)

    return run


def shown(result, name: str) -> str:
    """Return an option's line: value and source."""
    (line,) = [line for line in result.output.splitlines() if line.startswith(f"{name} = ")]
    return line.removeprefix(f"{name} = ")


def test_each_source_and_their_order(check, tmp_path):
    (tmp_path / "thestral.toml").write_text(
        'app = "checked:app"\nport = 1\nbacklog = 1\nws-max-size = 1\ntimeout_body = 1\n'
    )
    result = check("--port", "4", THESTRAL_PORT="3", UVICORN_BACKLOG="2", THESTRAL_TIMEOUT_BODY="3")
    assert result.exit_code == 0, result.output
    assert shown(result, "port") == "4  (command line)"
    assert shown(result, "backlog") == "2  (environment)"
    assert shown(result, "timeout_body") == "3.0  (environment)"
    assert shown(result, "ws_max_size") == "1  (thestral.toml)"
    assert shown(result, "timeout_head") == "10.0  (default)"
    assert shown(result, "app") == "'checked:app'"


def test_project_file_counts_without_a_file_of_our_own(check, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.thestral]\nport = 1\n")
    assert shown(check("checked:app"), "port") == "1  (pyproject.toml)"
    (tmp_path / "thestral.toml").write_text("backlog = 1\n")
    assert shown(check("checked:app"), "port") == "8000  (default)"


def test_project_file_without_our_table_is_no_source(check, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.other]\nport = 1\n")
    result = check("checked:app")
    assert result.exit_code == 0
    assert "pyproject" not in result.output


def test_file_by_name(check, tmp_path):
    (tmp_path / "other.toml").write_text('header = ["X-A: 1", "X-B: 2"]\nserver_header = false\n')
    result = check("checked:app", "--config", "other.toml")
    assert shown(result, "headers") == "[('X-A', '1'), ('X-B', '2')]  (other.toml)"
    assert shown(result, "server_header") == "False  (other.toml)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1", "unknown option 'prot'; did you mean 'port'?"),
        ("port = 70000", "70000 given, expected an integer from 0 to 65535"),
        ('port = "x"', "'--port': 'x' given, expected an integer from 0 to 65535"),
        ("port = 1.5", "'--port': 1.5 given, expected an integer from 0 to 65535"),
        ("port = true", "'--port': True given, expected an integer from 0 to 65535"),
        ("host = 5", "'--host': [5] given, expected a string or a list of strings"),
        ("reload-dir = [5]", "'--reload-dir': [5] given, expected a path or a list of paths"),
        ("uds-permissions = 660", "'--uds-permissions': 660 given, expected a string"),
        ('access-log = "maybe"', "'--access-log': 'maybe' given, expected True or False"),
        ("port = ", "'thestral.toml' cannot be read: "),
    ],
)
def test_error_in_a_file_is_one_line_and_status_2(check, tmp_path, text, words):
    (tmp_path / "thestral.toml").write_text(text)
    result = check("checked:app")
    assert result.exit_code == 2
    assert words in result.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "written", "text", "value"),
    [
        ("host", '"::1"', "::1", ["::1"]),
        ("ssl_certfile", '"a.pem"', "a.pem", ["a.pem"]),
        ("headers", '"X-A: 1"', "X-A: 1", [("X-A", "1")]),
        ("reload_dirs", '"."', ".", ["."]),
        ("forwarded_allow_ips", '"10.0.0.0/8"', "10.0.0.0/8", "10.0.0.0/8"),
        ("port", "9000", "9000", 9000),
        ("port", '"9000"', "9000", 9000),
        ("timeout_head", "5", "5", 5.0),
        ("workers", '"auto"', "auto", "auto"),
        ("workers", "2", "2", 2),
        ("log_level", '"INFO"', "INFO", "info"),
        ("log_level", "10", "10", 10),
        ("ssl_min_version", "1.3", "1.3", "1.3"),
        ("factory", "true", "true", True),
        ("access_log", '"info"', "info", True),
        ("use_colors", "false", "false", False),
    ],
)
def test_value_is_the_same_from_each_source(
    name, written, text, value, check, tmp_path, monkeypatch
):
    spec = dict(options())[name]
    flag = (spec.flag or name).replace("_", "-")
    seen = [Config("checked:app", **{name: given}) for given in (value, text)]
    monkeypatch.setattr("thestral.cli.show", seen.append)
    check("checked:app", **{f"THESTRAL_{name.upper()}": text})
    if spec.kind is bool:
        check("checked:app", f"--{flag}" if value else f"--no-{flag}")
    else:
        check("checked:app", f"--{flag}", text)
    (tmp_path / "thestral.toml").write_text(f"{flag} = {written}\n")
    check("checked:app")
    assert [getattr(config, name) for config in seen] == [value] * 5


def test_list_in_a_file_where_the_command_line_takes_commas(check, tmp_path):
    (tmp_path / "thestral.toml").write_text('forwarded-allow-ips = ["10.0.0.0/8", "unix"]\n')
    result = check("checked:app")
    assert shown(result, "forwarded_allow_ips") == "['10.0.0.0/8', 'unix']  (thestral.toml)"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("UVICORN_HEADERS", "A:1 B:2", [("A", "1"), ("B", "2")]),
        ("THESTRAL_HEADERS", "A: 1 B:2\n\nC: 3\n", [("A", "1 B:2"), ("C", "3")]),
        ("UVICORN_RELOAD_DIRS", f"a{os.pathsep}b c", ["a", "b c"]),
        ("THESTRAL_RELOAD_DIRS", f"a{os.pathsep}b c\nd", [f"a{os.pathsep}b c", "d"]),
        ("UVICORN_RELOAD_INCLUDES", "*.html *.css", ["*.html", "*.css"]),
        ("UVICORN_RELOAD_EXCLUDES", "a* b*", ["a*", "b*"]),
        ("UVICORN_SSL_CERTFILE", f"a{os.pathsep}b c.pem", [f"a{os.pathsep}b c.pem"]),
    ],
)
def test_lists_in_the_environment(check, name, text, value):
    result = check("checked:app", "--no-reload", **{name: text})
    assert shown(result, name.partition("_")[2].lower()) == f"{value!r}  (environment)"


def test_own_variable_comes_before_uvicorns(check):
    result = check("checked:app", THESTRAL_HEADERS="A: 1 2", UVICORN_HEADERS="B:1 C:2")
    assert shown(result, "headers") == "[('A', '1 2')]  (environment)"


def test_log_configuration_is_a_table(check, tmp_path):
    (tmp_path / "thestral.toml").write_text("[log-config]\nversion = 1\nincremental = true\n")
    result = check("checked:app")
    assert result.exit_code == 0, result.output
    assert shown(result, "log_config") == "{'version': 1, 'incremental': True}  (thestral.toml)"


def test_missing_file_is_status_2(check):
    result = check("checked:app", "--config", "none.toml")
    assert result.exit_code == 2
    assert "'none.toml' cannot be read" in result.output


def test_environment_file_sets_options_and_leaves_what_is_set(check, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEN_BY_APP", "")  # so that it is restored
    monkeypatch.delenv("SEEN_BY_APP")
    monkeypatch.setenv("THESTRAL_PORT", "5")
    monkeypatch.setenv("THESTRAL_BACKLOG", "")
    monkeypatch.delenv("THESTRAL_BACKLOG")
    (tmp_path / "a.env").write_text("THESTRAL_BACKLOG=7\nTHESTRAL_PORT=6\nSEEN_BY_APP='x y'\n")
    result = check("checked:app", "--env-file", "a.env")
    assert shown(result, "backlog") == "7  (environment)"
    assert shown(result, "port") == "5  (environment)"
    assert os.environ["SEEN_BY_APP"] == "x y"


def test_missing_environment_file_is_status_2(check):
    result = check("checked:app", "--env-file", "none.env")
    assert result.exit_code == 2
    assert "'none.env' is not a file" in result.output


def test_check_runs_the_lifespan_and_says_so(check):
    result = check("checked:app")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == "The application starts and stops."
    import checked

    assert checked.events[-2:] == ["start", "stop"]


@pytest.mark.parametrize("app", ["checked:failing", "checked:none", "nowhere:app"])
def test_check_of_an_application_that_does_not_start_is_status_3(check, app):
    result = check(app)
    assert result.exit_code == 3
    assert "starts and stops" not in result.output


@pytest.mark.parametrize(("mode", "status"), [("auto", 0), ("on", 3)])
def test_check_of_a_lifespan_that_raises_ends_as_serving_would(check, mode, status):
    result = check("checked:raising", "--lifespan", mode)
    assert result.exit_code == status
    assert "RuntimeError: no database" in result.output
    assert ("--lifespan on makes this fatal" in result.output) is (mode == "auto")


def test_module_named_check_can_still_be_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check.py").write_text(APP)
    result = CliRunner().invoke(main, ["check", "check:app"])
    assert result.exit_code == 0
    assert "app = 'check:app'" in result.output
