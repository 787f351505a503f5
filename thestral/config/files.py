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
    """Values of options by field name, and the file that they stand in ("" for none).

    Args:
        path: of a TOML file; None looks for thestral.toml, then pyproject.toml, in the working
            directory.

    Raises:
        ConfigError: the file cannot be read, or holds an option that there is not.
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
    """A TOML file; a pyproject.toml given by name is read as it is, so its own table counts."""
    import tomllib  # many have no file

    try:
        with open(path, encoding="utf-8") as file:
            return tomllib.loads(file.read())
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("config", f"{path!r} cannot be read: {error}") from None


def known(table: Any, path: str) -> dict[str, Any]:
    """The table with field names for keys; a key may be spelled as the flag, too."""
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
            import difflib  # not needed where all is well

            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError("config", f"{path} has an unknown option {key!r}{hint}")
        field = names[name]
        one = field in lists and not isinstance(value, list)
        values[field] = [value] if one else value
    return values
