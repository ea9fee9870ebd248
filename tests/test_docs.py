"""The docs tell the truth: their Python runs, their links exist, their commands are known."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_of_a_page_runs(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if blocks:
        code = compile("\n".join(blocks), str(page), "exec")
        exec(code, {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_options_that_pages_name_exist() -> None:
    known = {}
    for command in ("run", "plan", "doctor"):
        run = [sys.executable, "-m", "lightloom", command, "--help"]
        known[command] = subprocess.check_output(run, text=True, encoding="utf-8")
    for page in PAGES:
        for line in re.findall(r"lightloom (run|plan|doctor)([^`\n]*)", page.read_text("utf-8")):
            for option in re.findall(r"(?<!-)--[a-z][a-z-]*", line[1]):
                assert option in known[line[0]] or option == "--help", f"{page.name}: {option}"
