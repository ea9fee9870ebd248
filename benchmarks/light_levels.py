"""Perplexity of a language model against light: every encoding and detection, several seeds.

    python -m lightloom.benchmarks.light_levels --model smollm2.gguf --text topics.txt

Projections on light, 8-bit inputs and weights; a converter of 8 bits whose ranges per output row
come from a calibration text, or none (`--readout-bits 0`), which leaves the light's own noise. The
spread is that of the noise: the standard deviation of a run over the seeds.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from ..instruments.files import check_output, write_document

KIND = "lightloom light levels"
LEVELS = (1e6, 1e5, 1e4, 1e3)
BENCHES = (
    ("abs-split", "balanced"),
    ("abs-split", "per-reading"),
    ("push-pull", "balanced"),
    ("push-pull", "per-reading"),
    ("offset", "balanced"),  # one rail, one reading: both detections are the same
)


def measure(
    model_path: str,
    rows: Any,
    bench: tuple[str, str],
    readout_bits: int | None,
    levels: list[float],
    seeds: int,
) -> dict[float, list[float]]:
    """Return the perplexities of every seed: light level -> [seeds]."""
    from ..backends import MockBackend, OpticsProfile
    from ..models import load_model

    model, ranges = load_model(model_path), None
    found: dict[float, list[float]] = {}
    for level in levels:
        profile = OpticsProfile(
            input_bits=8,
            weight_bits=8,
            readout_bits=readout_bits,
            encoding=bench[0],
            detection=bench[1],
            photons_full_scale=level,
        )
        backend = MockBackend(profile)
        executor = model.executor(backend, "projections")
        if ranges is not None:
            executor.ranges = ranges  # they do not depend on the light
        found[level] = []
        for seed in range(seeds):
            backend.seed = seed
            found[level].append(model.perplexity(rows, backend, "projections"))
        ranges = executor.ranges
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the study, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=8, help="rows of 256 tokens")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--readout-bits", type=int, default=8, help="0: no converter")
    parser.add_argument("--encodings", nargs="+", default=sorted({name for name, _ in BENCHES}))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.json:
        check_output(options.json, KIND)
    from ..models import load_model

    model = load_model(options.model)
    rows = model.rows_of(options.text.read_text(encoding="utf-8"))[: options.limit]
    digital = model.perplexity(rows)
    print(f"digital {digital:.2f}; mean and standard deviation over {options.seeds} seeds")
    print(f"{'electrons at full scale':<24}" + "".join(f"{p:>18.0e}" for p in options.levels))
    results = []
    bits = options.readout_bits or None
    for encoding, detection in (bench for bench in BENCHES if bench[0] in options.encodings):
        found = measure(
            options.model, rows, (encoding, detection), bits, options.levels, options.seeds
        )
        cells = [_cell(values) for values in found.values()]
        name = encoding if encoding == "offset" else f"{encoding}, {detection}"
        print(f"{name:<24}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
        results.append({"encoding": encoding, "detection": detection, "perplexity": found})
        if options.json:
            document = {
                "schema": 1,
                "digital": digital,
                "readout_bits": bits,
                "results": results,
            }
            write_document(options.json, document, KIND)


def _cell(values: list[float]) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    mean = statistics.mean(values)
    form = ".2f" if mean < 100 else ".0f" if mean < 1e5 else ".0e"
    return f"{mean:{form}} +- {spread:{form}}"


if __name__ == "__main__":
    main()
