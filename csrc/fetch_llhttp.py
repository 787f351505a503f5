"""Bring llhttp's C source to csrc/llhttp, from the sdist that csrc/llhttp.txt pins by hash.

pip does the download, so mirrors, proxies and certificates are the ones the user has configured.
Nothing happens when the source is there already: our own sdist carries it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

CSRC = Path(__file__).resolve().parent
DESTINATION = CSRC / "llhttp"
PIN = CSRC / "llhttp.txt"
# Written last, so that an interrupted unpacking is not taken for a complete one.
FILES = ("LICENSE-MIT", "include/llhttp.h", "src/api.c", "src/http.c", "src/llhttp.c")


class FetchError(Exception):
    """llhttp's source is missing and cannot be fetched; the message says why in one line."""


def is_present(destination: Path = DESTINATION) -> bool:
    return all((destination / name).is_file() for name in FILES)


def fetch(pin: Path = PIN, destination: Path = DESTINATION) -> None:
    """Download, check and unpack llhttp into `destination`.

    Raises:
        FetchError: no network, a hash that does not match, or an sdist without the files.
    """
    if is_present(destination):
        return
    with tempfile.TemporaryDirectory() as folder:
        _unpack(_download(pin, Path(folder)), destination)


def _download(pin: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
    command += ["--require-hashes", "--disable-pip-version-check"]
    command += ["--dest", str(folder), "--requirement", str(pin)]
    if importlib.util.find_spec("setuptools"):  # as in our build; pip builds the metadata
        command.append("--no-build-isolation")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    sdists = list(folder.glob("*.tar.gz"))
    if result.returncode or len(sdists) != 1:
        raise FetchError(f"cannot fetch llhttp ({pin.name}): {_cause(result.stderr)}")
    return sdists[0]


def _cause(stderr: str) -> str:
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the sdist's SHA-256 is not the pinned one; refusing to build from it"
    if "No module named pip" in stderr:
        return "pip is not installed beside this Python"
    if "No matching distribution found" in stderr:  # pip's words for an unreachable index, too
        return "no network, or an index without it; thestral's sdist carries llhttp: build that"
    errors = [line for line in stderr.splitlines() if line.startswith("ERROR:")]
    return errors[-1] if errors else "pip download failed"


def _unpack(sdist: Path, destination: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {}
        for member in archive.getmembers():
            parts = PurePosixPath(member.name).parts
            if member.isfile() and parts[1:3] == ("vendor", "llhttp"):
                found["/".join(parts[3:])] = member
        missing = [name for name in FILES if name not in found]
        if missing:
            raise FetchError(f"{sdist.name} holds no vendor/llhttp/{missing[0]}")
        for name in FILES:
            target = destination / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source = archive.extractfile(found[name])
            assert source is not None  # isfile() above
            target.write_bytes(source.read())


if __name__ == "__main__":
    try:
        fetch()
    except FetchError as error:
        sys.exit(f"error: {error}")
