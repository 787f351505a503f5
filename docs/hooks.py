"""Pages and downloads that are files of the repository.

`<!-- file: ../NAME.md -->` is that file's text. Such a file is kept where people look for it on the
forge; its links are turned to the pages here. Files of deploy/ can be downloaded from the site, and
the plots of bench/ are on its pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "bench/README.md": "benchmarks.md",
}
HERE = Path(__file__).resolve().parent
OUTSIDE = ("deploy/**/*", "bench/*.svg")  # files of the repository that the site has, too


def on_files(files: Files, config: Any) -> None:
    root = HERE.parent
    for path in sorted(path for pattern in OUTSIDE for path in root.glob(pattern)):
        if path.is_file():
            name = path.relative_to(root).as_posix()
            files.append(File(name, str(root), config.site_dir, config.use_directory_urls))


def on_page_markdown(markdown: str, **context: Any) -> str:
    named = re.fullmatch(r"\s*<!-- file: (\S+) -->\s*", markdown)
    if named is None:
        return re.sub(r"\]\(\.\./(deploy|bench)/", r"](\1/", markdown)
    text = (HERE / named[1]).read_text()
    return re.sub(r"\]\(([^)#:]+)(#[^)]*)?\)", link, text)


def link(match: re.Match[str]) -> str:
    target = match[1].removeprefix("docs/")
    if re.fullmatch(r"\w+\.svg", target):
        target = f"bench/{target}"
    return f"]({PAGES.get(target, target)}{match[2] or ''})"
