"""deploy/'s files for systemd and logrotate: options, ports and paths are those of the server, and
what they do is done to a running one.
"""

from __future__ import annotations

import configparser
import grp
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from process import PLAIN, Command
from support import program, wait_until

from thestral.config.address import USUAL

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "thestral.service"
FOLDERS = ("/run/thestral", "/var/log/thestral")


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(UNIT.read_text())
    return found


def words(line: str) -> list[str]:
    """Program and arguments of a line of the unit."""
    return shlex.split(line.replace("\\\n", " "))


def moved(text: str, folder: Path) -> str:
    """A text whose paths are below a folder."""
    for name in FOLDERS:
        text = text.replace(name, str(folder) + name)
    return text


@pytest.fixture
def folder(tmp_path):
    for name in FOLDERS:
        (tmp_path / name.removeprefix("/")).mkdir(parents=True)
    (tmp_path / "main.py").write_text(PLAIN)
    return tmp_path


@pytest.fixture
def service(folder):
    """The service that the unit starts, with free ports, and two workers."""
    arguments = words(moved(unit()["Service"]["ExecStart"], folder))[1:]
    for option, value in (("--port", "0"), ("--admin", "127.0.0.1:0"), ("--workers", "2")):
        arguments[arguments.index(option) + 1] = value
    with Command(*arguments, cwd=folder) as command:
        yield command


def url(log: Path) -> str:
    def found():
        return re.search(r"running on (http://\S+)", log.read_text() if log.exists() else "")

    return wait_until(found)[1]


def test_systemd_starts_the_unit_at_boot_and_again_when_it_fails():
    found = unit()
    assert found["Service"]["Type"] == "notify"
    assert found["Service"]["Restart"] == "on-failure"
    assert found["Install"]["WantedBy"] == "multi-user.target"
    assert words(found["Service"]["ExecReload"])[1:] == ["-HUP", "$MAINPID"]


def test_systemd_reads_the_unit(tmp_path):
    """Without a word: it ignores what it does not know, and says so."""
    copy = tmp_path / UNIT.name
    text = UNIT.read_text()
    for line in ("ExecStart", "ExecReload"):  # the programs are elsewhere, or not there
        text = text.replace(
            f"{line}={words(unit()['Service'][line])[0]} ", f"{line}={sys.executable} "
        )
    copy.write_text(text)
    result = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", copy], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_files_of_a_service_agree():
    """The unit makes the directories that it and logrotate use; alerts have its limit."""
    service = unit()["Service"]
    made = f"/run/{service['RuntimeDirectory']}", f"/var/log/{service['LogsDirectory']}"
    assert made == FOLDERS
    options = words(service["ExecStart"])
    assert options[options.index("--admin") + 1] == USUAL  # what prometheus.yml scrapes
    rotated = (DEPLOY / "logrotate").read_text()
    assert options[options.index("--pid-file") + 1] in rotated
    assert f"su {service['User']} {service['Group']}\n" in rotated
    alerts = (DEPLOY / "alerts.yml").read_text()
    assert f"thestral_worker_descriptors > 0.8 * {service['LimitNOFILE']}\n" in alerts


def rotate(folder: Path, *options: str) -> str:
    """Run logrotate with our file; return what it says."""
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    text = moved((DEPLOY / "logrotate").read_text(), folder)
    copy = folder / "logrotate"
    copy.write_text(text.replace("su thestral thestral", f"su {user} {group}"))
    copy.chmod(0o644)
    result = subprocess.run(
        [program("logrotate"), *options, "--state", folder / "state", copy],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_logrotate_reads_its_file_and_needs_no_server(folder):
    said = rotate(folder, "--debug")
    assert "error" not in said
    assert "warning" not in said.replace("warning: logrotate in debug mode does nothing", "")
    (folder / "var/log/thestral/access.log").write_text("a line\n")
    assert rotate(folder, "--force") == ""
    assert (folder / "var/log/thestral/access.log.1").read_text() == "a line\n"


def test_service_rotates_its_logs_and_reloads(service, folder):
    log = folder / "var/log/thestral/access.log"
    place = url(log.with_name("error.log"))

    def ask(path):
        urlopen(place + path).close()

    ask("/first")
    wait_until(lambda: "/first" in log.read_text())
    rotate(folder, "--force")
    wait_until(log.exists)
    ask("/second")
    old = log.with_name("access.log.1")
    wait_until(lambda: "/second" in log.read_text() + old.read_text())
    error = log.with_name("error.log")
    wait_until(lambda: error.exists() and error.read_text().count("eopened") == 3)
    ask("/third")
    wait_until(lambda: "/third" in log.read_text())
    assert "/first" in old.read_text()
    rotate(folder, "--force")  # compresses the first one
    assert log.with_name("access.log.2.gz").exists()
    service.signal(signal.SIGHUP)
    wait_until(lambda: error.read_text().count("Finished server process") == 2)
    service.stop()
    assert not (folder / "run/thestral/thestral.pid").exists()
    assert set(service.stdout.splitlines()) == {"lifespan startup", "lifespan shutdown"}
    assert service.stderr == ""
