"""The rules of the house (ARCHITECTURE.md): imports, their circles, names of classes."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_modules import ROOMS, modules

import lightloom

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
MOST_LINES, MOST_METHODS = 350, 30  # of a class
MOST_FUNCTION_LINES, MOST_PARAMETERS = 60, 10  # of a function
LARGE: dict[str, str] = {}  # class -> why it is one piece; three at most
Function = ast.FunctionDef | ast.AsyncFunctionDef


@pytest.fixture(scope="module")
def trees() -> dict[str, tuple[bool, ast.Module]]:
    """Return every module: whether it is a package, and its syntax tree."""
    found = {
        name: (path.name == "__init__.py", ast.parse(path.read_text(encoding="utf-8")))
        for name, path in modules().items()
    }
    assert len(found) > 200
    return found


def imported(name: str, is_package: bool, tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports of lightloom, wherever in the file."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1])
            base = f"{base}.{node.module}" if node.module else base
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            assert not any(n.split(".")[0] in (*ROOMS, "lightloom") for n in names), (
                f"{name} imports {names}: imports between rooms are relative"
            )


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["b", "c"]]


def test_no_modules_import_each_other(trees: dict[str, tuple[bool, ast.Module]]) -> None:
    # imports for type checkers and inside functions count: who reads one file has to read both
    graph = {}
    for name, (is_package, tree) in trees.items():
        below = imported(name, is_package, tree)
        targets = {item if item in trees else item.rpartition(".")[0] for item in below}
        graph[name] = (targets & set(trees)) - {name}
    assert not circles(graph)


def test_imports_go_down_the_rooms(tmp_path: Path) -> None:
    if len(lightloom.__path__) > 1:
        pytest.skip("the rooms of a checkout are not one package; install the wheel to check it")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--config", PROJECT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout + done.stderr


def test_a_class_name_stands_once(trees: dict[str, tuple[bool, ast.Module]]) -> None:
    # two things of one name are taken for one another in messages, searches and talk
    places = defaultdict(set)
    for name, (_, tree) in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.endswith(("Options", "Config")):
                places[node.name].add(name)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_no_class_is_large(trees: dict[str, tuple[bool, ast.Module]]) -> None:
    # a class that does not fit on a few screens has more than one job
    large = {}
    for name, (_, tree) in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                methods = sum(isinstance(part, Function) for part in node.body)
                if lines > MOST_LINES or methods > MOST_METHODS:
                    large[node.name] = f"{name}: {lines} lines, {methods} methods"
    assert len(LARGE) <= 3 and all(LARGE.values())
    assert set(large) == set(LARGE), large


def test_functions_are_short_and_take_few_arguments(
    trees: dict[str, tuple[bool, ast.Module]],
) -> None:
    # only a kernel, which a compiler inlines as one loop, may be longer; only a command, whose
    # every option is one parameter, may take more
    too_long, too_many = [], []
    for name, (_, tree) in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, Function):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            count = sum(part.arg not in ("self", "cls") for part in taken)
            if lines > MOST_FUNCTION_LINES and not name.endswith(".kernels"):
                too_long.append(f"{name}.{node.name}: {lines} lines")
            is_command = name.startswith("lightloom.cli.") and node.name == "command"
            if count > MOST_PARAMETERS and not is_command:
                too_many.append(f"{name}.{node.name}: {count} parameters")
    assert not too_long and not too_many, (too_long, too_many)
