"""Signal handlers that the program or its application has set before the server sets its own."""

from __future__ import annotations

import signal

import pytest
from process import PLAIN, Command

HANDLER = """
import signal, sys

def mine(number, frame):
    print("my handler", signal.Signals(number).name, flush=True)
    if {exits}:
        sys.exit({exits})

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, mine)
"""
PROGRAM = """
import sys, thestral

if __name__ == "__main__":
    {handler}
    thestral.run("main:app", port=0, workers=int(sys.argv[1]) or None)
    print("behind run", flush=True)
"""
BLOCK = """
import threading
threading.Thread(target=threading.Event().wait).start()
"""


class Program(Command):
    """A user's program that calls thestral.run()."""

    program = ("program.py",)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["0", "1", "2"])
def test_handler_of_a_program_is_called_when_the_server_has_stopped(tmp_path, number, workers):
    (tmp_path / "main.py").write_text(PLAIN)
    handler = HANDLER.format(exits=0).replace("\n", "\n    ")
    (tmp_path / "program.py").write_text(PROGRAM.format(handler=handler))
    with Program(workers, cwd=tmp_path) as program:
        program.url()
        program.signal(number)
        assert program.wait() == 0
    ending = f"lifespan shutdown\nmy handler {number.name}\nbehind run\n"
    assert program.stdout.endswith(ending)
    assert program.stdout.count("my handler") == 1


@pytest.mark.parametrize("arguments", [(), ("--workers", "1", "--preload")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_handler_of_an_application_is_called_when_the_server_has_stopped(
    tmp_path, number, arguments
):
    (tmp_path / "main.py").write_text(HANDLER.format(exits=7) + PLAIN)
    with Command("main:app", "--port", "0", *arguments, cwd=tmp_path) as command:
        command.url()
        command.signal(number)
        assert command.wait() == 7
    assert command.stdout.endswith(f"lifespan shutdown\nmy handler {number.name}\n")
    assert "Traceback" not in command.stderr


def test_handler_of_an_application_is_called_in_its_workers(tmp_path):
    (tmp_path / "main.py").write_text(HANDLER.format(exits=7) + PLAIN)
    with Command("main:app", "--port", "0", "--workers", "2", cwd=tmp_path) as command:
        command.url()
        command.saw("lifespan startup", times=2)
        command.stop()
    assert command.stdout.count("my handler SIGTERM") == 2
    assert "died" not in command.stderr


def test_handler_that_exits_is_not_held_up_by_a_thread(tmp_path):
    (tmp_path / "main.py").write_text(BLOCK + HANDLER.format(exits=7) + PLAIN)
    with Command("main:app", "--port", "0", cwd=tmp_path) as command:
        command.url()
        command.signal(signal.SIGTERM)
        assert command.wait() == 7
    assert "Tasks or threads of the application have not ended" in command.stderr
