"""Time what the host does for one shot of a bench, and how fast the simulated light is.

    python -m lightloom.benchmarks.shot_overhead --json bench.json

At 1920 x 1152 pixels, for the imaged and the line layout: encoding a tile into a frame, decoding an
image into numbers, judging these by their checksums, and everything of a shot that is neither
simulated light nor waiting (on a bench whose light takes no time to simulate); then simulated shots
per second. Medians; nothing here fails on a slow machine.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..instruments import limit_threads
from ..instruments.files import check_output, write_document

KIND = "lightloom bench speed"


def median_ms(call: Callable[[], Any], repeats: int = 50) -> float:
    """Return the median time of a call in milliseconds, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def open_example(layout: str, tiny: bool, light: str, folder: Path) -> Any:
    """Open a simulated bench on the virtual clock."""
    from ..backends.bench import BenchBackend, example_file, load_bench

    path = folder / f"{layout}-{tiny}-{light}.toml"
    path.write_text(example_file(layout, tiny=tiny) + f'light = "{light}"\n', encoding="utf-8")
    backend = BenchBackend(load_bench(path))
    backend.open()
    return backend


def measure(layout: str, folder: Path) -> dict[str, float]:
    """Return milliseconds per stage, and shots per second, of one layout."""
    import numpy as np

    chance = np.random.Generator(np.random.Philox(7))
    backend = open_example(layout, False, "pixels", folder)
    where = backend.optical_model.layout
    slots = 1 if where.shares_input else where.slots
    levels = chance.integers(0, 256, (slots, where.length), dtype=np.uint8)
    weights = chance.integers(0, 256, (where.slots, where.length), dtype=np.uint8)
    image = chance.integers(0, 4000, backend.bench.camera.sensor_shape, dtype=np.uint16)
    found = {
        "encode_input_ms": median_ms(lambda: where.frame("input", levels, 3)),
        "encode_weight_ms": median_ms(lambda: where.frame("weight", weights, 3)),
        "decode_ms": median_ms(lambda: where.electrons(image)),
        "check_ms": check_ms(backend),
    }
    found["shots_per_s"] = shots_per_second(backend, 60)
    backend.close()
    quick = open_example(layout, False, "timing", folder)
    found["host_per_shot_ms"] = 1e3 / shots_per_second(quick, 200)
    quick.close()
    return found


def check_ms(backend: Any) -> float:
    """Return the time to judge a shot of a full frame by its checksums."""
    import numpy as np

    from ..backends.bench.product import Product

    chance = np.random.Generator(np.random.Philox(9))
    length = backend.optical_model.layout.length
    w = backend.prepare(chance.standard_normal((backend.geometry.outputs // 2, length)))
    x = np.abs(chance.standard_normal((1, 1, length)))
    job = Product(backend.setup, "check", x, w.content[0], {}).jobs[0]
    electrons = backend.shots.decoder.model.passed_e(job.input(0), job.weight(0))
    check = job.check
    assert check is not None
    return median_ms(lambda: check(0, 0, electrons), 1000)


def shots_per_second(backend: Any, shots: int) -> float:
    """Multiply until so many shots are taken."""
    import numpy as np

    chance = np.random.Generator(np.random.Philox(8))
    where = backend.optical_model.layout
    rows = max((backend.geometry.outputs or 2) // 2, 1)  # one vector a shot: its rails fill it
    w = backend.prepare(chance.standard_normal((rows, where.length)))
    x = np.abs(chance.standard_normal((shots, where.length)))
    backend.matmul(x[:2], w)
    start = time.perf_counter()
    result = backend.matmul(x, w)
    return float(result.stats.shots / (time.perf_counter() - start))


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, help="of arithmetic (the light uses all cores)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.json:
        check_output(options.json, KIND)
    limit_threads(options.threads)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for layout in ("imaged", "line"):
            results[layout] = measure(layout, Path(name))
        tiny = open_example("imaged", True, "pixels", Path(name))
        results["imaged, tiny"] = {"shots_per_s": shots_per_second(tiny, 2000)}
        tiny.close()
    for layout, figures in results.items():
        print(layout)
        for what, value in figures.items():
            print(f"    {what:<20}{value:10.3g}")
    if options.json:
        document = {"schema": 1, "results": results}
        write_document(options.json, document, KIND)


if __name__ == "__main__":
    main()
