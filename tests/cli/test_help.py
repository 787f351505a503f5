"""--help describes every option."""

from __future__ import annotations

import re

from click.testing import CliRunner

from thestral.cli import main
from thestral.config import Config, options


def whole_help():
    result = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output


def help_text():
    return whole_help().partition("Examples:")[0]


def test_help_fits_a_terminal_of_80_columns():
    """Also the lines that are not wrapped: names, choices, examples."""
    lines = whole_help().splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert max(map(len, lines)) > 70  # the terminal's width is used


def test_help_has_a_heading_for_each_group_of_options():
    headings = re.findall(r"^(\S.*):$", help_text(), re.MULTILINE)
    assert {spec.group for _, spec in options()} <= set(headings)
    assert len(headings) == len(set(headings))


def test_help_shows_every_option_with_unit_default_and_environment():
    # Lines are wrapped, also at hyphens; an entry is indented by two columns.
    entries = [
        re.sub(r"\s+", " ", re.sub(r"-\n\s+", "-", entry))
        for entry in re.split(r"\n(?=  --)", help_text())
    ]
    for name, spec in options():
        flag = "--" + (spec.flag or name).replace("_", "-")
        (entry,) = [entry for entry in entries if entry.startswith(f" {flag} ")]
        assert f"[env: THESTRAL_{name.upper()}]" in entry, name
        assert spec.unit.upper() in entry, name
        default = getattr(Config("a:b"), name)
        if spec.kind is bool:
            assert f"--no-{flag[2:]}" in entry
        elif default not in (None, "", []):
            shown = ", ".join(default) if spec.kind is list else default
            assert f"[default: {shown}]" in entry, name
