"""Files that an earlier lightloom wrote still load, with one remark on words that have changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import started
from lightloom.backends.bench import BenchBackend, load_bench, read_bench_file
from lightloom.backends.bench.binding import check_calibration
from lightloom.backends.optics.calibration_file import OLD_STEPS, Calibration
from lightloom.scheduler.journal.journal_file import JournalFile

import lightloom

BEFORE = Path(__file__).parent / "written_before"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEFORE, tmp_path / "lab"))


def test_bench_files_are_read_with_one_remark(lab: Path) -> None:
    with pytest.warns(UserWarning, match='block" is now "single-pixel", .*wrong-light') as remarks:
        file = read_bench_file(lab / "calibrated.toml")
    assert len(remarks) == 1
    assert file.layout == "single-pixel"
    assert file.faults["unexpected-intensity"] == "retry 2, pause"
    assert {"checksum-mismatch", "protocol-error", "drift-exceeded"} < set(file.faults)
    with pytest.warns(UserWarning, match='known" is now "ground-truth"') as remarks:
        assert read_bench_file(lab / "bench.toml").calibration == "ground-truth"
    assert len(remarks) == 1


def test_a_calibration_still_serves_its_bench(lab: Path) -> None:
    with pytest.warns(UserWarning, match="old words") as remarks:
        bench = load_bench(lab / "calibrated.toml")
        backend = BenchBackend(bench)
    assert [str(remark.message).split(" holds")[0] for remark in remarks] == [
        f"the bench file {lab / 'calibrated.toml'}",
        f"the calibration {lab / 'calibrated.calibration.json'}",
    ]
    chance = np.random.Generator(np.random.Philox(1))
    x, w = chance.standard_normal((4, 16)), chance.standard_normal((3, 16))
    try:
        result = backend.matmul(x, w)
    finally:
        backend.close()
    assert result.variance is not None
    z = (result.y - x @ w.T) / np.sqrt(result.variance)
    assert np.abs(z).max() < 5  # of 12 numbers, exceeded once in 100,000 by chance
    with pytest.warns(UserWarning, match="flat is now flat_field"):
        calibration = Calibration.read(lab / "calibrated.calibration.json")
    assert set(OLD_STEPS.values()) < set(calibration.steps)
    with bench:
        check_calibration(bench, calibration, calibration.steps, 3.6e9)


def test_a_stopped_run_is_resumed(lab: Path) -> None:
    path = lab / "stopped.db"
    with pytest.warns(UserWarning, match="old words") as remarks:
        run = lightloom.resume(path, "digits", lab / "bench.toml", ["model", "versions"])
    assert sum("the journal" in str(remark.message) for remark in remarks) == 1
    assert run.results == {"classes": [7]}
    with JournalFile(path) as journal, pytest.warns(UserWarning, match="remedy is now recovery"):
        faults = list(journal.faults())
    assert {(fault["kind"], fault["recovery"]) for fault in faults} == {
        ("unexpected-intensity", "retry")
    }


def test_journals_are_reported_and_exported(lab: Path) -> None:
    for name in ("finished.db", "stopped.db"):
        page, archive = lab / f"{name}.html", lab / f"{name}.h5"
        assert started(lab, "report", name, "--output", page).returncode == 0
        assert "digits" in page.read_text(encoding="utf-8")
        assert started(lab, "export", name, "--output", archive).returncode == 0
        assert archive.stat().st_size


def test_old_words_on_the_command_line_are_read(lab: Path) -> None:
    done = started(lab, "init", "new.toml", "--layout", "block")
    assert done.returncode == 0 and "block is now single-pixel" in done.stderr
    assert read_bench_file(lab / "new.toml").layout == "single-pixel"


def test_drivers_may_raise_errors_by_their_old_names() -> None:
    from lightloom import instruments

    with pytest.warns(UserWarning, match="BadReply is now ProtocolError"):
        assert instruments.BadReply is instruments.ProtocolError  # type: ignore[attr-defined]


def test_a_worker_leaves_remarks_to_its_operator(lab: Path) -> None:
    shutil.copy(lab / "bench.toml", lab / "other.toml")
    options = ("--bench", "other.toml", "--limit", 1, "--no-reference", "--workers", 2)
    done = started(lab, "plan", "--bench", "bench.toml")
    assert done.returncode == 0 and done.stderr.count("old words") == 1
    done = started(lab, "run", "--bench", "bench.toml", *options, "--placement", "host")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("old words") == 2 and "UserWarning" not in done.stderr
