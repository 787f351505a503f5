"""Imports go one way: from the command down to C, and never in a circle. Imports for types count,
too: whoever reads a file has to know what they name.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room, which is a package or a module beside them, may import itself and the rooms behind it.
FRONT = "front"  # thestral/__init__.py: it names the public API
ORDER = [
    *("__main__", "cli", FRONT, "testing", "workers", "run", "process", "admin", "metrics"),
    *("protocol", "net", "config", "accelerate", "logging", "errors", "types", "_core", "_csrc"),
    "_compiled",
]
# What the codecs raise; how options are checked, and Config.bind_socket(), which is uvicorn's. None
# of these modules imports what stands in front of the room that imports it.
ALLOWED_BACK = {
    ("_core", "thestral.errors"),
    ("config", "thestral.net.forwarded"),
    ("config", "thestral.net.sockets"),
}
CYTHON_IMPORT = re.compile(
    r"^\s*from (thestral[\w.]*) c?import|^\s*c?import (thestral[\w.]*)", re.M
)


def room_of(module: str) -> str:
    """The room of a dotted module name."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else FRONT
    assert room in ORDER, f"{module}: no room is named for it"
    return room


def modules(root: Path) -> dict[str, list[Path]]:
    """Files of each module: a compiled one has a .pxd and perhaps a .pyi beside its source."""
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "thestral").rglob("*")):
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi"):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found.setdefault(name.removesuffix(".__init__"), []).append(path)
    return found


@functools.cache
def named_in(path: Path) -> frozenset[str]:
    """Dotted names of thestral that a file imports: modules, and what is imported from them."""
    text = path.read_text()
    if path.suffix in (".pyx", ".pxd"):
        assert not re.search(r"^\s*from \.", text, re.M), f"{path}: a relative import"
        return frozenset(first or second for first, second in CYTHON_IMPORT.findall(text))
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.split(".")[0] == "thestral")


def imports(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports. A package stands for its __init__.py, and is imported
    by name only: what Python runs on the way to a module in it does not count.
    """
    known = modules(root)
    return {
        module: {
            name
            for path in paths
            for name in named_in(path)
            if name in known and name != module and not is_way(name, path, known)
        }
        for module, paths in known.items()
    }


def is_way(name: str, path: Path, known: dict[str, list[Path]]) -> bool:
    """Whether a file names a package only on the way to its modules, as in `from package import
    module`.
    """
    below = {other for other in named_in(path) if other.startswith(f"{name}.")}
    return bool(below) and below <= known.keys()


def violations(root: Path) -> list[str]:
    wrong = []
    for module, targets in imports(root).items():
        here = room_of(module)
        wrong += [
            f"{module} imports {target}"
            for target in sorted(targets)
            if ORDER.index(room_of(target)) < ORDER.index(here)
            and (here, target) not in ALLOWED_BACK
        ]
    return wrong


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle; empty if there is none."""
    try:
        graphlib.TopologicalSorter(imports(root)).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_one_way():
    assert sum(len(targets) for targets in imports(ROOT).values()) > 150
    assert violations(ROOT) == []


def test_imports_make_no_circle():
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("thestral/protocol/http1.py", "from thestral.process.server import Server"),
        ("thestral/protocol/http1.py", "from thestral.process import server"),
        ("thestral/errors.py", "from thestral.protocol import http1"),
        ("thestral/process/server.py", "import thestral.cli"),
        ("thestral/_core/http1.pyx", "from thestral.protocol.context cimport WorkerContext"),
        ("thestral/config/__init__.py", "from thestral import Server"),
        (
            "thestral/logging/setup.py",
            "if TYPE_CHECKING:\n    from thestral.config import Config",
        ),
    ],
)
def test_an_import_that_goes_back_is_found(tmp_path, file, line):
    names = ("cli", "process/server", "protocol/http1", "protocol/context", "config/__init__")
    for name in (*(f"thestral/{name}.py" for name in ("__init__", *names)), file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / file).write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


def test_a_circle_is_found(tmp_path):
    (tmp_path / "thestral/net").mkdir(parents=True)
    for here, there in (("a", "b"), ("b", "c"), ("c", "a")):
        text = f"def f():\n    from thestral.net import {there}\n"
        (tmp_path / f"thestral/net/{here}.py").write_text(text)
    assert len(circle(tmp_path)) == 4


@pytest.mark.parametrize("name", ["preamble", "proxy", "tls"])
def test_what_stands_in_front_of_http_does_not_know_what_follows(name):
    """protocols.py does: what a connection speaks next is chosen in one place."""
    protocols = {f"thestral.protocol.{other}" for other in ("http1", "protocols", "proxy", "tls")}
    assert imports(ROOT)[f"thestral.protocol.{name}"] & protocols == set()


# Whose private attributes another class of the same file reads, by the names that they have there.
FRIENDS = {
    "access.py": {"formatter"},  # logging's
    "connection.py": {"cycle"},  # of a Sending
    "poller.py": {"entry"},  # what a Poller keeps on each Watched
}


