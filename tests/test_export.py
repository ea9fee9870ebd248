"""An export holds every number of the journal, with its unit, and names its source.

Whoever analyses a run elsewhere sees nothing but this: a number that were lost, or a simulated one
that looked measured, would be believed.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
import zarr
from commands import called
from journal_factory import (
    begin_session,
    keep_segment,
    keep_steps,
    made,
    note_fault,
)
from lightloom.backends.bench.checkpoint import QUALITY
from lightloom.instruments import InputError
from lightloom.scheduler.journal import export as exporting
from lightloom.scheduler.journal.export import export
from lightloom.scheduler.journal.journal import Journal
from lightloom.scheduler.journal.journal_file import JournalFile

ENDINGS = (".h5", ".zarr")
FIRST_ENDING = (".h5", pytest.param(".zarr", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def on_a_bench(tmp_path_factory: pytest.TempPathFactory, on_the_mock: Path) -> Path:
    """Two sessions with shots and faults."""
    path = tmp_path_factory.mktemp("bench") / "bench.db"
    with made(path, on_the_mock) as (journal, clock):
        for number in range(13):
            clock.now_s += 1.0
            keep_segment(journal, number)
            note_fault(journal, clock.now_s, number)
            if number == 8:
                begin_session(journal)
        keep_steps(journal, on_the_mock)
        journal.end_session("complete", "with a \0 in it")
        with JournalFile(on_the_mock) as other:
            journal.keep_documents("result", **other.results())
    return path


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, on_a_bench: Path) -> dict[str, Path]:
    """The bench's run in both formats, by their ending."""
    folder = tmp_path_factory.mktemp("exports")
    outputs = {ending: folder / f"run{ending}" for ending in ENDINGS}
    for output in outputs.values():
        exported(on_a_bench, output)
    return outputs


def exported(journal: Path, output: Path) -> dict[str, int]:
    with JournalFile(journal) as opened:
        return export(opened, output)


