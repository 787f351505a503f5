"""The documents match the code: their tables are generated, commands run, and examples compile."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import trustme
from documents import OPTIONS, REASONS, ROOT, TABLES, UVICORN, is_limit, with_tables
from process import PLAIN, Command
from support import program

from thestral.accelerate.fingerprints import PYTHON, known

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MANUALS = [*DOCUMENTS, *(ROOT / name for name in ("CONTRIBUTING.md", "bench/README.md"))]
NOTES = [*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Each of these takes too long to run here; the tests check that the files and targets exist.
LONG = re.compile(r"make |python bench/|python -m (pytest|venv)|\. \.venv")


def fences(path: Path, *languages: str) -> list[str]:
    """Return the code blocks of a document in these languages."""
    found = FENCE.findall(path.read_text())
    return [text for _, language, text in found if language in languages]


def commands(path: Path) -> list[str]:
    lines = [line for text in fences(path, "sh") for line in text.splitlines()]
    parts = [part for line in lines for part in line.split("  #")[0].split(" && ")]
    return [part.strip() for part in parts if part.strip()]


ALL = sorted({command for path in MANUALS for command in commands(path)})
SERVING = [command for command in ALL if command.startswith("thestral ")]
REQUESTS = [command for command in ALL if re.match("curl .*:8000/", command)]
ADMIN = [command for command in ALL if re.match("curl .*(:9100/|--unix-socket)", command)]
# tests/server/test_deploy_metrics.py runs them
PROMETHEUS = [command for command in ALL if re.match("prometheus |curl .*:9090/", command)]
PIP = [command for command in ALL if command.startswith("pip install ")]
KNOWN = {*SERVING, *REQUESTS, *ADMIN, *PROMETHEUS, *PIP}
REST = [command for command in ALL if command not in KNOWN and not LONG.match(command)]


@pytest.mark.parametrize("file", TABLES)
def test_tables_are_what_make_readme_writes(file):
    text = (ROOT / file).read_text()
    assert with_tables(file, text) == text


def test_every_limit_has_its_reason():
    assert {name for name in OPTIONS if is_limit(name)} == set(REASONS)


def test_every_option_of_uvicorns_that_we_have_is_compared():
    ours_alone = set(OPTIONS) - set(UVICORN)
    assert not ours_alone & {"host", "port", "workers"}  # the table is not empty
    assert set(UVICORN) <= {*OPTIONS, "env_file"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with the files that the commands expect: application, hooks, certificates,
    examples.
    """
    path = tmp_path_factory.mktemp("documents")
    hooks = [
        text for text in fences(ROOT / "docs/deployment.md", "python") if "worker_exit" in text
    ]
    (path / "hooks.py").write_text("".join(hooks))
    (path / "main.py").write_text(PLAIN)
    certificate = trustme.CA().issue_cert("localhost")
    certificate.cert_chain_pems[0].write_to_path(str(path / "fullchain.pem"))
    certificate.private_key_pem.write_to_path(str(path / "privkey.pem"))
    (path / "examples").symlink_to(ROOT / "examples")
    return path


@pytest.mark.parametrize("command", SERVING)
def test_command_serves(folder, tmp_path, command):
    arguments = shlex.split(command)[1:]
    if arguments[0] == "top":
        return  # tests/admin/test_top.py runs it in a terminal
    if "--accelerate" in arguments and not known()["fastapi.routing:request_response"].get(PYTHON):
        pytest.skip(f"thestral.accelerate does not know Python {PYTHON} yet")
    if arguments[0] == "check":
        with Command(*arguments, cwd=folder) as process:
            assert process.wait() == 0, process.stderr
        return
    if "--uds" in arguments:
        place = arguments.index("--uds") + 1
        arguments[place] = str(tmp_path / "app.sock")
    else:
        arguments += ["--port", "0"]  # the last --port counts
    if "--admin" in arguments:
        arguments[arguments.index("--admin") + 1] = "127.0.0.1:0"
    if "auto" in arguments:
        arguments[arguments.index("auto")] = "2"  # auto depends on the machine
    env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    with Command(*arguments, cwd=folder, env=env) as process:
        process.saw("Thestral running on ")
        process.process.terminate()
        assert process.wait() == 0, process.stderr
        assert "ERROR" not in process.stderr
        assert "WARNING" not in process.stderr


