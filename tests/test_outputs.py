"""What a command is asked to write replaces an earlier output of its kind, and nothing else.

`report --output bench.toml` wrote a page over a bench file, without a word and with status 0.
"""

import gzip
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import bench_text, write_bench
from journal_factory import recorded_on_the_mock
from lightloom.backends.optics.calibration_file import KIND as CALIBRATION
from lightloom.benchmarks.__main__ import app as studies
from lightloom.benchmarks.plots import save_picture
from lightloom.instruments import InputError, Timeline
from lightloom.instruments.files import check_output, whole_output, write_document, write_output
from lightloom.scheduler.runs.trace import KIND as TRACE
from lightloom.scheduler.runs.trace import read_trace, write_trace
from typer.testing import CliRunner

from lightloom.cli.app import app
from lightloom.report.energy import ENERGY_PAGE
from lightloom.report.excerpt import excerpt
from lightloom.report.gantt import TRACE_PAGE, TRACE_PICTURE, picture
from lightloom.report.page import render, write_page
from lightloom.report.run import RUN_PAGE

MINE = bench_text().encode()  # what a user wrote, and would miss


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "run.db"
    recorded_on_the_mock(path, 2)
    return path


def trace(path: Path) -> Path:
    timeline = Timeline()
    timeline.add("host", "softmax", 0.0, 1.0, layer=0)
    write_trace(path, {"measured": timeline}, {"is_mock": True, "model": "digits"})
    return path


# --- every option that writes a file --------------------------------------------------------------

COMMANDS = {
    "report --output": ("report", "JOURNAL", "--output", "mine.html"),
    "report of a trace": ("report", "TRACE", "--output", "mine.html"),
    "report of a picture": ("report", "TRACE", "--output", "mine.svg"),
    "report beside": ("report", "JOURNAL"),
    "plan --trace": ("plan", "--trace", "mine.json"),
    "plan --trace, packed": ("plan", "--trace", "mine.json.gz"),
    "run --trace": ("run", "--limit", "2", "--trace", "mine.json"),
    "run --record": ("run", "--limit", "2", "--record", "mine.db"),
    "energy --html": ("energy", "--no-machine", "--html", "mine.html"),
    "benchmark --output": ("benchmark", "--repeats", "1", "--output", "mine.json"),
    "benchmark --picture": ("benchmark", "--repeats", "1", "--picture", "mine.svg"),
    "sweep --output": ("sweep", "--limit", "2", "--workers", "0", "--output", "mine.json"),
    "export, HDF5": ("export", "JOURNAL", "--output", "mine.h5"),
    "export, Zarr": ("export", "JOURNAL", "--output", "mine.zarr"),
    "init": ("init", "mine.toml"),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_a_file_of_the_user_is_left_alone(
    what: str, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"JOURNAL": tmp_path / "mine.db", "TRACE": tmp_path / "trace.json"}
    if "JOURNAL" in COMMANDS[what]:
        places["JOURNAL"].write_bytes(journal.read_bytes())
    trace(places["TRACE"])
    name = "mine.html" if what == "report beside" else COMMANDS[what][-1]
    Path(name).write_bytes(MINE)
    before = sorted(tmp_path.iterdir())
    done = CliRunner().invoke(app, [str(places.get(part, part)) for part in COMMANDS[what]])
    assert done.exit_code == 2, done.output
    assert name in done.output and "Traceback" not in done.output
    assert Path(name).read_bytes() == MINE
    assert [path for path in sorted(tmp_path.iterdir()) if path.suffix != ".lock"] == before


STUDIES = {
    "decoded-token": [],
    "light-levels": ["--model", "digits", "--text", "x"],
    "matmul": [],
    "model-speed": [],
    "pipeline": [],
    "scaling": ["family"],
    "scaling-layers": ["--model", "digits"],
    "shot-overhead": [],
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_leaves_a_file_of_the_user_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "1"))
    path = tmp_path / "mine.json"
    path.write_bytes(MINE)
    option = "--trace" if name == "pipeline" else "--json"
    done = CliRunner().invoke(studies, [name, *STUDIES[name], option, str(path)])
    assert done.exit_code == 2 and "already exists and is not a" in done.output
    assert path.read_bytes() == MINE


def test_align_leaves_a_file_of_the_user_alone(tmp_path: Path) -> None:
    bench = write_bench(tmp_path, as_found=True, calibration="notes.toml")
    notes = tmp_path / "notes.toml"
    notes.write_bytes(MINE)
    done = CliRunner().invoke(app, ["align", "--bench", str(bench)])
    assert done.exit_code == 2 and "notes.toml already exists" in done.output
    assert notes.read_bytes() == MINE


