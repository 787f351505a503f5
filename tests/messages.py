"""Collects the messages that thestral prints about a problem, from its source.

These are what it logs at WARNING and above, and the texts of its own exceptions. What a message
gets at run time is "…" here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEVELS = {"warning", "error", "exception", "critical"}
# Exceptions whose text somebody reads in the log, in an error message or in a traceback, and
# functions that log, or make such an exception.
TOLD = {
    *("AccelerateError", "AdminError", "BindError", "ConfigError", "ImportFailedError"),
    *("LifespanError", "LocalProtocolError", "RemoteProtocolError", "WorkerError", "ValueError"),
    *("ClientDisconnected", "click.UsageError", "Refused", "Wait", "refused", "log_with_stack"),
    *("self.context.refusals.warn_once", "self.context.refusals.info", "context.refusals.info"),
}
# Functions that return such a text.
MAKERS = {"explain", "missing_module", "missing_attribute", "_unexpected"}
# Checks of what a program passes in, which no option and no client can cause.
OF_PROGRAMS = {"net/transport.py", "net/certificate.py", "testing.py", "csrc.py"}
SHORTEST = 8  # characters: less is part of a message
GAP = "…"


def template(node: ast.expr) -> str | None:
    """Return the text that an expression gives, with gaps; None if it is no text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else GAP for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [template(side) for side in (node.left, node.right)]
        return None if sides == [None, None] else "".join(side or GAP for side in sides)
    return None


def normal(text: str) -> str:
    """Return a message with one gap for each run of placeholders, on one line."""
    text = re.sub(r"%(\.\d+)?[sdrgf]|%\.\d+f", GAP, text)
    return re.sub(rf"{GAP}+", GAP, " ".join(text.split()))


def messages(tree: ast.Module) -> Iterator[str | None]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in MAKERS:
            for statement in ast.walk(node):
                if isinstance(statement, ast.Return) and statement.value is not None:
                    yield template(statement.value)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "text":
            yield template(node.value)  # the name that a long message has before it is logged
        elif isinstance(node, ast.Call) and node.args:
            if isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                yield template(node.args[0])
            elif ast.unparse(node.func) in TOLD:
                yield from map(template, node.args)


def of_c() -> Iterator[str]:
    """Yield the texts of csrc's statuses, of which the last function of base.c has a table."""
    table = (ROOT / "csrc/base.c").read_text().partition("th_status_text(int status) {")[2]
    yield from re.findall(r'case TH_E\w+: return "([^"]+)"', table)


def collected() -> set[str]:
    """Return the messages."""
    found = {*of_c()}
    for path in sorted((ROOT / "thestral").rglob("*.py")):
        if str(path.relative_to(ROOT / "thestral")) not in OF_PROGRAMS:
            found |= {normal(text) for text in messages(ast.parse(path.read_text())) if text}
    return {text for text in found if " " in text and len(text.replace(GAP, "")) >= SHORTEST}
