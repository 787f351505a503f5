"""Makes the pictures of `thestral top` in docs/images, from a real terminal: make screenshots.

A server with two workers answers clients for a while; tmux gives the screen, with its colours.
"""

from __future__ import annotations

import html
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from process import Command
from support import wait_until
from tmux import Screen

APP = """
import asyncio, random
from fastapi import FastAPI, HTTPException

app = FastAPI()

@app.get("/")
async def home():
    return {}

@app.get("/items/{item_id}")
async def item(item_id: int):
    if item_id % 10 == 0:
        raise HTTPException(404)
    return {"item_id": item_id}

@app.post("/orders")
async def order():
    await asyncio.sleep(random.uniform(0.005, 0.05))
    return {}

@app.get("/reports/{year}")
async def report(year: int):
    await asyncio.sleep(random.uniform(1, 6))
    return {}
"""
CLIENTS = 16
WARM_UP = 8.0  # seconds: rates are those of the last five
IMAGES = Path(__file__).resolve().parents[2] / "docs/images"
# The pictures: columns and lines of the terminal, and keys that are pressed first.
PICTURES = {"top-workers": (80, 24, ""), "top-routes": (80, 24, "r"), "top-wide": (140, 40, "")}

# --- From a terminal's screen to SVG --------------------------------------------------------------

BACKGROUND, FOREGROUND = "#1e1e2e", "#cdd6f4"
COLOURS = ["#45475a", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#f5c2e7", "#94e2d5", "#bac2de"]
WIDTH, HEIGHT, MARGIN = 8.4, 18, 12  # of a character, and around all; pixels
SGR = re.compile(r"\x1b\[([\d;]*)m")  # ECMA-48, section 8.3.117


@dataclass(frozen=True)
class Look:
    """How characters look."""

    colour: str = ""
    bold: bool = False
    dim: bool = False
    inverse: bool = False

    def after(self, codes: str) -> Look:
        """The look after a sequence with these codes."""
        look = self
        for code in map(int, (codes or "0").split(";")):
            if code == 0:
                look = Look()
            elif code in (1, 2, 7):
                look = replace(look, **{{1: "bold", 2: "dim", 7: "inverse"}[code]: True})
            elif code == 22:
                look = replace(look, bold=False, dim=False)
            elif code == 27:
                look = replace(look, inverse=False)
            elif code == 39:
                look = replace(look, colour="")
            elif 30 <= code <= 37 or 90 <= code <= 97:
                look = replace(look, colour=COLOURS[code % 10])
            elif code != 49:  # the default background
                raise ValueError(f"SGR {code} is not known here")
        return look


def pieces(line: str) -> Iterator[tuple[int, str, Look]]:
    """The parts of a line that look alike, each with its column."""
    look, column = Look(), 0
    parts = SGR.split(line)
    for index, part in enumerate(parts):
        if index % 2:
            look = look.after(part)
        elif part:
            yield column, part, look
            column += len(part)


def svg(screen: str, columns: int, lines: int) -> str:
    """Return a picture of a screen, as `tmux capture-pane -e` prints it."""
    width, height = columns * WIDTH + 2 * MARGIN, lines * HEIGHT + 2 * MARGIN
    found = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}"',
        f' width="{width:g}" font-family="monospace" font-size="14">',
        f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{BACKGROUND}"/>',
    ]
    for row, line in enumerate(screen.split("\n")[:lines]):
        top = MARGIN + row * HEIGHT
        for column, text, look in pieces(line):
            left, wide = MARGIN + column * WIDTH, len(text) * WIDTH
            ink = look.colour or FOREGROUND
            if look.inverse:
                found.append(
                    f'<rect x="{left:g}" y="{top}" width="{wide:g}" height="{HEIGHT}"'
                    f' fill="{ink}"/>'
                )
            if not text.strip():
                continue
            style = f' fill="{BACKGROUND if look.inverse else ink}"'
            style += ' font-weight="bold"' * look.bold + ' opacity="0.6"' * look.dim
            found.append(
                f'<text x="{left:g}" y="{top + HEIGHT * 0.72:g}" textLength="{wide:g}"{style}'
                f' xml:space="preserve">{html.escape(text)}</text>'
            )
    return "\n".join([*found, "</svg>", ""])


# --- The server -----------------------------------------------------------------------------------


def visit(url: str, stopped: threading.Event, seed: int) -> None:
    """Be a client until the end."""
    choice = random.Random(seed)
    while not stopped.is_set():
        path = choice.choices(["/", "/items/", "/orders", "/reports/"], [400, 400, 195, 5])[0]
        if path.endswith("s/"):
            path += str(choice.randrange(2000, 2027))
        method = "POST" if path == "/orders" else "GET"
        try:
            with urlopen(Request(url + path, method=method)) as response:
                response.read()
        except HTTPError as answer:
            answer.close()
        except OSError:  # the server ends
            return
        stopped.wait(choice.uniform(0, 0.01))


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    stopped = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "main.py").write_text(APP)
        options = ["--workers", "2", "--port", "0", "--admin", "127.0.0.1:0"]
        options += ["--no-access-log", "--timeout-graceful-shutdown", "1"]
        with Command("main:app", *options, cwd=folder) as command:
            url = command.url()
            clients = [
                threading.Thread(target=visit, args=(url, stopped, seed)) for seed in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            admin = wait_until(lambda: re.search(r"Admin port on http://(\S+)", command.stderr))[1]
            top = [sys.executable, "-m", "thestral", "top", admin]
            for picture, (columns, lines, keys) in PICTURES.items():
                screen = Screen(folder, columns, lines)
                try:
                    screen.type(*top)
                    screen.shows("/reports/")
                    screen.press(*keys)
                    time.sleep(WARM_UP)
                    text = screen.text("-e", "-N")
                finally:
                    screen.close()
                (IMAGES / f"{picture}.svg").write_text(svg(text, columns, lines))
                print(IMAGES / f"{picture}.svg")
            stopped.set()
            command.stop()


if __name__ == "__main__":
    main()
