"""README's option table, made from Config: `make readme` writes it, a test compares it."""

from __future__ import annotations

from pathlib import Path

from thestral.config import Option, default_of, options

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- options -->\n"
END = "<!-- end of options -->\n"


def flag(name: str, spec: Option) -> str:
    text = "--" + (spec.flag or name).replace("_", "-")
    return f"`{text}`, `--no-{text[2:]}`" if spec.kind is bool else f"`{text}`"


def default(name: str, spec: Option) -> str:
    value = default_of(name)
    if value in (None, ""):
        return ""
    if spec.kind is bool:
        return "on" if value else "off"
    if spec.kind is list:
        return ", ".join(value)
    return f"{value:g} {spec.unit}".rstrip() if isinstance(value, float) else f"{value} {spec.unit}"


def table() -> str:
    lines = []
    group = ""
    for name, spec in options():
        if spec.group != group:
            group = spec.group
            lines += ["", f"**{group}**", "", "| option | default | |", "| --- | --- | --- |"]
        text = spec.help.replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| {flag(name, spec)} | {default(name, spec).rstrip()} | {text} |")
    return "\n".join([*lines[1:], ""])


def with_table(text: str) -> str:
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
