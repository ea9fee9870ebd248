"""Every key of a file has a meaning, and a table on a page of the reference."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from commands import called
from lightloom.backends import OpticsProfile, profile_names
from lightloom.backends.bench.config import BenchFile
from lightloom.backends.bench.fault_policy import DEFAULTS, FAULT_KEYS, RECOVERIES, FaultPolicy
from lightloom.benchmarks import sweep
from lightloom.instruments import InputError, create, driver_class, driver_names
from lightloom.instruments.file_keys import FileKey, Items, key_tables, keys_of, nearest_key
from lightloom.instruments.registry import drivers
from lightloom.instruments.simulated import faults
from lightloom.instruments.toml_file import TomlTable, one_of
from lightloom.instruments.units import Seconds
from lightloom.scheduler import placement_rules
from lightloom.scheduler.energy.constants import set_names
from pages import DOCS
from pydantic import BaseModel, Field
from test_plain_english import FORBIDDEN, MOST_WORDS, sentences_of, words_of

REFERENCE = DOCS / "reference"
_DIRECTIVE = re.compile(r"```\{file-keys\} (\S+)\n(?::without: (.*)\n)?```")
OURS = [name for name, point in drivers().items() if point.value.startswith("lightloom.")]


def models_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a model and those of the tables that its keys open."""
    yield model
    for key in keys_of(model):
        if key.table is not None:
            yield from models_of(key.table)


def directives_of(page: Path) -> list[tuple[str, list[str]]]:
    """Return the directives of a page: what each shows, and the models that it leaves out."""
    found = _DIRECTIVE.findall(page.read_text(encoding="utf-8"))
    return [(shown, re.split(r", *", without) if without else []) for shown, without in found]


def loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def plain(keys: tuple[FileKey, ...]) -> None:
    """Check that each key has a meaning in plain English."""
    for key in keys:
        assert key.meaning, f"{key.name} has no meaning: write a docstring below its field"
        for sentence in sentences_of(key.meaning):
            assert words_of(sentence) <= MOST_WORDS, f"{key.name}: {sentence}"
        for pattern in FORBIDDEN:
            assert not re.search(rf"\b{pattern}", key.meaning, re.IGNORECASE), key.meaning


@pytest.mark.parametrize("driver", driver_names())
def test_each_key_of_a_driver_has_a_meaning(driver: str) -> None:
    for model in models_of(driver_class(driver).Options):
        plain(keys_of(model))


@pytest.mark.parametrize("model", [BenchFile, OpticsProfile])
def test_each_key_of_a_file_has_a_meaning(model: type[BaseModel]) -> None:
    for inner in models_of(model):
        plain(keys_of(inner))


def test_each_key_without_a_model_has_a_meaning() -> None:
    for keys in (FAULT_KEYS, sweep.KEYS, placement_rules.TOP_KEYS, placement_rules.RULE_KEYS):
        plain(keys)
    assert {kind.name for kind in FAULT_KEYS} == DEFAULTS.keys() - {"interlock"}
    assert set(get_args(faults.Kind)) == set(faults.KINDS)
    for recovery in RECOVERIES:  # each is one that a bench file may name
        FaultPolicy({"stale": recovery.replace("N", "2").replace("TIME", "1 s")})


@pytest.mark.parametrize("driver", OURS)
def test_each_driver_has_all_its_keys_on_the_page(driver: str) -> None:
    shown = dict(directives_of(REFERENCE / "drivers.md"))
    assert driver in shown, f"drivers.md has no table of keys of {driver}"
    for model in shown[driver]:
        assert issubclass(driver_class(driver).Options, loaded(model)), model
        assert shown[model] == [] or all(other in shown for other in shown[model]), model


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.stem)
def test_a_table_that_a_key_opens_is_on_the_same_page(page: Path) -> None:
    shown = directives_of(page)
    named = [driver_class(at).Options if at in OURS else loaded(at) for at, _ in shown]
    left_out = {place for _, places in shown for place in places}
    assert left_out <= {at for at, _ in shown}, "a page shows what its tables leave out"
    for model in named:
        if isinstance(model, type):
            # each key that opens a table is linked to the table
            assert set(models_of(model)) - {model} <= set(named), model
    assert len(shown) == page.read_text(encoding="utf-8").count("{file-keys}")


