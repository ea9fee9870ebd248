"""Files, replies and arguments that nearly are what they should be are refused, or read rightly.

First what fuzzing has brought to light; then hypothesis makes inputs, and looks for the smallest
one that fails. The whole campaign is `python -m lightloom.benchmarks.fuzz`.
"""

import json
from pathlib import Path

import pytest
from lightloom.backends.bench import example_file, load_bench
from lightloom.backends.bench.calibration import Calibration
from lightloom.instruments import InputError

# --- what was found ------------------------------------------------------------------------------

BENCH = example_file(tiny=True)
DEEP = f"{'[' * 30_000}{']' * 30_000}"


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ('name = "', f'deep = {DEEP}\nname = "', "nested too deeply"),
        ('name = "', f'long = {"9" * 5000}\nname = "', "not valid TOML"),
        ("seed = 0", "seed = true", "world.seed = True is not usable: true and false"),
        ("element_px = 2", "element_px = true", "encoding.element_px = True"),
        ("block = [4, 4]", "block = [true, 4]", "encoding.block"),
        ("retries = 3", "retries = false", "limits.retries = False"),
        ("extinction_ratio = 500.0", "extinction_ratio = inf", "world.extinction_ratio = inf"),
        ('driver = "simulated-source"', "driver = [1]", r"unknown driver \[1\]"),
        ('timeout_s = "5 s"', f"timeout_s = 1{'0' * 400}", "want a finite number of s"),
        ("[encoding]", f"encoding = '{'x' * 3000}'\n[other]", "x ... x"),
    ],
)
def test_bench_files(tmp_path: Path, before: str, after: str, complaint: str) -> None:
    path = tmp_path / "bench.toml"
    assert BENCH.count(before) == 1
    path.write_text(BENCH.replace(before, after), encoding="utf-8")
    with pytest.raises(InputError, match=complaint) as caught:
        load_bench(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_number_that_was_changed_in_a_calibration_is_found(tmp_path: Path) -> None:
    # A figure of the header would have been used as if it had been measured.
    path = tmp_path / "bench.toml"
    path.write_text(BENCH, encoding="utf-8")
    with load_bench(path) as bench:
        made = Calibration.begin(bench)
    path = tmp_path / "bench.calibration.json"
    made.write(path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["binding"]["power_w"] == 0.001
    path.write_text(text.replace('"power_w": 0.001', '"power_w": 0.002'), encoding="utf-8")
    with pytest.raises(InputError, match="is not as it was written"):
        Calibration.read(path)
    path.write_text(json.dumps(json.loads(text)), encoding="utf-8")  # only laid out anew
    assert Calibration.read(path).binding == made.binding
