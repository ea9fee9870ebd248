"""The bench: instruments that multiply, described by one TOML file, shot by shot."""

from .backend import BenchBackend
from .bench import Bench, load_bench
from .check import FIRST_PRODUCTS, check_bench
from .file import BenchFile, example_file, read_bench_file
from .group import BenchGroup, Claims, check_together, open_benches
from .host import BenchHost, measure_host
from .layouts import BlockLayout, ImagedLayout, Layout, LineLayout

__all__ = [
    "FIRST_PRODUCTS",
    "Bench",
    "BenchBackend",
    "BenchFile",
    "BenchGroup",
    "BenchHost",
    "BlockLayout",
    "Claims",
    "ImagedLayout",
    "Layout",
    "LineLayout",
    "check_bench",
    "check_together",
    "example_file",
    "load_bench",
    "measure_host",
    "open_benches",
    "read_bench_file",
]
