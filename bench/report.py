"""Turns figures of all rounds into medians and ratios, and these into markdown and SVG.

    python bench/report.py build/bench/results.json

writes the markdown and the plot again, next to the file.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = "uvicorn"


@dataclass(frozen=True)
class Figure:
    """A column.

    Attributes:
        title: may contain {unit} and {units}, for what the scenario counts.
        digits: digits after the decimal point.
        more: whether more is better.
        scale: divisor of a figure when it is shown.
    """

    title: str
    digits: int = 0
    more: bool = False
    scale: float = 1


FIGURES = {
    "cpu": Figure("CPU µs/{unit}", 1),
    "rate": Figure("{units}/s", more=True),
    "sleeps": Figure("client's sleeps/{unit}", 2),
    "p50": Figure("p50 µs"),
    "p99": Figure("p99 µs"),
    "p999": Figure("p99.9 µs"),
    "silent": Figure("bytes each, no request yet"),
    "idle": Figure("bytes each, after a request"),
    "start": Figure("ms to first answer"),
    "start_cpu": Figure("CPU ms until then"),
    "idle_cpu": Figure("CPU ms/s", 2),
    "wake_ups": Figure("wake-ups/s", 1),
    "rss": Figure("peak RSS MB", 1, scale=1e6),
}
Rounds = list[dict[str, float]]
# scenario: {"primary": figure, "unit": text, "servers": {server: rounds, or why there are none},
# "again": {server: why a turn was repeated}}
Results = dict[str, dict[str, Any]]


def medians(rounds: Rounds) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def ratio(rounds: Rounds, base: Rounds, primary: str) -> float | None:
    """Return how many times better than the base a server is: the median over the rounds that both
    have, each compared with the base's turn in the same round; None if there is no such ratio.
    """
    better = FIGURES[primary].more
    found = []
    for one, other in zip(rounds, base, strict=False):
        over, under = (one, other) if better else (other, one)
        if over[primary] <= 0 or under[primary] <= 0:
            return None
        found.append(over[primary] / under[primary])
    return statistics.median(found) if found else None


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Return the ratios by server, of those that took part and can be compared."""
    base = result["servers"].get(BASE)
    if not isinstance(base, list):
        return {}
    found = {
        server: ratio(rounds, base, result["primary"])
        for server, rounds in result["servers"].items()
        if isinstance(rounds, list)
    }
    return {server: value for server, value in found.items() if value is not None}


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def summary(results: Results, servers: list[str]) -> str:
    """Return the ratios of all scenarios in one table."""
    lines = [row(["times better than uvicorn", *servers]), "|---|" + "---:|" * len(servers)]
    for name, result in results.items():
        found = ratios(result)
        cells = [f"{found[server]:.2f}" if server in found else "–" for server in servers]
        lines.append(row([name, *cells]))
    return "\n".join(lines)


def detail(name: str, result: dict[str, Any]) -> str:
    """Return all figures of one scenario; the one that is compared is bold."""
    taking = {
        server: medians(rounds)
        for server, rounds in result["servers"].items()
        if isinstance(rounds, list)
    }
    columns = [column for column in FIGURES if any(column in each for each in taking.values())]
    unit = result["unit"]
    units = unit if unit.isupper() else f"{unit}s"  # MB, but requests
    titles = [FIGURES[column].title.format(unit=unit, units=units) for column in columns]
    lines = [f"### {name}", "", row(["server", f"times {BASE}", *titles])]
    lines.append("|---|" + "---:|" * (len(columns) + 1))
    compared = ratios(result)
    for server in result["servers"]:
        if server not in taking:
            lines.append(row([server, "–", *[""] * len(columns)]))
            continue
        cells = [f"{compared[server]:.2f}" if server in compared else "–"]
        for column in columns:
            cell = shown(column, taking[server].get(column))
            cells.append(f"**{cell}**" if column == result["primary"] else cell)
        lines.append(row([server, *cells]))
    reasons = [
        f"{server} {rounds}"
        for server, rounds in result["servers"].items()
        if isinstance(rounds, str)
    ]
    if reasons:
        lines += ["", "– " + "; ".join(reasons) + "."]
    for server, reason in result.get("again", {}).items():
        lines += ["", f"{server} failed once and was tried again: {reason}."]
    return "\n".join(lines)


def shown(column: str, value: float | None) -> str:
    if value is None:
        return ""
    figure = FIGURES[column]
    return f"{value / figure.scale:,.{figure.digits}f}"


def markdown(report: dict[str, Any]) -> str:
    """Return the whole report.

    Args:
        report: {"versions": {name: version}, "note": text, "rounds": n, "seconds": n,
            "results": Results}.
    """
    results: Results = report["results"]
    servers = list(dict.fromkeys(name for each in results.values() for name in each["servers"]))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    parts = [
        f"Median of {report['rounds']} interleaved rounds of {report['seconds']} s. {versions}."
        + f" {report['note']}".rstrip(),
        summary(results, servers),
        *(detail(name, result) for name, result in results.items()),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    path = Path(sys.argv[1])
    write(json.loads(path.read_text()), path.parent)


def write(report: dict[str, Any], folder: Path) -> None:
    """Write results.json, results.md and results.svg."""
    from plot import svg

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(report))
    (folder / "results.svg").write_text(svg(report))


if __name__ == "__main__":
    main()