def test_classes_do_not_reach_into_each_other():
    found = set()
    compiled = [path.with_suffix(".py") for path in (ROOT / "thestral/net").glob("*.pxd")]
    for path in [*(ROOT / "thestral/protocol").glob("*.py"), *compiled]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr):
                owner = ast.unparse(node.value)
                if owner != "self" and owner not in FRIENDS.get(path.name, ()):
                    found.add(f"{path.name}: {owner}.{node.attr}")
    assert found == set()


def test_c_knows_no_python_and_allocates_in_one_place():
    for path in (ROOT / "csrc").glob("*.[ch]"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert "Python.h" not in text, path
        if path.name != "buffer.c":
            assert not re.search(r"\b(malloc|calloc|realloc|free)\(", text), path


def test_c_includes_go_one_way():
    build = (ROOT / "csrc/cffi_build.py").read_text()
    order = [name for line in re.findall(r"^OURS \+?= (.*)$", build, re.M) for name in eval(line)]
    assert sorted(order) == sorted(path.stem for path in (ROOT / "csrc").glob("*.c"))
    for position, name in enumerate(order):
        for suffix in (".h", ".c"):
            text = (ROOT / "csrc" / (name + suffix)).read_text()
            for included in re.findall(r'#include "(\w+)\.h"', text):
                if included not in ("llhttp", "hpack_tables"):  # one is not ours, one has no code
                    assert order.index(included) <= position, (name, included)


def test_c_has_no_globals():
    """A name at the left edge that is neither a function, a type nor constant would be one."""
    for path in (ROOT / "csrc").glob("*.c"):
        for line in path.read_text().splitlines():
            if re.match(r"(static\s+)?[a-z_][\w \*]*\s\*?\w+(\[.*\])?\s*(=.*)?;$", line):
                assert re.match(r"static const |typedef |#", line), f"{path.name}: {line}"


def test_extern_declarations_stand_in_one_file():
    for path in (ROOT / "thestral").rglob("*.p[xy]*"):
        if path.suffix in (".pyx", ".pxd") and path.name != "csrc.pxd":
            assert "cdef extern" not in path.read_text(), path


ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DESIGN = {path: path.read_text() for path in sorted((ROOT / "docs/design").glob("*.md"))}
MAP_LINES = 160  # what can still be read in one go
# Names in backticks: a member of a class, and a file. (`Python.h` is no class.)
MEMBER = re.compile(r"`([A-Z]\w+)\.(\w{2,})[`(]")
FILE = re.compile(r"`((?:thestral|csrc|tests|bench|docs)/[\w/.-]+)`")


def test_architecture_is_a_map():
    assert len(ARCHITECTURE.splitlines()) <= MAP_LINES


def test_architecture_names_every_file():
    tree = ARCHITECTURE.partition("## Tree")[2].partition("## ")[0]
    files = [*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc").glob("*.py")]
    files += [*(ROOT / "thestral").rglob("*.py"), *(ROOT / "thestral").rglob("*.pyx")]
    hidden = {"__init__", "__main__"}  # what every package has
    named = {path.stem for path in files} - hidden
    assert named - set(re.findall(r"\w+", tree)) == set()


def test_architecture_links_each_design_page():
    assert {f"({path.relative_to(ROOT)})" for path in DESIGN} == set(
        re.findall(r"\(docs/design/\w+\.md\)", ARCHITECTURE)
    )


def members() -> dict[str, set[str]]:
    """What each class of thestral defines, or takes from its bases, by the class's name."""
    own: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for path in [*(ROOT / "thestral").rglob("*.py"), *(ROOT / "thestral").rglob("*.pyi")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            names = own[node.name] = set()
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                    names.add(part.name)
                elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    names.add(part.id)
                elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    names.add(part.attr)

    def inherited(name: str) -> set[str]:
        return own.get(name, set()).union(*(inherited(base) for base in bases.get(name, [])))

    return {name: inherited(name) for name in own}


def missing(text: str) -> set[str]:
    """Files, and members of classes, that a document names and that do not exist."""
    known = members()
    found = {
        f"{name}.{member}"
        for name, member in MEMBER.findall(text)
        if member not in known.get(name, set())
    }
    return found | {path for path in FILE.findall(text) if not (ROOT / path).exists()}


@pytest.mark.parametrize("path", [ROOT / "ARCHITECTURE.md", *DESIGN], ids=lambda path: path.stem)
def test_what_a_page_names_exists(path):
    assert missing(path.read_text()) == set()


def test_a_name_that_is_gone_is_found():
    text = "`Server.run` and `Server.walk()`, `HTTP1Stream.cycle`, `csrc/head.c`, `csrc/tail.c`"
    assert missing(text) == {"Server.walk", "csrc/tail.c"}


@pytest.mark.parametrize("path", DESIGN, ids=lambda path: path.stem)
def test_what_a_design_page_says_is_shown_by_something(path):
    table = DESIGN[path].partition("## What shows it")[2]
    named = re.findall(r"`((?:tests|bench)/[\w/]+\.py)`", table)
    assert named  # test_what_a_page_names_exists() looks for them
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`make ([\w-]+)`", table)) <= set(targets)