def arrays_of(path: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Read all arrays, and their attributes, with only the format's own package."""
    found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}

    def plain(array: Any) -> np.ndarray:
        values = array[...]
        if values.dtype.kind in "OT":
            texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
            return np.array(texts, dtype=object).reshape(values.shape)
        return np.asarray(values)

    if path.suffix == ".h5":
        with h5py.File(path) as file:

            def visit(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    found[name] = plain(item), dict(item.attrs)

            file.visititems(visit)
    else:
        for name, item in zarr.open_group(str(path), mode="r").members(max_depth=None):
            if isinstance(item, zarr.Array):
                found[name] = plain(item), dict(item.attrs)
    return found


def same(found: np.ndarray, wanted: Any) -> bool:
    return np.array_equal(
        found, np.asarray(wanted, dtype=found.dtype), equal_nan=found.dtype.kind == "f"
    )


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_number_of_the_journal_comes_back(
    ending: str, on_a_bench: Path, exports: dict[str, Path]
) -> None:
    found = {name: values for name, (values, _) in arrays_of(exports[ending]).items()}
    with JournalFile(on_a_bench) as journal:
        steps, segments = list(journal.steps()), list(journal.segments())
        faults, sessions = list(journal.faults()), journal.sessions()
        about, results, inputs = journal.about(), journal.results(), journal.inputs()
        files = journal.files()
    # documents, inputs and files
    for table, documents in (("about", about), ("report", results)):
        values = map(json.loads, found[f"{table}/value"])
        assert dict(zip(found[f"{table}/key"], values, strict=True)) == documents
    assert all(same(found[f"inputs/{name}"], value) for name, value in inputs.items())
    assert {name: found[f"files/{name}"].tobytes() for name in files} == files
    # sessions and faults
    assert same(found["sessions/began_s"], [item["began_s"] for item in sessions])
    assert same(found["sessions/ended_s"], [np.nan, sessions[1]["at_s"]])
    assert list(found["sessions/outcome"]) == ["", "complete"]
    assert list(found["sessions/detail"]) == ["", "with a \ufffd in it"]
    assert json.loads(found["sessions/document"][0])["instruments"] == sessions[0]["instruments"]
    assert {f"faults/{name}" for name in faults[0]} <= set(found)
    for name in faults[0]:
        assert same(found[f"faults/{name}"], [fault[name] for fault in faults]), name
    # steps: names, times, results
    for name in ("pass", "step", "part", "session", "at_s", "seconds", "name", "kind", "where"):
        assert same(found[f"steps/{name}"], [step[name] for step in steps]), name
    assert [json.loads(text) for text in found["steps/stats"]] == [s["stats"] for s in steps]
    assert same(found["steps/shots"], [step["stats"].get("shots", 0) for step in steps])
    assert same(found["steps/photons"], [step["stats"].get("photons", 0) for step in steps])
    decoded = [step["stats"].get("seconds", {}).get("decode", 0) for step in steps]
    assert same(found["steps/decode_s"], decoded)
    kept = 0
    for step in steps:
        for number, value in enumerate(step["values"]):
            stack = f"results/{step['name']}/{number}"
            mine = (found[f"{stack}_pass"] == step["pass"]) & (
                found[f"{stack}_part"] == step["part"]
            )
            assert found[stack].dtype == value.dtype
            assert np.array_equal(found[stack][mine], value, equal_nan=True)
            kept += 1
    assert kept > 100
    # shots
    for name in ("number", "job", "first", "done", "is_last", "session", "at_s"):
        assert same(found[f"segments/{name}"], [item[name] for item in segments]), name
    assert [json.loads(text) for text in found["segments/state"]] == [s["state"] for s in segments]
    assert same(found["segments/retries"], [item["stats"].get("retries", 0) for item in segments])
    assert same(found["electrons/electrons"], np.concatenate([s["electrons"] for s in segments]))
    rows = np.repeat([s["number"] for s in segments], [len(s["electrons"]) for s in segments])
    assert same(found["electrons/electrons_segment"], rows)
    for name in QUALITY:
        wanted = np.concatenate([item["quality"][name] for item in segments])
        assert found[f"shots/{name}"].dtype == np.float32 and same(found[f"shots/{name}"], wanted)
    rows = np.repeat([s["number"] for s in segments], [s["done"] - s["first"] for s in segments])
    assert same(found["shots/segment"], rows)


@pytest.mark.parametrize("ending", ENDINGS)
def test_units_and_the_watermark_are_everywhere(
    ending: str, on_a_bench: Path, exports: dict[str, Path]
) -> None:
    output = exports[ending]
    arrays = arrays_of(output)
    units = {name: said["units"] for name, (_, said) in arrays.items()}
    assert units["electrons/electrons"] == units["steps/photons"] == "photoelectrons"
    assert units["steps/seconds"] == units["faults/lost_s"] == units["steps/encode_s"] == "s"
    assert units["results/layer.0.attention.q/0"] == units["shots/peak"] == "1"
    assert all(bool(said["is_mock"]) for _, said in arrays.values())
    root = h5py.File(output) if ending == ".h5" else zarr.open_group(str(output), mode="r")
    with JournalFile(on_a_bench) as journal:
        about = journal.about()
    assert root.attrs["watermark"].startswith("MOCK")
    assert root.attrs["schema"] == 1 and root.attrs["journal_schema"] == 1
    assert root.attrs["model_digest"] == about["model"]["digest"]
    assert json.loads(root.attrs["versions"]) == about["versions"]
    assert "lightloom" in root.attrs["software"] and bool(root.attrs["is_complete"])
    groups = [root[name] for name in ("steps", "results", "results/layer.0.attention.q", "shots")]
    assert all(bool(group.attrs["is_mock"]) for group in groups)
    if ending == ".h5":
        root.close()


def test_a_run_on_instruments_is_not_called_simulated(on_the_mock: Path, tmp_path: Path) -> None:
    path = tmp_path / "real.db"
    with made(path, on_the_mock) as (journal, _), JournalFile(on_the_mock) as other:
        journal.keep_documents("about", plan=other.about()["plan"] | {"is_mock": False})
        keep_segment(journal, 0)
    exported(path, tmp_path / "real.h5")
    assert not any(said["is_mock"] for _, said in arrays_of(tmp_path / "real.h5").values())
    with h5py.File(tmp_path / "real.h5") as file:
        assert not file.attrs["is_mock"] and "watermark" not in file.attrs


def test_xarray_reads_zarr_with_its_dimensions(on_a_bench: Path, exports: dict[str, Path]) -> None:
    output = exports[".zarr"]
    shots = xarray.open_zarr(output, group="shots")  # a warning would fail
    with JournalFile(on_a_bench) as journal:
        segments = list(journal.segments())
        steps = list(journal.steps())
    assert shots.sizes == {"shots": 13 * 50}
    assert same(shots["dark"].values, np.concatenate([s["quality"]["dark"] for s in segments]))
    electrons = xarray.open_dataset(output, group="electrons", engine="zarr")
    assert electrons["electrons"].dims == ("electrons_row", "electrons_axis_1")
    assert electrons["electrons"].attrs["units"] == "photoelectrons"
    assert electrons["electrons_segment"].dtype == np.int64  # no value was taken as missing
    taken = xarray.open_zarr(output, group="steps")
    assert same(taken["shots"].values, [step["stats"].get("shots", 0) for step in steps])
    with xarray.open_datatree(output, engine="zarr") as tree:
        assert tree.attrs["is_mock"] and "layer.0.attention.q" in tree["results"].children


def test_arrays_of_other_sizes_get_a_stack_of_their_own(on_the_mock: Path, tmp_path: Path) -> None:
    # a generated token attends to one more than the token before it
    path, output = tmp_path / "tokens.db", tmp_path / "tokens.h5"
    rng = np.random.default_rng(5)
    values = [rng.standard_normal((1, 2, 3 + token)).astype(np.float32) for token in range(4)]
    scalar, empty = np.float64(3.5), np.zeros((2, 0, 4), dtype=np.int32)
    with made(path, on_the_mock) as (journal, _):
        known = journal.keep_program("digest", [["attention/qk", "QK^T", "host"]])
        for number, value in enumerate(values):
            journal.keep_pass(
                number, known, {"sizes": {"batch": 1}, "inputs": "", "cuts": [[0, 1]]}
            )
            journal.keep_step((number, 0, 0), [value, scalar, empty], 0.1)
    exported(path, output)
    found = arrays_of(output)
    stack = "results/attention%2Fqk"
    assert np.array_equal(found[f"{stack}/0"][0], values[0])
    for token, value in enumerate(values[1:], 1):
        assert np.array_equal(found[f"{stack}/0_2x{3 + token}"][0], value)
        assert found[f"{stack}/0_2x{3 + token}_pass"][0].tolist() == [token]
    assert found[f"{stack}/1"][0].tolist() == [3.5] * 4
    assert found[f"{stack}/2"][0].shape == (8, 0, 4)


# --- refused outputs -------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_existing_output_is_not_changed(ending: str, on_the_mock: Path, tmp_path: Path) -> None:
    output = tmp_path / f"run{ending}"
    output.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        exported(on_the_mock, output)
    assert output.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["run.csv", "run", "nowhere/run.h5"])
