"""Pages that are files of the repository: `<!-- file: ../NAME.md -->` is that file's text.

Such a file is kept where people look for it on the forge; its links are turned to the pages here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "benchmarks.md",
}
HERE = Path(__file__).resolve().parent


def on_page_markdown(markdown: str, **context: Any) -> str:
    named = re.fullmatch(r"\s*<!-- file: (\S+) -->\s*", markdown)
    if named is None:
        return markdown
    text = (HERE / named[1]).read_text()
    return re.sub(r"\]\(([^)#:]+)(#[^)]*)?\)", link, text)


def link(match: re.Match[str]) -> str:
    target = match[1].removeprefix("docs/")
    return f"]({PAGES.get(target, target)}{match[2] or ''})"