def test_two_outputs_have_two_names(tmp_path: Path) -> None:
    path = str(tmp_path / "run.json")
    done = CliRunner().invoke(app, ["run", "--limit", "2", "--record", path, "--trace", path])
    assert done.exit_code == 2 and "--record and --trace are both" in done.output
    assert not list(tmp_path.iterdir())


# --- what may be replaced ------------------------------------------------------------------------


def svg_picture(path: Path) -> None:
    shown = excerpt(read_trace(trace(path.with_name("trace.json"))), None)
    write_page(path, picture(shown), TRACE_PICTURE)


def drawn(path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(2, 2))
    figure.subplots().plot([1, 2], [1, 2])
    save_picture(figure, path, "lightloom benchmark picture")


def html(kind: str) -> Callable[[Path], None]:
    page = render("base.html", kind, title="A title", lead="and more")
    return lambda path: write_page(path, page, kind)


def document(path: Path) -> None:
    write_document(path, {"schema": 1}, "lightloom benchmark")


def calibration(path: Path) -> None:
    write_output(path, json.dumps({"schema": 1, "kind": CALIBRATION}).encode(), CALIBRATION)


OUTPUTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "run page": ("a.html", RUN_PAGE, html(RUN_PAGE)),
    "trace page": ("a.html", TRACE_PAGE, html(TRACE_PAGE)),
    "energy page": ("a.html", ENERGY_PAGE, html(ENERGY_PAGE)),
    "trace picture": ("a.svg", TRACE_PICTURE, svg_picture),
    "drawn picture": ("a.svg", "lightloom benchmark picture", drawn),
    "drawn picture, PNG": ("a.png", "lightloom benchmark picture", drawn),
    "trace": ("a.json", TRACE, trace),
    "trace, packed": ("a.json.gz", TRACE, trace),
    "benchmark": ("a.json", "lightloom benchmark", document),
    "calibration": ("a.json", CALIBRATION, calibration),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_an_earlier_output_of_the_same_kind_is_replaced(what: str, tmp_path: Path) -> None:
    # whoever writes a report each morning need not remove yesterday's
    name, kind, write = OUTPUTS[what]
    path = tmp_path / name
    write(path)
    first = path.read_bytes()
    path.write_bytes(first + b"\n" * ("packed" not in what))
    write(path)
    assert path.read_bytes() == first
    others = {kind for _, kind, _ in OUTPUTS.values()} - {kind}
    for other in others:
        with pytest.raises(InputError, match=f"is not a {other}, so it is not replaced"):
            check_output(path, other)
    path.write_bytes(b"")  # as mktemp makes it: nothing to lose
    write(path)
    assert path.read_bytes() == first


def test_a_report_replaces_a_report(journal: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.html"
    for _ in range(2):
        done = CliRunner().invoke(app, ["report", str(journal), "--output", str(output)])
        assert done.exit_code == 0, done.output
    assert f'content="{RUN_PAGE}"' in output.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [
        b"notes on lightloom trace",
        b'# "lightloom trace"\nschema = 1\n',
        b'"lightloom trace"',
        gzip.compress(b'"lightloom trace"', mtime=0),
        b"\x1f\x8b damaged",
        b"<!DOCTYPE html><p>lightloom traces</p>",
        b'{"kind": "lightloom trace page"}',
    ],
)
def test_a_file_that_only_speaks_of_lightloom_is_not_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="already exists"):
        trace(path)
    assert path.read_bytes() == content


# --- whole or not at all -------------------------------------------------------------------------


def test_an_output_that_fails_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    document(path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), whole_output(path, "lightloom benchmark") as draft:
        draft.write_bytes(b"half")
        raise ZeroDivisionError
    with pytest.raises(InputError, match=r"cannot write the benchmark .*: No space"):  # noqa: SIM117
        with whole_output(path, "lightloom benchmark") as draft:
            draft.write_bytes(b"half")
            raise OSError(28, "No space left on device")
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_rights_and_links_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    document(path)
    path.chmod(0o600)
    link.symlink_to(path)
    document(link)
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o400)
    with pytest.raises(InputError, match="read-only"):
        document(path)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no devices")
def test_a_device_is_written_to_and_stays_one() -> None:
    # as root, a draft would take the name of /dev/null for all programs
    document(Path("/dev/null"))
    assert not Path("/dev/null").is_file()
    reading, writing = os.pipe()
    document(Path(f"/dev/fd/{writing}"))
    assert json.loads(os.read(reading, 1000))["kind"] == "lightloom benchmark"
    os.close(reading)
    os.close(writing)


def test_what_came_meanwhile_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match="already exists"), whole_output(path) as draft:
        draft.write_bytes(np.zeros(3).tobytes())
        path.write_bytes(MINE)
    assert path.read_bytes() == MINE and list(tmp_path.iterdir()) == [path]
