"""The docs tell the truth: their blocks run, their links exist, their commands are known."""

import ast
import re
import shutil
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from lightloom.benchmarks.__main__ import app as studies
from lightloom.instruments import driver_names
from pages import DOCS, PAGES, ROOT, blocks_of, name_of, odd_fences_of, run_page
from typer.testing import CliRunner

from lightloom.cli.app import app

MODELS = {"smollm2.gguf": "smollm2/*.gguf", "all-MiniLM-L6-v2": "minilm"}  # in a page's folder
MINUTES: tuple[str, ...] = ()  # pages whose blocks take more than half a minute


def of_page(page: Path) -> Any:
    """The parameter of a page's test, with its name and whether it takes long."""
    blocks = [block for block in blocks_of(page) if not block.not_run]
    marks = []
    if any(name in block.code for block in blocks for name in MODELS):
        marks.append(pytest.mark.packaged_models)
    if any("lightloom.torch" in block.code for block in blocks):
        marks.append(pytest.mark.with_torch)
    if name_of(page) in MINUTES:
        marks.append(pytest.mark.campaign)
    elif any(block.language == "sh" for block in blocks) or page.parent.name == "tutorial":
        marks.append(pytest.mark.slow)
    return pytest.param(page, id=name_of(page), marks=marks)


@pytest.mark.parametrize("page", [of_page(page) for page in PAGES if blocks_of(page)])
def test_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if request.node.get_closest_marker("packaged_models"):
        models = request.getfixturevalue("packaged_models")
        for name, pattern in MODELS.items():
            found = next(models.glob(pattern))
            copy = shutil.copytree if found.is_dir() else shutil.copyfile
            copy(found, tmp_path / name)
    if request.node.get_closest_marker("with_torch"):
        pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_fence_of_a_page_is_known(page: Path) -> None:
    # a block of commands behind ```bash would never run
    assert not odd_fences_of(page)


def test_odd_fences_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nls\n```\n~~~python\n1\n~~~\n> ```sh\n> ls\n> ```\n```bash\n", "utf-8")
    assert [found.partition(":")[0] for found in odd_fences_of(page)] == [
        *("line 4", "line 7", "line 10", "a fence is not closed"),
    ]


FIRST_PAGES = [ROOT / "README.md", *sorted((DOCS / "tutorial").glob("*.md"))]


@pytest.mark.parametrize("page", FIRST_PAGES, ids=name_of)
def test_first_pages_import_public_names(page: Path) -> None:
    # a reader copies these lines: from lightloom, or from a room, and nothing deeper
    blocks = [block.code for block in blocks_of(page) if block.language == "python"]
    imported = [
        (node, alias.name)
        for code in blocks
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    ]
    assert bool(imported) == bool(blocks)
    for node, name in imported:
        module = node.module or "" if isinstance(node, ast.ImportFrom) else name
        if module.partition(".")[0] == "lightloom":
            assert module.count(".") <= 1, module
            assert module == name or name in import_module(module).__all__, f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


_COMMANDS = (
    *("run", "plan", "benchmark", "energy", "init", "devices", "check"),
    *("align", "calibrate", "twin", "report", "export", "resume", "doctor", "sweep"),
)
_CALL = rf"lightloom ({'|'.join(_COMMANDS)})\b((?:\\\n|(?! && )[^`\n])*)"
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


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
        known[command] = _OPTION.findall(CliRunner().invoke(app, [command, "--help"]).stdout)
    for page in PAGES:
        for line in re.findall(_CALL, page.read_text("utf-8")):
            for option in _OPTION.findall(line[1]):
                assert option in known[line[0]] or option == "--help", f"{page.name}: {option}"


def test_files_that_pages_call_exist() -> None:
    # a command that names a file which was moved leads nowhere
    for page in PAGES:
        for name in re.findall(
            r"(?:pytest|python)[^`\n]*? ((?:tests|examples|docs)/[\w/.]+)", page.read_text("utf-8")
        ):
            assert (ROOT / name).exists() or "NAME" in name, f"{page.name}: {name}"


def test_studies_and_their_options_that_pages_name_exist() -> None:
    call = r"python -m lightloom\.benchmarks ([^\s`]+)((?:\\\n|(?! && )[^`\n])*)"
    found = 0
    for page in PAGES:
        for name, rest in re.findall(call, page.read_text("utf-8")):
            if name == "NAME":
                continue
            done = CliRunner().invoke(studies, [name, "--help"])
            assert done.exit_code == 0, f"{page.name}: {name}"
            known = _OPTION.findall(done.stdout)
            for option in _OPTION.findall(rest):
                assert option in known, f"{page.name}: {name} {option}"
            found += 1
    assert found >= 12
