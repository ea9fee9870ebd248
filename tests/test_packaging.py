"""The package's promises: one name a module, nothing heavy loaded, versions and sessions agree."""

import ast
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from package_modules import ROOMS, importable

import lightloom

ROOT = Path(__file__).parents[1]

HEAVY = ("numba", "onnxruntime", "torch", "tokenizers", "pyvisa", "gguf", "pydantic", "rich")


def test_every_module_imports_under_its_own_name_only() -> None:
    # `import scheduler` from a checkout would load a second copy of everything
    for name in importable():
        importlib.import_module(name)
    assert not set(ROOMS) & set(sys.modules)


def test_import_is_light() -> None:
    # a script that only asks for the version must not wait for a compiler to load
    code = f"import sys, lightloom; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_plan_on_the_mock_loads_neither_bench_nor_journal() -> None:
    # a script that plans would wait half as long again for instruments that it does not use;
    # sqlite3 itself is not asked for, since the measuring of coverage loads it
    code = (
        "import sys, lightloom\n"
        "lightloom.plan(lightloom.load_model('digits'), 'mock')\n"
        "unused = ('lightloom.scheduler.journal.database', 'lightloom.backends.bench')\n"
        "print([m for m in unused if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_loads_no_arithmetic() -> None:
    # help that takes seconds is not read
    code = (
        "import sys; sys.argv = ['lightloom', '--help']\n"
        "from lightloom.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'pydantic', 'numba', 'secrets') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("[]\n")


def test_version_is_one() -> None:
    assert importlib.metadata.version("lightloom") == lightloom.__version__


def test_the_wheel_holds_the_rooms_and_nothing_else() -> None:
    # a profile that is missing is found by a user; tests that are installed overwrite others' tests
    files = [file for file in importlib.metadata.files("lightloom") or () if is_source(file)]
    outside = (
        "..",
        f"lightloom-{lightloom.__version__}.dist-info",
    )  # the program, and what pip says
    installed = {file.as_posix() for file in files if file.parts[0] not in outside}
    if "lightloom/scheduler/__init__.py" not in installed:
        pytest.skip("this is a checkout, not a wheel; install the wheel to check its files")
    expected = set()
    for room in ("lightloom", *ROOMS):
        places = [path.relative_to(ROOT) for path in (ROOT / room).rglob("*.*")]
        inside = Path() if room == "lightloom" else Path("lightloom")
        expected |= {(inside / place).as_posix() for place in places if is_source(place)}
    assert installed == expected


def is_source(file: Any) -> bool:
    """Return whether a file is not one that Python compiled."""
    return "__pycache__" not in file.parts


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert all(citation[key] for key in ("message", "title", "authors", "license"))
    assert all(author["name"] for author in citation["authors"])
    assert citation["version"] == lightloom.__version__


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert headings[:2] == ["Unreleased", lightloom.__version__]


def workflow() -> Any:
    """Return the jobs of the workflow that tests every change."""
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def sessions() -> set[str]:
    """Return the names of the sessions of the noxfile."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.decorator_list}


def test_files_of_settings_are_read() -> None:
    # a form or a workflow that is not YAML does nothing, and its host may not say so
    forms = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(forms) > 3
    for path in forms:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
    container = ROOT / ".devcontainer" / "devcontainer.json"
    assert json.loads(container.read_text(encoding="utf-8"))["image"]


def test_ci_runs_sessions_that_exist() -> None:
    # the campaigns take hours, and no CI has them
    matrices = [job["strategy"]["matrix"] for job in workflow().values()]
    named = {name for matrix in matrices for name in matrix.get("session", ())}
    named |= {entry["session"] for matrix in matrices for entry in matrix.get("include", ())}
    assert named == sessions() - {"robustness"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    calls = re.findall(r"^(?:session .*-s|tests|for name in) ([a-z ]+?)(?: -|;|$)", script, re.M)
    assert {name for call in calls for name in call.split()} == named


def test_ci_runs_the_pythons_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    named = [found[1] for text in project["classifiers"] if (found := pattern.fullmatch(text))]
    assert workflow()["tests"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_public_names_exist() -> None:
    for name in lightloom.__all__:
        assert getattr(lightloom, name) is not None


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "lightloom", "doctor", "--json"]
    assert json.loads(subprocess.check_output(command, text=True))["lightloom"]
