"""The package's promises: each module has one name, nothing heavy is loaded, versions agree."""

import importlib
import importlib.metadata
import json
import subprocess
import sys
from importlib.util import find_spec

from package_modules import ROOMS, modules

import lightloom

COMPILED = "kernels"  # modules loaded only where the extra `fast` is installed
HEAVY = ("numba", "onnxruntime", "torch", "tokenizers", "pyvisa", "gguf", "pydantic", "rich")


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


def test_public_names_exist() -> None:
    for name in lightloom.__all__:
        assert getattr(lightloom, name) is not None


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "lightloom", "doctor", "--json"]
    assert json.loads(subprocess.check_output(command, text=True))["lightloom"]
