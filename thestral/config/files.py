"""Options from files: thestral.toml, or [tool.thestral] in pyproject.toml."""

from __future__ import annotations

import os
from typing import Any

from thestral.config import options
from thestral.config.environment import files_read
from thestral.errors import ConfigError

OWN_FILE = "thestral.toml"
PROJECT_FILE = "pyproject.toml"


def read_settings(path: str | None) -> tuple[dict[str, Any], str]:
    """Return the values of options by field name, and the path of their file ("" for none).

    Args:
        path: a TOML file with options at its top level; None looks for thestral.toml, then for
            [tool.thestral] in pyproject.toml, in the working directory.

    Raises:
        ConfigError: the file cannot be read, or has an unknown option.
    """
    if path is None and os.path.isfile(OWN_FILE):
        path = OWN_FILE
    if path is not None:
        values = known(parse(path), path)
        files_read.append(path)
        return values, path
    if os.path.isfile(PROJECT_FILE):
        table = parse(PROJECT_FILE).get("tool", {}).get("thestral", {})
        values = known(table, PROJECT_FILE)
        if table:
            files_read.append(PROJECT_FILE)
            return values, PROJECT_FILE
    return {}, ""


def parse(path: str) -> dict[str, Any]:
    """Parse a TOML file."""
    import tomllib  # many servers have no file

    try:
        with open(path, encoding="utf-8") as file:
            return tomllib.loads(file.read())
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"{path!r} cannot be read: {error}") from None


def known(table: Any, path: str) -> dict[str, Any]:
    """Return the table with field names as keys. A key may also be written like the flag."""
    if not isinstance(table, dict):
        raise ConfigError("config", f"{path}: [tool.thestral] is not a table")
    names = {"app": "app"}
    lists = set()
    for name, spec in options():
        names[name] = name
        names[spec.flag or name] = name
        if spec.kind is list:
            lists.add(name)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in names:
            import difflib  # only needed for an error

            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError("config", f"{path} has an unknown option {key!r}{hint}")
        field = names[name]
        one = field in lists and not isinstance(value, list)
        values[field] = [value] if one else value
    return values