def test_example_answers_as_the_readme_says(folder):
    readme = ROOT / "README.md"
    asked = [command for command in commands(readme) if command.startswith("curl ")]
    answers = dict(zip(asked, "".join(fences(readme, "json")).splitlines(), strict=True))
    with Command("--app-dir", "examples", "application:app", "--port", "0", cwd=folder) as process:
        url = process.url()
        for command in REQUESTS:
            arguments = shlex.split(command.replace("http://127.0.0.1:8000", url))[1:]
            result = subprocess.run(
                [program("curl"), *arguments, "--fail", "--silent"], capture_output=True, text=True
            )
            assert (result.returncode, result.stdout) == (0, answers[command])


@pytest.mark.parametrize("command", ADMIN)
def test_the_admin_port_answers(folder, tmp_path, command):
    arguments = shlex.split(command)
    if "--unix-socket" in arguments:
        place = str(tmp_path / "admin")
        arguments[arguments.index("--unix-socket") + 1] = place
        options = ["--admin", f"unix:{place}"]
    else:
        options = ["--admin", "127.0.0.1:0"]
    with Command("main:app", "--port", "0", *options, cwd=folder) as process:
        process.url()
        address = re.search(r"Admin port on (\S+)", process.stderr)[1]
        arguments = [word.replace("http://127.0.0.1:9100", address) for word in arguments]
        asked = [program("curl"), *arguments[1:], "--fail", "--silent"]
        assert subprocess.run(asked, capture_output=True).returncode == 0


@pytest.mark.parametrize("command", PIP)
def test_packages_that_pip_installs_exist(command):
    for word in shlex.split(command)[2:]:
        named = re.fullmatch(r"(?:-e|\.|thestral)(?:\[([\w,]+)\])?", word)
        assert named, word
        extras = set((named[1] or "").split(",")) - {""}
        assert extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("command", [command for command in ALL if LONG.match(command)])
def test_files_and_targets_of_long_commands_exist(command):
    words = shlex.split(command)
    if words[0] == "make":
        dry = [program("make"), "--dry-run", *words[1:]]
        assert subprocess.run(dry, cwd=ROOT, capture_output=True).returncode == 0
    elif words[1].startswith("bench/"):
        assert (ROOT / words[1]).is_file()


@pytest.mark.parametrize("command", REST)
def test_other_command_is_one_that_is_known(folder, command):
    """gunicorn with our worker is started as our own commands are."""
    words = shlex.split(command)
    assert words[0] == "gunicorn"
    process = subprocess.Popen(
        [sys.executable, "-m", *words, "--bind", "127.0.0.1:0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("Booting worker" in line for line in lines)
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("path", MANUALS, ids=lambda path: path.stem)
def test_examples_in_python_and_toml_are_well_formed(path):
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    for text in fences(path, "python"):
        lines = text.splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines if line)
        compile("\n".join(line[indent:] for line in lines), str(path), "exec", flags)
    for text in fences(path, "toml"):
        tomllib.loads(text)


@pytest.mark.parametrize("path", [*MANUALS, ROOT / "SECURITY.md", ROOT / "ARCHITECTURE.md"])
def test_options_and_files_that_a_document_names_exist(path):
    text = path.read_text()
    known = {"--" + (spec.flag or name).replace("_", "-") for name, spec in OPTIONS.items()}
    known |= {flag.replace("--", "--no-", 1) for flag in known}
    known |= {"--help", "--version", "--config", "--env-file"}
    known |= {"--unix-socket", "--once", "--interval", "--json"}  # of curl, top and ctl
    known |= {"--stop-timeout"}  # of docker
    others = {"CONTRIBUTING.md", "coming-from.md"}  # of tools, and of peers (test_coming_from.py)
    if path.parent != ROOT / "bench" and path.name not in others:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
        assert named <= known, named - known
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", sorted({*MANUALS, *NOTES}), ids=lambda path: path.stem)
def test_lines_are_as_wide_as_those_of_the_code(path):
    """Tables and commands are exempt, because they cannot be wrapped."""
    lines = FENCE.sub("", path.read_text()).splitlines()
    assert [line for line in lines if len(line) > 100 and not line.startswith("|")] == []


@pytest.mark.timeout(120)
def test_documentation_builds_without_a_warning(tmp_path):
    result = subprocess.run(
        [program("make"), "docs", f"PYTHON={sys.executable}", f"SITE={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stderr
    assert (tmp_path / "options/index.html").exists()
