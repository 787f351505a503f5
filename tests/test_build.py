"""The build's own promises: llhttp is fetched once and checked, and the sdist carries it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from thestral import _compiled

ROOT = Path(__file__).resolve().parents[1]
LLHTTP = ["LICENSE-MIT", "include/llhttp.h", "src/api.c", "src/http.c", "src/llhttp.c"]


@pytest.fixture
def csrc(tmp_path):
    """A csrc with the pin and the script, without llhttp."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    for name in ("fetch_llhttp.py", "llhttp.txt"):
        shutil.copy(ROOT / "csrc" / name, folder)
    return folder


def fetch(csrc: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(csrc / "fetch_llhttp.py")],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


# An index where nothing listens: no network, without waiting for it.
OFFLINE = {
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
    "PIP_CONFIG_FILE": os.devnull,
}


def test_without_network_one_clear_line(csrc):
    result = fetch(csrc, **OFFLINE)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: cannot fetch llhttp (llhttp.txt): no network")
    assert not (csrc / "llhttp").exists()


def test_with_another_hash_one_clear_line(csrc):
    """The index is a folder with an sdist of the right name and other content."""
    pin = (csrc / "llhttp.txt").read_text().split()
    requirement = next(word for word in pin if word.startswith("httptools=="))
    name, version = requirement.split("==")
    links = csrc.parent / "links"
    links.mkdir()
    inner = csrc.parent / f"{name}-{version}"
    inner.mkdir()
    (inner / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (inner / "setup.py").write_text("from setuptools import setup; setup()\n")
    with tarfile.open(links / f"{name}-{version}.tar.gz", "w:gz") as archive:
        archive.add(inner, inner.name)
    result = fetch(csrc, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(links), PIP_CONFIG_FILE=os.devnull)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "SHA-256 is not the pinned one" in result.stderr
    assert not (csrc / "llhttp").exists()


def test_source_that_is_there_is_left_alone(csrc):
    for name in LLHTTP:
        path = csrc / "llhttp" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    assert fetch(csrc, **OFFLINE).returncode == 0
    assert {(csrc / "llhttp" / name).read_text() for name in LLHTTP} == {"mine"}


def test_half_a_source_is_not_taken_for_one(csrc):
    (csrc / "llhttp").mkdir()
    (csrc / "llhttp" / "LICENSE-MIT").write_text("interrupted")
    assert fetch(csrc, **OFFLINE).returncode == 1


@pytest.mark.timeout(120)
def test_sdist_carries_what_a_build_needs(tmp_path):
    tree = tmp_path / "tree"
    # What Cython has translated already (build/cython) it does not translate again for this.
    shutil.copytree(ROOT / "build/cython", tree / "build/cython", ignore_dangling_symlinks=True)
    ignore = shutil.ignore_patterns(
        ".git", "build", "dist", "*.so", "*.egg-info", "__pycache__", ".*_cache", ".venv", "_csrc.c"
    )
    shutil.copytree(ROOT, tree, ignore=ignore, dirs_exist_ok=True)
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path / "dist")],
        cwd=tree,
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE},
    )
    assert result.returncode == 0, result.stderr
    (sdist,) = (tmp_path / "dist").glob("thestral-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"csrc/llhttp/{name}" for name in LLHTTP} <= names
    for pattern in ("csrc/*.[ch]", "csrc/*.py", "csrc/llhttp.txt", "thestral/**/*.p[xy]*"):
        for path in ROOT.glob(pattern):
            if path.suffix not in (".pyc",):
                assert str(path.relative_to(ROOT)) in names
    assert not [
        name for name in names if name.endswith((".so", ".pyc")) or name == "thestral/_csrc.c"
    ]


def test_every_module_with_a_pxd_is_compiled():
    paths = {path.with_suffix("") for path in (ROOT / "thestral").glob("*/*.pxd")}
    sources = {
        f"{path.parent.name}.{path.name}"
        for path in paths
        if path.with_suffix(".py").exists() or path.with_suffix(".pyx").exists()
    }
    listed = [name for modules in _compiled.MODULES.values() for name in modules]
    assert sorted(listed) == sorted(sources)


def test_compiled_modules_share_an_object_and_differ_in_their_last_names():
    for shared, names in _compiled.MODULES.items():
        assert len({name.partition(".")[2] for name in names}) == len(names)
        files = {importlib.import_module(f"thestral.{name}").__file__ for name in names}
        (file,) = files
        assert Path(str(file)).name.startswith(f"{shared}.")


def test_each_compiled_module_is_found_from_its_own_name():
    (finder,) = [one for one in sys.meta_path if type(one) is _compiled.Finder]
    assert finder.find_spec("thestral.protocol.routes", None) is None  # it is not compiled
    spec = finder.find_spec("thestral.protocol.http1", None)
    assert spec is not None
    assert spec.name == "thestral.protocol.http1"
