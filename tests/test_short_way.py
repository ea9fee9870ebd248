"""An activation goes to light and back through few files, so that a newcomer can follow it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

COUNTER = Path(__file__).parent / "kit" / "activation_path.py"
MOST_FILES = {  # as the docstring of the counter says; a smaller number may always be set
    "mock": {"whole": 68, "on_the_way": 31},
    "bench": {"whole": 113, "on_the_way": 62},
}


@pytest.mark.parametrize("backend", sorted(MOST_FILES))
def test_an_activation_passes_few_files(tmp_path: Path, backend: str) -> None:
    # to find a wrong number, a person has to read all of them
    options = []
    if backend == "bench":
        init = [sys.executable, "-m", "lightloom", "init", "bench.toml", "--tiny"]
        subprocess.run(init, cwd=tmp_path, check=True, capture_output=True)
        options = ["--bench", "bench.toml"]
    done = subprocess.run(
        [sys.executable, COUNTER, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stderr.splitlines()[-1])
    for what, most in MOST_FILES[backend].items():
        assert "lightloom.scheduler.executor" in files[what]
        assert len(files[what]) <= most, f"{what}: {len(files[what])} files: {files[what]}"
