"""The docs tell the truth: their Python runs, their links exist, their commands are known."""

import ast
import re
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lightloom.benchmarks.__main__ import app as studies
from lightloom.instruments import driver_names
from typer.testing import CliRunner

from lightloom.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LONG = ("tutorial.md", "record.md")  # whose examples take seconds


def of_page(page: Path) -> Any:
    """The parameter of a page's test, with its name and whether it takes long."""
    marks = [pytest.mark.slow] if page.name in LONG else []
    return pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=marks)


def python_of(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [of_page(page) for page in PAGES])
def test_python_of_a_page_runs(page: Path) -> None:
    if blocks := python_of(page):
        code = compile("\n".join(blocks), str(page), "exec")
        exec(code, {"__name__": "page"})


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "tutorial.md"])
def test_first_pages_import_public_names(page: Path) -> None:
    # a reader copies these lines: from lightloom, or from a room, and nothing deeper
    imported = [
        (node, alias.name)
        for block in python_of(page)
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert imported
    for node, name in imported:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else name
        if module.partition(".")[0] == "lightloom":
            assert module.count(".") <= 1, module
            assert module == name or name in import_module(module).__all__, f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_exist(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


_COMMANDS = (
    *("run", "plan", "benchmark", "energy", "init", "devices", "check"),
    *("align", "calibrate", "report", "export", "resume", "doctor", "sweep"),
)
_CALL = rf"lightloom ({'|'.join(_COMMANDS)})\b((?:(?! && )[^`\n])*)"


def test_bench_files_in_pages_have_known_keys() -> None:
    # a table that is pasted from a page and refused costs an operator the first evening
    from lightloom.backends.bench.config import make_instrument

    for page in PAGES:
        for block in re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            for role, table in tomllib.loads(textwrap.dedent(block)).get("instruments", {}).items():
                if table["driver"] in driver_names():  # not one that a reader is to write
                    make_instrument(role, table)


def test_options_that_pages_name_exist() -> None:
    known = {}
    for command in _COMMANDS:
        known[command] = CliRunner().invoke(app, [command, "--help"]).stdout
    for page in PAGES:
        for line in re.findall(_CALL, page.read_text("utf-8")):
            for option in re.findall(r"(?<!-)--[a-z][a-z-]*", line[1]):
                assert option in known[line[0]] or option == "--help", f"{page.name}: {option}"


def test_studies_and_their_options_that_pages_name_exist() -> None:
    call = r"python -m lightloom\.benchmarks ([^\s`]+)((?:\\\n|(?! && )[^`\n])*)"
    found = 0
    for page in PAGES:
        for name, rest in re.findall(call, page.read_text("utf-8")):
            if name == "NAME":
                continue
            done = CliRunner().invoke(studies, [name, "--help"])
            assert done.exit_code == 0, f"{page.name}: {name}"
            for option in re.findall(r"(?<!-)--[a-z][a-z-]*", rest):
                assert option in done.stdout, f"{page.name}: {name} {option}"
            found += 1
    assert found >= 12
