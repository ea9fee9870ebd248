"""Throughput, agreement and scaling studies: `python -m lightloom.benchmarks NAME`.

Each study is a module of plain functions, and a command of `__main__`. The libraries of `lightloom
benchmark` and `lightloom sweep` are here, too.
"""

if __name__ != "lightloom.benchmarks":
    raise ImportError("import lightloom.benchmarks, not benchmarks")

import sys

_PROGRAM = f"{__name__}."
for _word in sys.orig_argv[1:3]:  # `python -m lightloom.benchmarks.matmul` would do nothing
    if _word.startswith(_PROGRAM) and _word != f"{_PROGRAM}__main__":
        _study = _word.removeprefix(_PROGRAM).replace("_", "-")
        print(f"lightloom: run it as: python -m lightloom.benchmarks {_study}", file=sys.stderr)
        sys.exit(2)
