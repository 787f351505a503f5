"""A real terminal for `thestral top`: a pane of tmux."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess

from process import FOREIGN
from support import program, wait_until


class Screen:
    """A terminal with a shell in it, in a tmux server of its own.

    Args:
        folder: for tmux's socket.
        columns, lines: of the terminal.
    """

    def __init__(self, folder, columns, lines, **env):
        self._tmux = [program("tmux"), "-S", str(folder / "tmux"), "-f", "/dev/null"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self._env = {**clean, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", **env}
        size = ["-x", str(columns), "-y", str(lines)]
        self.run("-u", "new-session", "-d", *size, "sh")
        wait_until(lambda: self.text().strip())  # the prompt

    def run(self, *arguments):
        result = subprocess.run(
            [*self._tmux, *arguments], env=self._env, capture_output=True, text=True, check=True
        )
        return result.stdout

    def text(self, *options):
        return self.run("capture-pane", "-p", *options)

    def lines(self):
        return self.text().splitlines()

    def press(self, *keys):
        self.run("send-keys", *keys)

    def type(self, *words):
        self.run("send-keys", "-l", shlex.join(words))
        self.run("send-keys", "Enter")

    def shows(self, text):
        """Wait until the screen shows `text`."""
        try:
            wait_until(lambda: text in self.text())
        except AssertionError as error:
            raise AssertionError(f"{text!r} is not there:\n{self.text()}") from error

    def resize(self, columns, lines):
        self.run("resize-window", "-x", str(columns), "-y", str(lines))

    def state(self, name):
        """A tmux format of the pane, such as alternate_on."""
        return self.run("display-message", "-p", f"#{{{name}}}").strip()

    def close(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run("kill-server")
