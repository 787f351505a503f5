"""Measures how often responses wake their reader, by the number of connections, and what holding
them back does to latency at fixed rates.

    python bench/corking.py
    python bench/corking.py --before /path/to/python   # which has another build of thestral

Writes corking.svg and corking.json to --build. See bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from environment import CHECKOUT, Environment, prepare
from loads import FixedRate, Requests
from peers import measure
from plot import COLOURS
from scenarios import SCENARIOS, Scenario

CONNECTIONS = (1, 2, 4, 8, 16, 64, 256)
BEFORE = "thestral before"
APPLICATIONS = {  # scenario: requests per second of the fixed rates
    "plain GET, 4 headers": (5_000, 20_000, 40_000),
    "FastAPI async": (1_000, 2_500, 4_000),
}
WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 200, 60, 46, 70  # pixels of a panel, and around it


@dataclass(frozen=True)
class Panel:
    """A part of the plot; both axes are logarithmic.

    Attributes:
        lines: by server, (x, y) for each measurement.
    """

    title: str
    x: str
    lines: dict[str, list[tuple[float, float]]]


def points(low: float, high: float) -> list[float]:
    """Return the ticks of an axis: 1, 2 and 5 times powers of ten."""
    found = []
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        found += [digit * 10.0**power for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def drawn(panel: Panel, left: float, top: float) -> list[str]:
    """Return the SVG of a panel whose corner is there."""
    at = [point for line in panel.lines.values() for point in line]
    spans = []
    for axis in (0, 1):
        values = [point[axis] for point in at]
        spans.append((min(values) / 1.15, max(values) * 1.15))

    def place(x: float, y: float) -> tuple[float, float]:
        pairs = zip((x, y), spans, strict=True)
        share = [math.log(value / low) / math.log(high / low) for value, (low, high) in pairs]
        return left + share[0] * WIDTH, top + (1 - share[1]) * HEIGHT

    parts = [f'<text x="{left}" y="{top - 10}" font-weight="bold">{escape(panel.title)}</text>']
    for tick in points(*spans[1]):
        y = place(spans[0][0], tick)[1]
        line = f'x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line {line} stroke="#808080" stroke-width="0.3"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.10g}</text>')
    for tick in sorted({point[0] for point in at}):
        x = place(tick, spans[1][0])[0]
        parts.append(
            f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{tick:,g}</text>'
        )
    middle = left + WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{top + HEIGHT + 34}" text-anchor="middle">{panel.x}</text>'
    )
    for server, line in panel.lines.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        dash = ' stroke-dasharray="5 4"' if server == BEFORE else ""
        colour = COLOURS[server.removesuffix(" before")]
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}>'
            f"<title>{escape(server)}</title></polyline>"
        )
    return parts


def svg(panels: list[Panel]) -> str:
    """Return the plot: two panels in each row."""
    width = 2 * (WIDTH + GAP) + LEFT - GAP + 20
    height = TOP + math.ceil(len(panels) / 2) * (HEIGHT + GAP + 20)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="12" fill="#808080"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>']
    x = 10.0
    for server in panels[0].lines:
        dash = ' stroke-dasharray="5 4"' if server == BEFORE else ""
        colour = COLOURS[server.removesuffix(" before")]
        line = f'x1="{x}" x2="{x + 22}" y1="12" y2="12" stroke="{colour}" stroke-width="2"'
        parts.append(f"<line {line}{dash}/>")
        parts.append(f'<text x="{x + 28}" y="16">{escape(server)}</text>')
        x += 50 + 7 * len(server)
    for index, panel in enumerate(panels):
        row, column = divmod(index, 2)
        left = LEFT + column * (WIDTH + GAP)
        parts += drawn(panel, left, TOP + 6 + row * (HEIGHT + GAP + 20))
    return "\n".join([*parts, "</svg>"]) + "\n"


def panels(results: dict[str, Any]) -> list[Panel]:
    """Return the panels: of each application, by connections and by rate."""
    found = []
    titles = [("cpu", "CPU µs/request"), ("sleeps", "client's sleeps/response")]
    for application, result in results.items():
        for figure, title in titles:
            lines = {
                server: [(each["x"], max(each[figure], 0.001)) for each in line]
                for server, line in result["connections"].items()
            }
            found.append(Panel(f"{application}: {title}", "connections", lines))
    for application, result in results.items():
        for figure in ("p50", "p99"):
            lines = {
                server: [(each["x"], each[figure]) for each in line]
                for server, line in result["rates"].items()
            }
            found.append(Panel(f"{application}: {figure} µs", "requests/s", lines))
    return found


def line(
    places: dict[str, Environment],
    scenarios: dict[float, Scenario],
    options: argparse.Namespace,
    say: str,
) -> dict[str, list[dict[str, float]]]:
    """Measure all servers in each scenario, in interleaved rounds; return medians."""
    cores = sorted(os.sched_getaffinity(0))
    lines: dict[str, list[dict[str, float]]] = {server: [] for server in places}
    for x, scenario in scenarios.items():
        found: dict[str, list[dict[str, float]]] = {server: [] for server in places}
        for _ in range(options.rounds):
            for server, environment in places.items():
                name = server.removesuffix(" before")
                found[server].append(measure(scenario, name, environment, options.seconds, cores))
        for server, rounds in found.items():
            medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            lines[server].append({"x": x} | medians)
            shown = "  ".join(
                f"{key} {value:.2f}" for key, value in medians.items() if key != "rss"
            )
            print(f"{say} {x:g}: {server}: {shown}", flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="turns of each server")
    add("--seconds", type=int, default=1, help="length of each turn")
    add("--servers", nargs="+", default=["thestral", "uvicorn", "peregrine"], choices=COLOURS)
    add("--before", type=Path, metavar="PYTHON", help="a Python with another build of thestral")
    add("--build", type=Path, default=CHECKOUT / "build/bench", help="folder of the peers")
    add("--draw", action="store_true", help="draw corking.svg again from corking.json")
    options = parser.parse_args()
    file = options.build / "corking.json"
    if not options.draw:
        environment = prepare(options.build.resolve(), "")
        places = dict.fromkeys(options.servers, environment)
        if options.before:
            places = {BEFORE: replace(environment, python=options.before)} | places
        results = {}
        for name, rates in APPLICATIONS.items():
            scenario = SCENARIOS[name]
            load = scenario.load
            assert isinstance(load, Requests)
            by_connections = {
                float(count): replace(scenario, load=replace(load, connections=count))
                for count in CONNECTIONS
            }
            by_rate = {
                float(rate): replace(
                    scenario, load=FixedRate(rate, path=load.path, expected=load.expected)
                )
                for rate in rates
            }
            results[name] = {
                "connections": line(places, by_connections, options, f"{name}, connections"),
                "rates": line(places, by_rate, options, f"{name}, rate"),
            }
        file.write_text(
            json.dumps({"versions": environment.versions, "results": results}, indent=1)
        )
    results = json.loads(file.read_text())["results"]
    (options.build / "corking.svg").write_text(svg(panels(results)))
    print(f"written to {options.build}/corking.svg", file=sys.stderr)


if __name__ == "__main__":
    main()