def test_named_constants_are_on_their_pages() -> None:
    profiles = (REFERENCE / "profiles.md").read_text(encoding="utf-8")
    constants = (REFERENCE / "constants-file.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\{profile-constants\} (\S+)", profiles)) == profile_names()
    assert sorted(re.findall(r"\{energy-constants\} (\S+)", constants)) == set_names()


class Inner(TomlTable):
    """A table inside of another one."""

    depth: int
    """How deep."""


class Example(TomlTable):
    """A table with a key of each sort."""

    address: str
    """Where
    it is."""
    wait: Seconds = 0.5
    gap_px: float | None = Field(default=None, gt=0, lt=0.5)
    count: int = Field(default=3, ge=0, le=100)
    sizes: tuple[int, int] = (8, 8)
    shape: Annotated[tuple[int, int], Items(("height", "width"))] | None = None
    word: Annotated[str, one_of({"a": 1, "b": 2})] = "a"
    choice: Annotated[int, Field(ge=1, lt=2**64)] | Literal["auto"] = "auto"
    light: float = 4e9
    inner: Inner = Inner(depth=1)
    inners: tuple[Inner, ...] = ()


def test_a_key_is_described_by_its_field() -> None:
    found = {key.name: key for key in keys_of(Example)}
    assert found["address"] == FileKey("address", "Where it is.", "required")
    assert found["wait"] == FileKey("wait", "", "0.5", "s", "0 or more")
    assert found["gap_px"] == FileKey("gap_px", "", "none", "pixels", "above 0, below 0.5")
    assert found["count"] == FileKey("count", "", "3", "", "integer, 0 to 100")
    assert found["sizes"] == FileKey("sizes", "", "[8, 8]", "", "[a, b]; each: integer")
    assert found["shape"].allowed == "[height, width]; each: integer"
    assert found["word"] == FileKey("word", "", '"a"', "", '"a", "b"')
    allowed = 'integer, 1 or more, below 2^64 or "auto"'
    assert found["choice"] == FileKey("choice", "", '"auto"', "", allowed)
    assert found["light"].default == "4e9"
    assert found["inner"] == FileKey("inner", "", "", "", "table", Inner)
    assert found["inners"] == FileKey("inners", "", "[]", "", "list of tables", Inner)
    titles = [table.title for table in key_tables(Example, "x")]
    assert titles == ["x", "x: inner", "x: inners"]


def test_an_unknown_key_is_answered_by_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'commands.intrlock'; the nearest key is 'interlock'"):
        create("scpi-source", "source", {"address": "X", "commands": {"intrlock": "INT?"}})
    with pytest.raises(InputError, match=r"unknown field 'inputbits'; .* is 'input_bits'"):
        OpticsProfile(inputbits=8)
    with pytest.raises(InputError, match=r"unknown key 'zzz'$"):
        create("scpi-source", "source", {"address": "X", "zzz": 1})


def test_a_terminal_shows_the_keys_of_a_driver(tmp_path: Path) -> None:
    shown = called(tmp_path, "devices", "--keys", "simulated-camera")
    assert shown.returncode == 0
    assert "trigger_latency_s" in shown.stdout and "delay_s" in shown.stdout
    document = json.loads(called(tmp_path, "devices", "--keys", "scpi-daq", "--json").stdout)
    dialect = document["keys"]["scpi-daq"][-1]
    assert (dialect["key"], dialect["default"]) == ("dialect", '"red-pitaya"')
    unknown = called(tmp_path, "devices", "--keys", "scpi")
    assert unknown.returncode == 2 and "choose from display-slm" in unknown.stderr


@pytest.mark.slow
def test_keys_need_no_package_of_a_vendor() -> None:
    code = (
        "import sys\n"
        "for name in 'sdl2 harvesters genicam pymmcore_plus nidaqmx slmsuite'.split():\n"
        "    sys.modules[name] = None\n"
        "from lightloom.instruments import driver_class, driver_names\n"
        "from lightloom.instruments.file_keys import keys_of\n"
        "assert all(keys_of(driver_class(name).Options) for name in driver_names())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_model_without_source_still_names_the_nearest_key() -> None:
    # a laboratory may type its driver at a prompt
    namespace: dict[str, Any] = {"BaseModel": BaseModel}
    exec("class Typed(BaseModel):\n    exposure_s: float = 1.0\n", namespace)
    assert nearest_key(namespace["Typed"], ["exposure"]) == "exposure_s"
