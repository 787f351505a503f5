"""Parsing of the access log's format."""

import pytest

from thestral import Config
from thestral.errors import ConfigError
from thestral.logging.format import PLAIN, PRESETS, Atom, is_json, read_format


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%h", [("h", "")]),
        ("%h%s", [("h", ""), ("s", "")]),
        ("[%h] ", [("", "["), ("h", ""), ("", "] ")]),
        ("%>s", [("s", "")]),
        ("%{Referer}i", [("i", "Referer")]),
        ("%(h)s", [("h", "")]),
        ("%({X-A}o)s ms", [("o", "X-A"), ("", " ms")]),
        ("100%% %b", [("", "100"), ("", "%"), ("", " "), ("b", "")]),
        ("%{HOME}e", [("e", "HOME")]),
        ("%{client}x", [("x", "client")]),
        ("no atom", [("", "no atom")]),
    ],
)
def test_atoms(text, expected):
    assert read_format(text) == [Atom(*piece) for piece in expected]


def test_every_plain_atom():
    assert read_format("".join(f"%{letter}" for letter in PLAIN)) == [Atom(c, "") for c in PLAIN]
    assert PLAIN == "hlutrsmUqHbBfaTDMLp"  # what gunicorn documents


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("%z", "%z"),
        ("a %", "%"),
        ("%{a b}i", "%{a b}i"),
        ("%{client}h", "%{client}h"),
        ("%i", "%i"),
        ("%{nothing}x", "%{nothing}x"),
        ("%(h)d", "%(h)d"),
        ("%()s", "%()s"),
        ("50% %h", "% "),
    ],
)
def test_unknown_atom_is_refused(text, shown):
    with pytest.raises(ConfigError) as caught:
        Config("a:b", access_log_format=text)
    assert caught.value.option == "access_log_format"
    assert repr(shown)[1:-1] in caught.value.reason
    assert "%{Field}i" in caught.value.reason
    assert "\n" not in caught.value.reason


def test_empty_format_is_refused():
    with pytest.raises(ConfigError, match="expected a format"):
        Config("a:b", access_log_format="")


def test_presets():
    assert list(PRESETS) == ["uvicorn", "combined", "json"]
    for name in PRESETS:
        assert read_format(name) == read_format(PRESETS[name])
    assert is_json("json")
    assert is_json(' {"path": "%U"}')
    assert not is_json("combined")
