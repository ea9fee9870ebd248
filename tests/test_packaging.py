"""The package's promises: imports go down the rooms, nothing heavy is loaded, versions agree."""

import ast
import importlib
import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import lightloom

FRONT = ("cli", "report")  # folders of the front door
ROOMS = ("instruments", "backends", "scheduler", "models", "benchmarks")
COMPILED = "kernels"  # modules loaded only where the extra `fast` is installed
HEAVY = ("numba", "onnxruntime", "torch", "tokenizers", "pyvisa", "gguf", "pydantic", "rich")


def modules() -> dict[str, Path]:
    """Every module of the package as it is imported: name -> file."""
    names = ["lightloom", "lightloom.__main__"]
    for room in (*ROOMS, *FRONT):
        names.append(f"lightloom.{room}")
        package = importlib.import_module(names[-1])
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"{names[-1]}.")]
    found = {}
    for name in names:
        spec = find_spec(name)
        assert spec is not None
        if spec.origin is not None:  # not a folder of data
            found[name] = Path(spec.origin)
    return found


def imported(name: str, path: Path) -> set[str]:
    """The rooms that a module imports, wherever in the file."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            targets = [".".join([*base, *((node.module or "").split("."))])]
            if not node.module:
                names = [alias.name for alias in node.names if not alias.name.startswith("__")]
                targets = [".".join([*base, name]) for name in names]
            rooms |= {target.split(".")[1] for target in targets if target.count(".")}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            assert not any(n.split(".")[0] in (*ROOMS, "lightloom") for n in names), (
                f"{name} imports {names}: imports between rooms are relative"
            )
    return rooms


def test_imports_go_down_the_rooms() -> None:
    # a room that reaches up can no longer be used, or understood, by itself
    checked = 0
    for name, path in modules().items():
        room = (name + ".").split(".")[1]
        allowed = (*ROOMS, *FRONT) if room not in ROOMS else ROOMS[: ROOMS.index(room) + 1]
        above = {other for other in imported(name, path) if other not in allowed}
        assert not above, f"{name} imports {above}, which stand above it"
        checked += 1
    assert checked >= 30


def test_every_module_imports_under_its_own_name_only() -> None:
    # `import scheduler` from a checkout would load a second copy of everything
    for name in modules():
        if name.endswith("__main__") or (name.endswith(COMPILED) and not find_spec("numba")):
            continue
        importlib.import_module(name)
    assert not set(ROOMS) & set(sys.modules)


def test_import_is_light() -> None:
    # a script that only asks for the version must not wait for a compiler to load
    code = f"import sys, lightloom; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_help_loads_no_arithmetic() -> None:
    # help that takes seconds is not read
    code = (
        "import sys; sys.argv = ['lightloom', '--help']\n"
        "from lightloom.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'pydantic', 'numba') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("[]\n")


def test_version_is_one() -> None:
    assert importlib.metadata.version("lightloom") == lightloom.__version__


def test_public_names_exist() -> None:
    for name in lightloom.__all__:
        assert getattr(lightloom, name) is not None


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "lightloom", "doctor", "--json"]
    assert json.loads(subprocess.check_output(command, text=True))["lightloom"]
