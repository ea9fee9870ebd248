"""The reference is complete: public names, commands and options are on its pages."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import typer
from lightloom.benchmarks.__main__ import app as studies
from pages import DOCS

from lightloom.cli.app import app

API = DOCS / "reference" / "api"
PACKAGES = (
    *("lightloom", "lightloom.models", "lightloom.scheduler", "lightloom.scheduler.runs"),
    *("lightloom.backends", "lightloom.backends.bench", "lightloom.backends.calibration"),
    *("lightloom.instruments", "lightloom.instruments.simulated"),
)

with_sphinx = pytest.mark.skipif(not find_spec("sphinx"), reason="no Sphinx: pip install '.[docs]'")


def documented() -> Iterator[tuple[str, str]]:
    """Yield the package and the name of each directive of autodoc on the pages."""
    for page in API.glob("*.md"):
        package = ""
        for line in page.read_text("utf-8").splitlines():
            if match := re.match(r"\.\. currentmodule:: (\S+)", line):
                package = match[1]
            elif match := re.match(r"\.\. auto\w+:: ([\w.]+)", line):
                module, _, name = match[1].rpartition(".")
                yield module or package, name


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_on_a_page_once(package: str) -> None:
    # where a room hands on a name of lightloom, the page of lightloom has it
    found = list(documented())
    front = import_module("lightloom")
    for name in import_module(package).__all__:
        public = getattr(import_module(package), name)
        is_front = name in front.__all__ and getattr(front, name) is public
        assert found.count(("lightloom" if is_front else package, name)) == 1, name


def test_names_on_the_pages_exist() -> None:
    for package, name in documented():
        module = import_module(package)
        assert hasattr(module, name), f"{package}.{name}"
        if package in PACKAGES:  # a page of public names; other types have a page of their own
            assert name in module.__all__, f"{package}.{name} is not public"


@pytest.fixture
def _extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS / "extensions"), *sys.path])


@with_sphinx
@pytest.mark.usefixtures("_extensions")
@pytest.mark.parametrize("commands", [app, studies], ids=["lightloom", "studies"])
def test_the_page_of_commands_has_every_option(commands: typer.Typer) -> None:
    app_lines: Any = import_module("command_reference").app_lines
    text = "\n".join(app_lines(commands, "program"))
    group: Any = typer.main.get_command(commands)
    for name, command in group.commands.items():
        assert text.count(f"#### program {name}\n") == 1
        section = text.split(f"#### program {name}\n")[1].split("\n####")[0]
        assert "```sh\n" in section, "no example"
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
            for word in (*parameter.opts, *parameter.secondary_opts):
                shown = f"`{word}`" if word.startswith("-") else word.upper()
                assert shown in section, f"{name}: {word}"


@with_sphinx
@pytest.mark.usefixtures("_extensions")
def test_sections_of_a_docstring_become_lists() -> None:
    lines = [
        *("Return `name`, as `lightloom run` does: docs/a/b.md.", ""),
        *("Parameters", "----------", "a, b : first", "    and more", "*rest : |x|", ""),
        *("Raises", "------", "InputError : for `a`"),
    ]
    import_module("public_names").convert_docstring(None, "function", "", None, None, lines)
    assert lines == [
        *("Return `name`, as ``lightloom run`` does: :doc:`docs/a/b.md </a/b>`.", ""),
        *(":Parameters:", "", "    * **a**, **b** – first", "      and more"),
        *(r"    * **\*rest** – \|x\|", "      ", ":Raises:", ""),
        "    * :py:exc:`InputError` – for `a`",
    ]
