"""The screen of `thestral top`: a Frame as lines of text, for a terminal of any size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thestral.admin.rates import Durations, Frame, RouteRow, RunningRow, WorkerRow

BOLD, DIM, REVERSE, RED, GREEN, YELLOW = "1", "2", "7", "31", "32", "33"
STATES = {"serving": GREEN, "starting": YELLOW, "stopping": YELLOW, "stuck": RED}
SLOW_LAG = 0.1  # seconds from which a loop's lag is coloured as a warning
LONG_BLOCK = 1.0  # seconds from which a block of the loop is
ROOM_FOR_ALL = 30  # lines from which both tables are shown
BARS = "▁▂▃▄▅▆▇█"
PLAIN_BARS = "._-=+*#@"
NONE = "-"
HELP = """\
 w      show workers
 r      show routes
 s      sort by the next column
 o      reverse the order
 j k    scroll the rows, also with the arrow keys
 space  pause
 h ?    show and hide this help
 q      quit

 REQ/S  requests that ended, per second
 P50 P95 P99  durations, from the head to the end of the response
 RUN    requests that are running
 LAG    how late the event loop's timers were (p99)
 BLOCK  longest time that the event loop was blocked, in the last minute or two
 4XX/S 5XX/S  requests that ended with such a status, per second"""


@dataclass
class View:
    """The user's choices.

    Attributes:
        shows: "workers" or "routes".
        sorting: for each of these, the title of the column to sort by.
        is_reversed: whether the order is reversed.
        helps: whether the help is shown instead of the tables.
        first: index of the first row that is shown.
    """

    shows: str = "workers"
    sorting: dict[str, str] = field(default_factory=lambda: {"workers": "W", "routes": "REQ/S"})
    is_reversed: bool = False
    is_paused: bool = False
    helps: bool = False
    first: int = 0


@dataclass(frozen=True)
class Style:
    """The abilities of the terminal.

    Attributes:
        colored: whether colours and the like may be used.
        is_unicode: whether it shows characters beyond ASCII.
    """

    colored: bool = False
    is_unicode: bool = False

    def paint(self, text: str, *codes: str) -> str:
        return f"\x1b[{';'.join(codes)}m{text}\x1b[0m" if self.colored and any(codes) else text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its heading.
        width: in characters; 0 takes what the other columns leave.
        text: returns the text for a row.
        key: returns the value to sort a row by, the largest first; None for no sorting.
        room: width of the narrowest screen that has it.
        paint: returns the colour code for a row's text.
        left: whether the text is aligned to the left.
    """

    title: str
    width: int
    text: Callable[[Any], str]
    key: Callable[[Any], Any] | None = None
    room: int = 0
    paint: Callable[[Any], str] = lambda row: ""
    left: bool = False


# --- Numbers ------------------------------------------------------------------------------------


def seconds(value: float | None) -> str:
    """A duration in at most six characters."""
    if value is None:
        return NONE
    if value < 0.0009995:
        return f"{value * 1e6:.0f}us"
    if value < 0.9995:
        return f"{value * 1000:.3g}ms" if value < 0.0995 else f"{value * 1000:.0f}ms"
    return f"{value:.1f}s" if value < 99.95 else age(value)


# For a long time: a unit with its seconds, and the next smaller unit with its seconds.
UNITS = (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1))


def age(value: float) -> str:
    """A long time, in at most six characters."""
    left = int(value)
    for unit, size, below, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if left >= size:
            whole, rest = divmod(left, size)
            return f"{whole}{unit}" if whole >= 100 else f"{whole}{unit}{rest // part}{below}"
    return f"{left}s"


def size(value: float | None) -> str:
    """A number of bytes, in at most six characters."""
    if value is None:
        return NONE
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if unit == "B" or value >= 99.5 else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}TB"


def number(value: float) -> str:
    """A count or a rate, in at most six characters."""
    if value == 0:
        return "0"
    if value < 9.95 and value != int(value):
        return f"{value:.1f}"
    if value < 99_999.5:
        return f"{value:.0f}"
    return f"{value / 1000:.0f}k" if value < 9_999_500 else f"{value / 1e6:.0f}M"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{share * 100:.0f}%"


