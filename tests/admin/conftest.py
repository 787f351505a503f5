"""The admin port of a real command, and AdminServer on a selector of its own."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import threading
import time

import pytest
from load import APP
from process import Command
from support import PATIENCE, wait_until

from thestral.admin.client import Answer, ask
from thestral.admin.server import AdminServer
from thestral.config.address import Address, read_address


class Operated(Command):
    """A command with an admin port."""

    def __init__(self, *arguments, cwd, **popen):
        super().__init__(*arguments, cwd=cwd, **popen)
        self.folder = cwd

    def admin(self) -> Address:
        """The address of the admin port; waits for the log line that names it."""

        def found():
            assert self.process.poll() is None, self.stderr
            return re.search(r"Admin port on (?:http://)?(\S+)", self.stderr)

        address = read_address(wait_until(found)[1])
        return Address(path=str(self.folder / address.path)) if address.path else address

    def get(self, path: str) -> Answer:
        return ask(self.admin(), "GET", path, PATIENCE)

    def post(self, path: str) -> Answer:
        return ask(self.admin(), "POST", path, PATIENCE)


@pytest.fixture
def operated(tmp_path):
    """Function (*arguments, **popen) that starts load.py's application with an admin port, by
    default on a Unix socket, and waits until it serves.
    """
    os.mkfifo(tmp_path / "gate")
    with contextlib.ExitStack() as commands:

        def start(*arguments, admin="unix:admin", wait=True, app=APP, **popen):
            (tmp_path / "main.py").write_text(app)
            options = ["main:app", "--port", "0", "--admin", admin, *arguments]
            command = commands.enter_context(Operated(*options, cwd=tmp_path, **popen))
            if wait:
                command.url()
            return command

        yield start


class Port:
    """An AdminServer in a thread, which answers each request with the request itself."""

    def __init__(self, answer):
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.address = self.sock.getsockname()
        self.selecting = selectors.DefaultSelector()
        self.server = AdminServer([self.sock], self.selecting, answer)
        self.hurry = 0.0  # seconds by which the clock of check() is ahead
        self.turns = 0
        self._ended = False
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        self.server.open()
        while not self._ended:
            for key, _ in self.selecting.select(0.02):
                key.data()
            self.server.check(time.monotonic() + self.hurry)
            self.turns += 1
        self.server.close()

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.turns)
        return self

    def __exit__(self, *exc_info):
        assert self._thread.is_alive()  # no client has crashed it
        self._ended = True
        self._thread.join()
        assert not self.selecting.get_map()
        self.selecting.close()

    def connect(self):
        return socket.create_connection(self.address, PATIENCE)


@pytest.fixture
def port():
    """Function (answer) that returns a Port."""
    with contextlib.ExitStack() as ports:
        yield lambda answer: ports.enter_context(Port(answer))
