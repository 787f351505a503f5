"""Arrows between layers go one way: cli -> server -> protocol -> _core -> csrc -> llhttp.

Leaf modules may be imported from any Python layer and import none of cli, server and protocol, but
for types.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A layer may import itself and what stands behind it.
ORDER = [
    "cli",
    "testing",
    "workers",
    "running",
    "supervisor",
    "worker",
    "server",
    "listeners",
    "protocol",
    "leaf",
    "_core",
    "_csrc",
]
LEAVES = {
    *("config", "errors", "types", "logging", "option", "importer", "lifespan", "loop", "sockets"),
    *("certificate", "cpus", "health", "heartbeat", "init", "leaving", "notify", "reloader"),
    *("settings", "signals", "tls", "forwarded", "logconfig", "logformat", "output"),
}
# _core raises thestral.errors: a leaf without imports of its own.
ALLOWED_BACK = {("_core", "thestral.errors")}


def layer_of(module: str) -> str:
    """Layer of a dotted module name."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ("__init__", "__main__"):
        return "cli"  # the package's front: it names the public API
    if parts[1] in LEAVES:
        return "leaf"
    assert parts[1] in ORDER, f"{module}: no layer is named for it"
    return parts[1]


def runtime_imports(tree: ast.AST) -> set[str]:
    """thestral's modules that a file imports when it runs; TYPE_CHECKING blocks do not count."""
    found: set[str] = set()

    class Visitor(ast.NodeVisitor):
        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            found.update(alias.name for alias in node.names if alias.name.startswith("thestral"))

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.level == 0, f"line {node.lineno}: a relative import hides its layer"
            if node.module == "thestral":
                found.update(f"thestral.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("thestral."):
                found.add(node.module or "")

    Visitor().visit(tree)
    return found


def cython_imports(text: str) -> set[str]:
    pattern = r"^\s*from (thestral[\w.]*) c?import|^\s*c?import (thestral[\w.]*)"
    assert not re.search(r"^\s*from \.", text, re.MULTILINE), "a relative import hides its layer"
    return {first or second for first, second in re.findall(pattern, text, re.MULTILINE)}


def arrows(root: Path) -> set[tuple[str, str, str]]:
    """(file, module, imported module) for every import within thestral."""
    found = set()
    for path in sorted((root / "thestral").rglob("*")):
        if path.suffix not in (".py", ".pyx", ".pxd"):
            continue
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text()
        imported = (
            runtime_imports(ast.parse(text)) if path.suffix == ".py" else cython_imports(text)
        )
        found |= {(str(path.relative_to(root)), module, target) for target in imported}
    return found


def public(module: str) -> bool:
    """Whether `from thestral import X` names something of the front, and not a module."""
    return module.split(".")[1:2] == [] or module.split(".")[1] not in LEAVES.union(ORDER)


def violations(root: Path) -> list[str]:
    wrong = []
    for path, module, target in sorted(arrows(root)):
        if public(target):
            if layer_of(module) != "cli":
                wrong.append(f"{path} imports the package's front")
            continue
        here, there = layer_of(module), layer_of(target)
        if (here, target) in ALLOWED_BACK:
            continue
        if ORDER.index(there) < ORDER.index(here):
            wrong.append(f"{path} ({here}) imports {target} ({there})")
    return wrong


def test_arrows_go_one_way():
    assert len(arrows(ROOT)) > 50
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("thestral/protocol/http1.py", "from thestral.process.server import Server"),
        ("thestral/errors.py", "from thestral.protocol import http1"),
        ("thestral/process/server.py", "import thestral.cli"),
        ("thestral/_core/http1.pyx", "from thestral.protocol.context cimport WorkerContext"),
        ("thestral/config.py", "from thestral import Server"),
    ],
)
def test_an_arrow_that_goes_back_is_found(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line + "\n")
    assert len(violations(tmp_path)) == 1


def test_type_checking_imports_are_no_arrows(tmp_path):
    (tmp_path / "thestral").mkdir()
    text = "if TYPE_CHECKING:\n    from thestral.process.server import Server\n"
    (tmp_path / "thestral/errors.py").write_text(text)
    assert violations(tmp_path) == []


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
                assert included == "llhttp" or order.index(included) <= position, (name, included)


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
MAP_LINES = 150  # what can still be read in one go
# Names in backticks: a member of a class, and a file. (`Python.h` is no class.)
MEMBER = re.compile(r"`([A-Z]\w+)\.(\w{2,})[`(]")
FILE = re.compile(r"`((?:thestral|csrc|tests|bench|docs)/[\w/.-]+)`")


def test_architecture_is_a_map():
    assert len(ARCHITECTURE.splitlines()) <= MAP_LINES


def test_architecture_names_every_file():
    tree = ARCHITECTURE.partition("## Tree")[2].partition("## ")[0]
    files = [*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc").glob("*.py")]
    files += [*(ROOT / "thestral").glob("*.py"), *(ROOT / "thestral/protocol").glob("*.py")]
    files += (ROOT / "thestral/_core").glob("*.pyx")
    hidden = {"__init__", "__main__"}  # what every package has
    named = {path.stem for path in files} - hidden
    assert named - set(re.findall(r"\w+", tree)) == set()


def test_architecture_names_the_leaves():
    (listed,) = re.findall(r"Leaf modules\s\(([^)]*)\)", ARCHITECTURE)
    assert set(re.findall(r"\w+", listed)) == LEAVES


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