def test_invalid_outputs_are_refused(name: str, on_the_mock: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.h5|no folder"):
        exported(on_the_mock, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", FIRST_ENDING)
def test_nothing_is_left_of_an_export_that_failed(
    ending: str, on_a_bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "damaged.db", tmp_path / f"run{ending}"
    shutil.copy(on_a_bench, path)
    with sqlite3.connect(path) as connection:  # the last table that is read
        connection.execute("UPDATE fault SET document = '{}' WHERE number = 9")
    connection.close()
    with pytest.raises(InputError, match="is damaged"):
        exported(path, output)
    assert not output.exists()

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(InputError, match=r"cannot write .*run.*: No space left on device"):
        exported(on_a_bench, output)
    assert not output.exists()


KILLED = """
import os, sys
from lightloom.scheduler.journal import export
from lightloom.scheduler.journal.journal_file import JournalFile
class Killed(JournalFile):
    def steps(self):
        os._exit(9)
with Killed(sys.argv[1]) as journal:
    export.export(journal, sys.argv[2])
"""


@pytest.mark.parametrize("ending", FIRST_ENDING)
def test_a_killed_export_does_not_look_whole(
    ending: str, on_the_mock: Path, tmp_path: Path
) -> None:
    # half of a run had the name of the whole, and xarray opened it
    output = tmp_path / f"run{ending}"
    killed = [sys.executable, "-c", KILLED, str(on_the_mock), str(output)]
    assert subprocess.run(killed, timeout=60).returncode == 9
    assert not output.exists()
    (draft,) = tmp_path.iterdir()
    assert draft.name.startswith(f".run{ending}.") and draft.name.endswith(".tmp")
    assert exported(on_the_mock, output)["steps"] > 0 and output.exists()  # and again, whole


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_journal_and_one_that_is_being_written_can_be_exported(
    ending: str, on_the_mock: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.db"
    Journal.create(empty).close()
    assert exported(empty, tmp_path / f"empty{ending}") == {}
    with made(tmp_path / "now.db", on_the_mock) as (journal, _):
        keep_segment(journal, 0)
        journal.writer.flush()
        assert exported(tmp_path / "now.db", tmp_path / f"now{ending}")["shots"] == 50


# --- large runs, and the command ------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(exporting, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(exporting, "MAX_BUFFERED_BYTES", 16_384)
    yield


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.usefixtures("small_chunks")
def test_chunks_break_nothing(ending: str, on_the_mock: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "long.db", tmp_path / f"long{ending}"
    with made(path, on_the_mock) as (journal, _):
        kept = [keep_segment(journal, number, 30 + number) for number in range(40)]
    exported(path, output)
    found = arrays_of(output)
    wanted = np.concatenate([segment.electrons for segment in kept])
    assert np.array_equal(found["electrons/electrons"][0], wanted)
    assert len(wanted) > 40 * 29 and found["electrons/electrons"][0].shape[1] == 8
    for place, name in enumerate(QUALITY):
        quality = np.concatenate([segment.quality[:, place] for segment in kept])
        assert same(found[f"shots/{name}"][0], quality)


@pytest.mark.slow
def test_a_long_run_takes_no_more_memory(
    on_the_mock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MAX_BUFFERED_BYTES", 1 << 20)

    def peak(name: str, segments: int) -> int:
        with made(tmp_path / f"{name}.db", on_the_mock) as (journal, _):
            for number in range(segments):
                keep_segment(journal, number, shots=500, slots=128)  # half a megabyte
        tracemalloc.start()
        exported(tmp_path / f"{name}.db", tmp_path / f"{name}.h5")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak("first", 2)  # so that imports and caches do not count below
    short, long = peak("short", 8), peak("long", 48)
    assert long < 1.2 * short + 500_000, (short, long)
    assert long < 12_000_000  # of 25 MB


def test_the_command_says_what_it_wrote(on_the_mock: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return called(tmp_path, "export", *arguments)

    done = run(on_the_mock, "--output", tmp_path / "run.h5")
    assert done.returncode == 0 and "162 steps, 0 shots, 0 faults" in " ".join(done.stdout.split())
    again = run(on_the_mock, "--output", tmp_path / "run.h5")
    assert again.returncode == 2 and len(again.stderr.strip().splitlines()) == 1
    other = run(tmp_path / "run.h5", "--output", tmp_path / "other.h5")
    assert other.returncode == 2 and "not a journal of a run" in other.stderr
