"""Pages of the site whose text is a file at the root, where a code host looks for it."""

import re
from functools import partial
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "explanation/architecture": "ARCHITECTURE.md",
    "project/changelog": "CHANGELOG.md",
    "project/conduct": "CODE_OF_CONDUCT.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/security": "SECURITY.md",
}


def setup(app: Sphinx) -> dict[str, bool]:
    """Read these pages from the root; the files below docs/ only link there."""
    app.connect("source-read", read)
    app.connect("env-before-read-docs", add_changed)
    return {"parallel_read_safe": True}


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace the source of a page by the file at the root, with its links from there."""
    if name in ROOT_PAGES:
        text = (ROOT / ROOT_PAGES[name]).read_text(encoding="utf-8")
        source[0] = re.sub(r"\]\((?!https?:|#)([^)]+)\)", partial(relinked, name), text)


def add_changed(app: Sphinx, env: object, names: list[str]) -> None:
    """Read these pages in every build, since their own files never change."""
    names += [name for name in ROOT_PAGES if name not in names]


def relinked(name: str, link: re.Match[str]) -> str:
    """Return a link of a root page as one of the page of the site."""
    path, hash_sign, heading = link[1].partition("#")
    up = "../" * name.count("/")
    pages = {file: f"{page}.md" for page, file in ROOT_PAGES.items()}
    target = (
        path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path, f"../{path}")
    )
    return f"]({up}{target}{hash_sign}{heading})"
