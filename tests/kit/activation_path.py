"""Counts the files of lightloom that an activation passes, for one digit of `lightloom run`.

A file counts once when Python code of it is called, in any thread. `whole` counts from the start of
the command to its end: options, model, plan, run, report. `on_the_way` counts only within a pass
(`Model.run_pass`): from the image through light and back to the scores. What runs while modules
are imported does not count, since all are imported before. Compiled kernels are not seen.

    python tests/kit/activation_path.py                       # on the mock
    python tests/kit/activation_path.py --bench bench.toml    # on a bench
"""

import importlib
import json
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from package_modules import can_import, modules


class FileCounter:
    """Notes the files that calls enter, as a function for `sys.setprofile`."""

    def __init__(self) -> None:
        self.whole: set[str] = set()
        self.on_the_way: set[str] = set()
        self._passes = 0  # that are running

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call":
            self._passes += code.co_name == "run_pass"
            self.whole.add(code.co_filename)
            if self._passes:
                self.on_the_way.add(code.co_filename)
        elif event == "return":
            self._passes -= code.co_name == "run_pass"


def count_files(options: list[str]) -> dict[str, list[str]]:
    """Run `lightloom run --limit 1` with further options: what is counted -> modules, sorted."""
    known = {}
    for name, path in modules().items():
        if can_import(name):
            importlib.import_module(name)
        known[path.resolve()] = name
    counter = FileCounter()
    sys.argv = ["lightloom", "run", "--limit", "1", *options]
    main = importlib.import_module("lightloom.__main__").main
    threading.setprofile(counter)
    sys.setprofile(counter)
    try:
        main()
    except SystemExit as end:
        assert not end.code
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    found = {"whole": counter.whole, "on_the_way": counter.on_the_way}
    paths = {what: {Path(file).resolve() for file in files} for what, files in found.items()}
    return {what: sorted(known[p] for p in some if p in known) for what, some in paths.items()}


if __name__ == "__main__":
    print(json.dumps(count_files(sys.argv[1:])), file=sys.stderr)
