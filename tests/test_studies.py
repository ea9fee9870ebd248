"""Studies and campaigns are commands: each has help, and refuses mistakes in one sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightloom.benchmarks.__main__ import app
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
NAMES = (
    *("agreement", "calibration", "decoded-token", "forecast", "journal", "light-levels", "matmul"),
    *(
        "model-speed",
        "pipeline",
        "scaling",
        "scaling-layers",
        "shot-overhead",
        "twins",
        "two-benches",
    ),
)
PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def test_help_lists_every_study_in_one_line() -> None:
    shown = PLAIN.sub("", CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output)
    listed = re.findall(r"^│ (\S+) +\S", shown.partition("Commands")[2], re.MULTILINE)
    assert sorted(listed) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_has_help_with_an_example(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert f"lightloom.benchmarks {name}" in " ".join(PLAIN.sub("", done.output).split())


def test_help_of_studies_loads_no_arithmetic() -> None:
    # help that takes seconds is not read
    code = (
        "import sys; from lightloom.benchmarks.__main__ import app\n"
        "try: app(['matmul', '--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('numpy', 'numba') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).endswith("[]\n")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["matmul", "--rows", "1,x"], "--rows: 'x' is not a value"),
        (["matmul", "--rows", "0"], "--rows 0: give numbers of at least 1, each once"),
        (["matmul", "--repeats", "0"], "Invalid value for '--repeats'"),
        (["matmul", "--photons", "1,0"], "--photons 1,0: give numbers above 0, up to 1e+09"),
        (["model-speed", "--threads", "0"], "--threads 0: give numbers of at least 1, each once"),
        (["model-speed", "--threads", "1,1"], "give numbers of at least 1, each once"),
        (["model-speed", "--profiles", "sun"], "'sun'"),
        (["model-speed", "--profiles", "ideal,ideal"], "give each profile once"),
        (["model-speed", "--model", "digits"], "'digits' does not generate text"),
        (["model-speed", "--model", "gpt2"], "1024 tokens and 16 new ones are more than"),
        (["decoded-token", "--model", "digits"], "'digits' does not generate text"),
        (["scaling", "family", "--encodings", "on"], "unknown encoding 'on'; choose from"),
        (["agreement", "missing.toml"], "missing.toml"),
        (["forecast", "missing"], "no model 'missing'"),
        (
            ["light-levels", "--model", "digits", "--text", "missing.txt"],
            "cannot read 'missing.txt'",
        ),
        (["calibration", "--layout", "round"], "Invalid value for '--layout'"),
        (["nothing"], "No such command"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and complaint in PLAIN.sub("", done.output)
    assert "Traceback" not in done.output


def test_a_study_that_finds_a_fault_ends_with_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    # a check that cannot fail in a script of the laboratory checks nothing
    from lightloom.benchmarks import agreement

    one = agreement.Estimate(1.1, 0.001, 0.001)
    found = agreement.Agreement("line", 7200, 0.1, one, one, one, None, 1.0, 2.0)
    monkeypatch.setattr(agreement, "measure", lambda files, outputs: [found])
    done = CliRunner().invoke(app, ["agreement"])
    assert done.exit_code == 1 and "BEYOND ITS LIMIT" in done.output


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightloom.benchmarks import two_benches

    def full(shots: int, repeats: int) -> None:
        raise OSError(28, "No space left on device", "bench.toml")

    monkeypatch.setattr(two_benches, "measure", full)
    done = CliRunner().invoke(app, ["two-benches"])
    assert done.exit_code == 1
    assert done.output == "lightloom: cannot use 'bench.toml': No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "row"),
    [
        (["crashes", "--kills", "1"], r"^mock +[12] "),
        (["fuzz", "--only", "power meters", "--inputs", "20"], r"^power meters +20 "),
    ],
)
def test_a_campaign_runs_from_a_checkout(words: list[str], row: str, tmp_path: Path) -> None:
    # in processes that it starts, too, wherever it is called
    command = [sys.executable, str(ROOT / "tests" / "robustness"), *words]
    printed = subprocess.check_output(command, text=True, cwd=tmp_path)
    assert re.search(row, printed, re.MULTILINE)


def test_a_campaign_refuses_an_unknown_target(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "robustness"), "fuzz", "--only", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and "no target 'nothing'" in PLAIN.sub("", done.stderr)


def test_the_form_of_before_says_how_to_run_a_study() -> None:
    # It would measure nothing, and end well.
    command = [sys.executable, "-m", "lightloom.benchmarks.two_benches"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "lightloom: run it as: python -m lightloom.benchmarks two-benches\n"
