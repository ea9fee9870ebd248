"""Throughput, agreement and scaling studies: `python -m lightloom.benchmarks NAME`.

Each study is a module of plain functions, and a command of `__main__`. The libraries of `lightloom
benchmark` and `lightloom sweep` are here, too.
"""

if __name__ != "lightloom.benchmarks":
    raise ImportError("import lightloom.benchmarks, not benchmarks")
