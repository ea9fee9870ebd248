"""Throughput and scaling studies, each runnable: `python -m lightloom.benchmarks.NAME`."""

if __name__ != "lightloom.benchmarks":
    raise ImportError("import lightloom.benchmarks, not benchmarks")
