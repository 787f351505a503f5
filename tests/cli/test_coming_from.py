"""docs/coming-from.md: the options of peers, and thestral's in their place."""

from __future__ import annotations

import re
from pathlib import Path

import click
import gunicorn
import pytest
from gunicorn.config import KNOWN_SETTINGS

from thestral.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs/coming-from.md").read_text()
ROW = re.compile(r"^\| (.+?) \| (.+?) \|(.*)\|$", re.MULTILINE)
PEERS = ("gunicorn", "hypercorn", "granian")


def rows(peer: str) -> list[tuple[list[str], list[str], str]]:
    """Return the peer's options, ours, and the remark of each row."""
    table = PAGE.partition(f"| {peer} | thestral |")[2].partition("\n\n")[0]
    return [
        (re.findall(r"`(--[\w-]+)`", theirs), re.findall(r"`(--[\w-]+)`", ours), remark.strip())
        for theirs, ours, remark in ROW.findall(table)
        if not theirs.startswith("-")
    ]


def own() -> set[str]:
    return {
        name
        for option in main.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


@pytest.mark.parametrize("peer", PEERS)
def test_what_takes_their_place_exists(peer):
    known = own()
    assert len(rows(peer)) > 20
    for theirs, ours, _ in rows(peer):
        assert theirs
        assert set(ours) <= known, theirs


@pytest.mark.parametrize("peer", PEERS)
def test_no_option_is_named_twice(peer):
    names = [name for theirs, _, _ in rows(peer) for name in theirs]
    assert len(names) == len(set(names))


@pytest.mark.skipif(gunicorn.version_info[:2] != (27, 0), reason="the page is about gunicorn 27.0")
def test_all_options_of_gunicorn_are_there():
    theirs = {flag for one in KNOWN_SETTINGS for flag in one.cli or () if flag.startswith("--")}
    named = {name for names, _, _ in rows("gunicorn") for name in names}
    assert theirs - named == set(), "gunicorn has these"
