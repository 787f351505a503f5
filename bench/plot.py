"""Plots a report: a line for each scenario, a dot for each server, on a logarithmic scale."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from report import BASE, ratios

# Legible on white and on black, and distinct to readers who do not see red or green.
COLOURS = {
    "thestral": "#d55e00",
    "thestral --accelerate": "#ff9f5a",
    "uvicorn": "#808080",
    "granian": "#0072b2",
    "peregrine": "#f0e442",
    "h2corn": "#aa4499",
    "m0serve": "#44aa99",
    "hypercorn": "#cc79a7",
    "gunicorn": "#56b4e9",
    "fastpysgi": "#009e73",
    "socketify": "#e69f00",
}
LEFT, WIDTH, RIGHT, LINE, TOP = 210, 520, 30, 24, 48  # pixels
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def svg(report: dict[str, Any]) -> str:
    """Return the plot: ratios to uvicorn, without the limits, which are not servers."""
    rows = {}
    for name, result in report["results"].items():
        found = {server: value for server, value in ratios(result).items() if server in COLOURS}
        if found:
            rows[name] = found
    values = [value for found in rows.values() for value in found.values()] or [1.0]
    low, high = min(0.5, *values) / 1.1, max(2.0, *values) * 1.1
    span = math.log(high / low)

    def across(value: float) -> float:
        return LEFT + WIDTH * math.log(value / low) / span

    shown = [server for server in COLOURS if any(server in found for found in rows.values())]
    width = LEFT + WIDTH + RIGHT
    x, y = 10.0, 14
    legend = []
    for server in shown:
        wide = 24 + 6.5 * len(server)
        if x + wide > width:
            x, y = 10.0, y + 18
        legend.append(f'<circle cx="{x:.0f}" cy="{y}" r="5" fill="{COLOURS[server]}"/>')
        legend.append(f'<text x="{x + 9:.0f}" y="{y + 4}">{escape(server)}</text>')
        x += wide
    top = y + TOP
    bottom = top + LINE * len(rows)
    height = bottom + 14
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="12" fill="#808080"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *legend]
    parts.append(
        f'<text x="{LEFT}" y="{y + 22}">times better than {BASE} (further right is better)</text>'
    )
    for tick in TICKS:
        if low <= tick <= high:
            at = across(tick)
            line = f'x1="{at:.1f}" x2="{at:.1f}" y1="{top - 8}" y2="{bottom}"'
            weight = "1" if tick == 1 else "0.3"
            parts.append(f'<line {line} stroke="#808080" stroke-width="{weight}"/>')
            parts.append(f'<text x="{at:.1f}" y="{top - 12}" text-anchor="middle">{tick:g}×</text>')
    for index, (name, found) in enumerate(rows.items()):
        middle = top + LINE * index + LINE / 2
        parts.append(
            f'<text x="{LEFT - 12}" y="{middle + 4:.0f}" text-anchor="end">{escape(name)}</text>'
        )
        # thestral is drawn last, so that no other dot hides it.
        for server, value in sorted(found.items(), key=lambda each: each[0] == "thestral"):
            title = f"<title>{escape(server)} {value:.2f}</title>"
            dot = f'cx="{across(value):.1f}" cy="{middle:.0f}" r="5" fill="{COLOURS[server]}"'
            parts.append(f"<circle {dot}>{title}</circle>")
    return "\n".join([*parts, "</svg>"]) + "\n"
