"""Settings from files: thestral.toml, [tool.thestral] of pyproject.toml, a file of variables."""

from __future__ import annotations

import os
from typing import Any

from thestral.config import options
from thestral.errors import ConfigError
from thestral.logging import error_logger

OWN_FILE = "thestral.toml"
PROJECT_FILE = "pyproject.toml"

files_read: list[str] = []  # in this process; SIGHUP says that it does not read them again


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


def load_environment(path: str) -> None:
    """Set variables from a file of NAME=VALUE lines; those that are set already stay.

    Raises:
        ConfigError: there is no such file, or python-dotenv is not installed.
    """
    try:
        from dotenv import load_dotenv
    except ImportError:
        raise ConfigError(
            "env_file", "needs the python-dotenv package: pip install 'thestral[standard]'"
        ) from None
    if not os.path.isfile(path):
        raise ConfigError("env_file", f"{path!r} is not a file")
    load_dotenv(path)
    files_read.append(path)


def say_not_read_again() -> None:
    """Name the files that a reload does not read, if there are any."""
    if files_read:
        shown = ", ".join(repr(path) for path in dict.fromkeys(files_read))
        error_logger.info("Not read again until the server is started anew: %s", shown)
