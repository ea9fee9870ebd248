"""The bench: instruments that multiply, described by one TOML file, shot by shot."""

from .backend import BenchBackend
from .bench import Bench, load_bench
from .bench_group import BenchGroup, Claims, check_together, open_benches
from .check import FIRST_PRODUCTS, check_bench, ignored_keys
from .config import BenchFile, example_file, read_bench_file
from .host_timing import measure_host

__all__ = [
    "FIRST_PRODUCTS",
    "Bench",
    "BenchBackend",
    "BenchFile",
    "BenchGroup",
    "Claims",
    "check_bench",
    "check_together",
    "example_file",
    "ignored_keys",
    "load_bench",
    "measure_host",
    "open_benches",
    "read_bench_file",
]
