"""Fingerprints change with what code does, and with nothing else."""

from __future__ import annotations

import functools
import json
import types
from pathlib import Path

import child
import pytest

from thestral.accelerate import verify
from thestral.accelerate.fingerprints import FILE, PYTHON, find, fingerprint

SOURCE = """
async def plain(a, b=1, *, c="x"):
    "Documentation."
    def inner():
        return a in {"one", "two", "three"}
    return inner() and b + 2
"""


def function(source=SOURCE, name="plain", file="a.py"):
    made = {}
    exec(compile(source, file, "exec", dont_inherit=True), made)
    return made[name]


def test_same_code_in_another_file_and_process():
    expected = fingerprint(function())
    assert fingerprint(function(file="elsewhere/b.py")) == expected
    program = f"""
        from thestral.accelerate.fingerprints import fingerprint
        made = {{}}
        exec({SOURCE!r}, made)
        print(fingerprint(made["plain"]))
    """
    for seed in ("1", "2"):  # of the order in sets
        assert child.run(program, env={"PYTHONHASHSEED": seed}).strip() == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b + 2", "b + 3"),
        ("b + 2", "b - 2"),
        ("b=1", "b=2"),
        ('c="x"', 'c="y"'),
        ("b=1", "b=1.0"),
        ("*, c", "c"),
        ('"two"', '"2"'),
        ("a in", "b in"),
        ("a in", "a not in"),
        ("inner() and", "inner() or"),
        ("async def", "def"),
        ("return inner()", "try:\n        pass\n    finally:\n        pass\n    return inner()"),
    ],
)
def test_other_code(old, new):
    assert old in SOURCE
    assert fingerprint(function(SOURCE.replace(old, new))) != fingerprint(function())


def test_wrappers_count():
    plain = function()
    expected = fingerprint(plain)

    @functools.wraps(plain)
    def wrapper(*args, **kwargs):
        return plain(*args, **kwargs)

    found = {expected, fingerprint(wrapper), fingerprint(functools.cache(plain))}
    found |= {fingerprint(kind(plain)) for kind in (staticmethod, classmethod, property)}
    found |= {fingerprint(functools.cached_property(plain)), fingerprint(len), fingerprint(max)}
    found |= {fingerprint(functools.partial(plain))}
    assert len(found) == 10


CLASS = """
class Found(Base):
    limit = 3
    def one(self): return 1
    @property
    def two(self): return 2
    @staticmethod
    def three(): return 3
"""


def made_class(source=CLASS, base=dict):
    made = {"Base": base}
    exec(compile(source, "c.py", "exec"), made)
    return made["Found"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("limit = 3", "limit = 4"),
        ("return 1", "return 7"),
        ("return 2", "return 7"),
        ("(): return 3", "(): return 7"),
        ("def one", "def other"),
        ("    @staticmethod\n    def three(): return 3\n", ""),
    ],
)
def test_other_classes(old, new):
    assert old in CLASS
    assert fingerprint(made_class(CLASS.replace(old, new))) != fingerprint(made_class())


def test_classes():
    expected = fingerprint(made_class())
    assert fingerprint(made_class()) == expected
    assert fingerprint(made_class(base=list)) != expected
    assert (
        fingerprint(made_class(CLASS.replace("class Found", '"""D."""\nclass Found'))) == expected
    )


def test_names():
    assert find("json:dumps") is __import__("json").dumps
    assert isinstance(find("pathlib:Path.cwd"), classmethod)
    assert isinstance(find("json.decoder:JSONDecoder.decode"), types.FunctionType)
    with pytest.raises(AttributeError):
        find("json:nothing")
    with pytest.raises(ModuleNotFoundError):
        find("json.nothing:dumps")


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the package whose fingerprints may change."""
    package = Path(verify.__file__).parent
    copy = tmp_path / "verify.py"
    copy.with_name(FILE).write_bytes((package / FILE).read_bytes())
    monkeypatch.setattr(verify, "__file__", str(copy))
    monkeypatch.setattr(verify, "known", dict)
    return copy.with_name(FILE)


@pytest.mark.parametrize(("command", "status"), [(None, 0), ("true", 0), ("false", 1)])
def test_fingerprints_are_kept_if_the_proof_succeeds(file, capsys, command, status):
    before = file.read_bytes()
    file.write_bytes(b"{}\n")
    assert verify.add_if(command) == status
    if status:
        assert file.read_bytes() == b"{}\n"
        assert "are not kept: false has failed" in capsys.readouterr().out
    else:
        names = json.loads(file.read_bytes())
        assert set(names) <= set(json.loads(before))
        assert all(list(found) == [PYTHON] for found in names.values())
