"""`thestral top`: a live screen of a running server, read from its admin port."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from thestral.admin.client import AdminError, read_status
from thestral.admin.rates import Frame, Status, frame_of
from thestral.admin.screen import Style, View, draw, report, sort_by_next
from thestral.admin.terminal import Terminal
from thestral.config.address import Address

# Rates and quantiles cover at least this time: over a single second they would jump.
WINDOW = 5.0  # seconds
HISTORY = 300  # rates that are kept for the bars
PATIENCE = 3.0  # seconds to wait for an answer


class Watcher:
    """Polls a server in a thread of its own, so that keys work meanwhile.

    Attributes:
        frame: the latest one; None before the first answer.
        trouble: why the last poll failed; "" if it did not.
        history: rates of requests, one for each interval.
    """

    def __init__(self, address: Address, interval: float, on_news: Callable[[], None]) -> None:
        self.frame: Frame | None = None
        self.trouble = ""
        self.history: deque[float] = deque(maxlen=HISTORY)
        self._address = address
        self._interval = interval
        self._on_news = on_news
        self._answers: deque[Status] = deque()
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._ask()
            self._on_news()
            self._ended.wait(self._interval)

    def _ask(self) -> None:
        try:
            now = read_status(self._address, PATIENCE)
        except AdminError as error:
            self.trouble = str(error)
            return
        answers = self._answers
        if answers and answers[-1]["pid"] != now["pid"]:
            answers.clear()
        last = answers[-1] if answers else None
        # The oldest answer that is needed is the last one before the window.
        while len(answers) > 1 and answers[1]["now"] <= now["now"] - WINDOW:
            answers.popleft()
        self.history.append(frame_of(now, last).durations.rate if last else 0.0)
        self.frame = frame_of(now, answers[0] if answers else None)
        answers.append(now)
        self.trouble = ""


def press(key: str, view: View, width: int) -> bool:
    """Change the view as a key says; return False for a key that quits.

    Args:
        width: columns of the terminal.
    """
    if key in "q\x03":
        return False
    if key in "wr":
        view.shows = "workers" if key == "w" else "routes"
        view.first = 0
    elif key == "s":
        sort_by_next(view, width)
    elif key == "o":
        view.is_reversed = not view.is_reversed
    elif key in " p":
        view.is_paused = not view.is_paused
    elif key in "h?":
        view.helps = not view.helps
    elif key == "j":
        view.first += 1
    elif key == "k":
        view.first = max(0, view.first - 1)
    return True


def style_of_output() -> Style:
    """Return the style that stdout can show; NO_COLOR is respected."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return Style(colored and os.environ.get("TERM") != "dumb", encoding.startswith("utf"))


def watch(address: Address, interval: float) -> None:
    """Show the screen until the user quits.

    Args:
        interval: seconds between two polls of the server.
    """
    view = View()
    style = style_of_output()
    terminal = Terminal()
    watcher = Watcher(address, interval, terminal.wake)
    shown: Frame | None = None
    with terminal.running():
        watcher.start()
        try:
            while True:
                if not view.is_paused or shown is None:
                    shown = watcher.frame
                trouble = "" if view.is_paused else watcher.trouble
                terminal.show(
                    draw(
                        shown,
                        view,
                        terminal.size(),
                        style,
                        str(address),
                        list(watcher.history),
                        trouble,
                    )
                )
                for key in terminal.wait():
                    if not press(key, view, terminal.size()[0]):
                        return
        except KeyboardInterrupt:
            return
        finally:
            watcher.stop()


def once(address: Address, interval: float) -> list[str]:
    """Return the lines of one report, with the rates of one interval.

    Raises:
        AdminError: the server does not answer.
    """
    before = read_status(address)
    time.sleep(interval)
    frame = frame_of(read_status(address), before)
    width = shutil.get_terminal_size((100, 24)).columns
    return report(frame, width, style_of_output(), str(address))