def safe(text: str) -> str:
    """Text from a client, without the characters that could control the terminal."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


# --- Tables -------------------------------------------------------------------------------------


def measured(take: Callable[[Any], float | None]) -> dict[str, Any]:
    """`text` and `key` of a column that shows a duration."""
    return {"text": lambda row: seconds(take(row)), "key": lambda row: take(row) or 0.0}


def durations_columns() -> list[Column]:
    def part(name: str) -> Callable[[Any], float | None]:
        return lambda row: getattr(row.durations, name)

    rate = part("rate")
    return [
        Column("REQ/S", 6, lambda row: number(rate(row) or 0.0), rate),
        Column("P50", 6, **measured(part("p50"))),
        Column("P95", 6, **measured(part("p95"))),
        Column("P99", 6, **measured(part("p99"))),
    ]


WORKERS = [
    Column("W", 3, lambda row: str(row.number), lambda row: -row.number),
    Column("PID", 7, lambda row: str(row.pid), room=90),
    Column(
        "STATE", 8, lambda row: row.state, paint=lambda row: STATES.get(row.state, ""), left=True
    ),
    Column("AGE", 6, lambda row: age(row.age), lambda row: row.age, room=100),
    *durations_columns(),
    Column("RUN", 5, lambda row: number(row.in_flight), lambda row: row.in_flight),
    Column("CONN", 5, lambda row: number(row.connections), lambda row: row.connections, room=80),
    Column(
        "LAG",
        6,
        **measured(lambda row: row.lag),
        paint=lambda row: YELLOW if (row.lag or 0.0) >= SLOW_LAG else "",
    ),
    Column(
        "BLOCK",
        6,
        **measured(lambda row: row.block),
        room=100,
        paint=lambda row: RED if row.block >= LONG_BLOCK else "",
    ),
    Column("CPU", 5, lambda row: percent(row.processor), lambda row: row.processor or 0.0),
    Column("RSS", 7, lambda row: size(row.memory), lambda row: row.memory or 0),
]
ROUTES = [
    Column("ROUTE", 0, lambda row: safe(row.route), lambda row: row.route, left=True),
    *durations_columns(),
    Column("4XX/S", 6, lambda row: number(row.client_errors), lambda row: row.client_errors),
    Column(
        "5XX/S",
        6,
        lambda row: number(row.server_errors),
        lambda row: row.server_errors,
        paint=lambda row: RED if row.server_errors else "",
    ),
    Column("TOTAL", 7, lambda row: number(row.total), lambda row: row.total),
]
RUNNING = [
    Column("AGE", 6, lambda row: seconds(row.age)),
    Column("W", 3, lambda row: str(row.worker)),
    Column("METHOD", 7, lambda row: safe(row.method), left=True),
    Column("PATH", 0, lambda row: safe(row.path), left=True),
    Column("CLIENT", 21, lambda row: safe(row.client), left=True),
    Column("SENT", 7, lambda row: size(row.sent), room=100),
]


TABLES = {"workers": WORKERS, "routes": ROUTES}


def sort_by_next(view: View, width: int) -> None:
    """Sort by the next column that a screen of this width has."""
    titles = [column.title for column in TABLES[view.shows] if column.key and width >= column.room]
    now = view.sorting[view.shows]
    place = titles.index(now) + 1 if now in titles else 0
    view.sorting[view.shows] = titles[place % len(titles)]


def sort(view: View, frame: Frame) -> tuple[list[Any], str]:
    """The rows to show, sorted, and the title of the column that they are sorted by."""
    rows: Sequence[WorkerRow | RouteRow] = (
        frame.workers if view.shows == "workers" else frame.routes
    )
    title = view.sorting[view.shows]
    (key,) = [column.key for column in TABLES[view.shows] if column.title == title]
    assert key is not None
    is_text = title == "ROUTE"
    return sorted(rows, key=key, reverse=view.is_reversed == is_text), title


def table(
    columns: Sequence[Column], rows: Sequence[Any], width: int, style: Style, by: str = ""
) -> list[str]:
    """A heading and the rows, each `width` characters wide at most."""
    shown = [column for column in columns if width >= column.room]
    fixed = sum(column.width + 1 for column in shown)
    found = []
    for row in (None, *rows):
        cells = []
        for column in shown:
            wide = column.width or max(5, width - fixed - 1)
            text = column.title if row is None else column.text(row)
            text = text[:wide]
            text = text.ljust(wide) if column.left else text.rjust(wide)
            if row is not None:
                text = style.paint(text, column.paint(row))
            elif column.title == by:
                text = style.paint(text, BOLD, REVERSE)
            else:
                text = style.paint(text, REVERSE)
            cells.append(text)
        joint = style.paint(" ", REVERSE) if row is None else " "
        found.append(joint.join(cells))
    return found


# --- The screen ---------------------------------------------------------------------------------


def bars(history: Sequence[float], width: int, style: Style) -> str:
    """The latest rates as bars; the highest rate has the longest bar."""
    letters = BARS if style.is_unicode else PLAIN_BARS
    shown = list(history)[-width:] if width > 0 else []
    most = max(shown, default=0.0) or 1.0
    return "".join(letters[min(7, int(value / most * 7.999))] for value in shown)


def quantiles(durations: Durations) -> str:
    named = (("p50", durations.p50), ("p95", durations.p95), ("p99", durations.p99))
    return "  ".join(f"{name} {seconds(value)}" for name, value in named)


def header(
    frame: Frame, address: str, history: Sequence[float], width: int, style: Style
) -> list[str]:
    """The lines above the tables."""
    state = style.paint(frame.state, STATES.get(frame.state, ""))
    first = f"{style.paint(f'thestral {frame.version}', BOLD)}  {address}  {state}"
    plain = f"thestral {frame.version}  {address}  {frame.state}"
    right = f"up {age(frame.uptime)}  pid {frame.pid}  {time.strftime('%H:%M:%S')}"
    pad = width - len(plain) - len(right)
    rate = f"{number(frame.durations.rate):>6} req/s  {quantiles(frame.durations)}"
    rate += f"  in flight {frame.in_flight}"
    classes = "  ".join(
        style.paint(f"{name} {number(value)}", RED if name == "5xx" and value else "")
        for name, value in frame.classes.items()
    )
    lag = style.paint(f"lag {seconds(frame.lag)}", YELLOW if (frame.lag or 0.0) >= SLOW_LAG else "")
    third = (
        f"   per s: {classes}  aborted {number(frame.aborted)}  refused {number(frame.refused)}"
        f"  timeouts {number(frame.timeouts)}"
    )
    fourth = (
        f"   conn {frame.connections}  ws {frame.websockets}"
        f"  in {size(frame.received)}/s  out {size(frame.sent)}/s"
        f"  cpu {percent(frame.processor)}  rss {size(frame.memory)}  {lag}"
    )
    return [
        first + (" " * pad + right if pad > 1 else ""),
        f"{rate}  {bars(history, max(0, width - len(rate) - 3), style)}".rstrip(),
        third,
        fourth,
    ]


def footer(view: View, by: str) -> str:
    other = "r routes" if view.shows == "workers" else "w workers"
    pause = "space: go on" if view.is_paused else "space pause"
    return f" {other}  s sort: {by.lower()}  o order  {pause}  h help  q quit"


def draw(
    frame: Frame | None,
    view: View,
    size: tuple[int, int],
    style: Style,
    address: str,
    history: Sequence[float] = (),
    trouble: str = "",
) -> list[str]:
    """The lines of the whole screen.

    Args:
        frame: None before the first answer.
        size: columns and lines of the terminal.
        trouble: why there is no newer frame.
    """
    width, height = size
    if frame is None:
        waiting = trouble or "Waiting for the server"
        lines = [style.paint(f"thestral  {safe(address)}", BOLD), safe(waiting)[:width]]
        return [*lines, *[""] * (height - 3), " q quit"][:height]
    lines = header(frame, safe(address), history, width, style)
    lines.append(style.paint(safe(trouble)[:width], RED) if trouble else "")
    rows, title = sort(view, frame)
    bottom = style.paint(footer(view, title)[:width].ljust(width), REVERSE)
    room = max(0, height - len(lines) - 1)
    if view.helps:
        body = HELP.splitlines()
    else:
        below = min(len(frame.running), max(3, room // 3)) + 2 if frame.running else 0
        beside = other_table(view, frame, width, style, room // 3) if room >= ROOM_FOR_ALL else []
        most = max(1, room - below - len(beside) - 1)
        view.first = max(0, min(view.first, len(rows) - most))
        shown = rows[view.first : view.first + most]
        body = table(TABLES[view.shows], shown, width, style, title) + beside
        left = room - len(body) - 2
        if frame.running and left > 0:
            body += ["", *table(RUNNING, frame.running[:left], width, style)]
    body = body[:room]
    return [*lines, *body, *[""] * (room - len(body)), bottom][:height]


def other_table(view: View, frame: Frame, width: int, style: Style, most: int) -> list[str]:
    """The table that is not selected, with an empty line above it: at most `most` lines of it."""
    other = View("routes" if view.shows == "workers" else "workers", view.sorting)
    rows, title = sort(other, frame)
    if not rows:
        return []
    return ["", *table(TABLES[other.shows], rows[: most - 1], width, style, title)]


def report(frame: Frame, width: int, style: Style, address: str) -> list[str]:
    """The report of --once, with every row."""
    lines = header(frame, safe(address), (), width, style)
    for shows, columns in TABLES.items():
        view = View(shows)
        rows, title = sort(view, frame)
        if rows:
            lines += ["", *table(columns, rows, width, style, title)]
    if frame.running:
        running: list[RunningRow] = frame.running
        lines += ["", *table(RUNNING, running, width, style)]
    return [line.rstrip() for line in lines]
