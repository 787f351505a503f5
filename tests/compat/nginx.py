"""nginx, run by a test."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from support import PATIENCE, program, wait_until


class Nginx:
    """nginx in front of a server, on ports of its own.

    Args:
        directory: for its files.
        http_block: content of the `http` block.
        extra: lines before that block.
        prefix: a command that runs nginx, and does not fork.
    """

    def __init__(
        self, directory: Path, http_block: str, extra: str = "", prefix: Sequence[str] = ()
    ) -> None:
        config = directory / "nginx.conf"
        top = [f"{'user root; ' if os.geteuid() == 0 else ''}daemon off; worker_processes 1;"]
        top += [f"pid {directory}/pid; error_log {directory}/error.log info;", "events {}"]
        paths = [f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy")]
        paths += [f"{name}_temp_path {directory}/{name};" for name in ("fastcgi", "uwsgi", "scgi")]
        http_text = f"http {{ access_log off; {' '.join(paths)}\n{http_block}\n}}"
        config.write_text("\n".join([extra, *top, http_text]))
        self.directory = directory
        self.process = subprocess.Popen(
            [*prefix, program("nginx"), "-c", config, "-p", directory], stderr=-1
        )

    def wait(self, port: int) -> None:
        wait_until(lambda: self.process.poll() is not None or self.accepts(port))
        if self.process.poll() is not None:
            assert self.process.stderr is not None
            raise AssertionError(self.process.stderr.read().decode())

    def accepts(self, port: int) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
