"""An application that configures logging itself, as it does under uvicorn."""

from __future__ import annotations

import itertools
import json

import httpx
import pytest
from process import PLAIN

HANDLER = {"handlers": ["shown"], "level": "INFO", "propagate": False}
LOGGERS = {
    "the server": {"uvicorn": HANDLER},
    "all": {"uvicorn": HANDLER, "uvicorn.error": {"level": "INFO"}, "uvicorn.access": HANDLER},
    "error and access": {"uvicorn.error": HANDLER, "uvicorn.access": HANDLER},
}
# Leaves disable_existing_loggers at logging's default, which is True.
BY_DICT = """
import logging.config

logging.config.dictConfig({
    "version": 1,
    "formatters": {"own": {"format": "own %(name)s: %(message)s"}},
    "handlers": {"shown": {"class": "logging.StreamHandler", "formatter": "own"}},
    "loggers": LOGGERS,
})
"""
BY_FILE = """
import logging.config

logging.config.fileConfig("log.ini")
"""
IN_LIFESPAN = PLAIN.replace("await receive()\n", "await receive()\n        setup()\n", 1)


def ini(loggers):
    """Return the same configuration for fileConfig()."""
    lines = ["[loggers]", "keys=" + ",".join(["root", *loggers])]
    lines += ["[handlers]", "keys=shown", "[formatters]", "keys=own"]
    lines += ["[formatter_own]", "format=own %(name)s: %(message)s"]
    lines += ["[handler_shown]", "class=StreamHandler", "formatter=own", "args=()"]
    lines += ["[logger_root]", "handlers="]
    for name, settings in loggers.items():
        lines += [f"[logger_{name}]", f"qualname={name}", f"level={settings['level']}"]
        lines += ["handlers=" + ",".join(settings.get("handlers", ()))]
        lines += [f"propagate={int(settings.get('propagate', True))}"]
    return "\n".join(lines)


@pytest.mark.parametrize("names", ["uvicorn", "thestral"])
@pytest.mark.parametrize(
    ("loggers", "how", "where"),
    [*itertools.product(LOGGERS, ["dict", "file"], ["import"]), ("all", "dict", "lifespan")],
)
def test_configuration_of_the_application_shows_all_lines(
    start, tmp_path, loggers, how, where, names
):
    named = json.dumps(LOGGERS[loggers]).replace("uvicorn", names)
    settings = json.loads(named)
    (tmp_path / "log.ini").write_text(ini(settings))
    text = (BY_DICT if how == "dict" else BY_FILE).replace("LOGGERS", repr(settings))
    if where == "lifespan":
        text = "def setup():" + text.replace("\n", "\n    ") + "\n" + IN_LIFESPAN
    else:
        text += PLAIN
    (tmp_path / "main.py").write_text(text)
    command = start()
    assert httpx.get(command.url() + "/asked").status_code == 200
    command.saw("/asked")
    command.stop()
    assert "own uvicorn.error: Application startup complete.\n" in command.stderr
    assert "own uvicorn.error: Shutting down\n" in command.stderr
    (line,) = [line for line in command.err if "/asked" in line]
    assert line.startswith("own uvicorn.access: 127.0.0.1:")
    assert "/asked" not in command.stdout


def test_configuration_that_names_the_access_logger_alone_silences_the_rest(start, tmp_path):
    """uvicorn's lines disappear in the same way."""
    loggers = {"uvicorn.access": HANDLER}
    text = BY_DICT.replace("LOGGERS", repr(loggers))
    (tmp_path / "main.py").write_text(text + PLAIN)
    command = start()
    command.saw("lifespan startup")
    command.stop()
    assert "Application startup complete." not in command.stderr


@pytest.mark.parametrize("name", ["uvicorn.access", "thestral.access"])
def test_application_disables_the_access_log_by_either_name(start, tmp_path, name):
    text = f"import logging\nlogging.getLogger({name!r}).disabled = True\n"
    (tmp_path / "main.py").write_text(text + PLAIN)
    command = start()
    assert httpx.get(command.url() + "/asked").status_code == 200
    command.stop()
    assert "/asked" not in command.stdout + command.stderr
