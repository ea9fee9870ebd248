"""Time the body of a GPT-2-small-sized model with every projection on the mock, beside float32.

    python -m lightloom.benchmarks.gpt2_forward --threads 1

Twelve layers of width 768 with seeded random weights, a vocabulary of 512 so that the head does not
count; one pass over 128 tokens, and one more token after them with a key-value cache. The float32
run is lightloom's digital backend on numpy, whose program and host steps are the same; the mock has
8-bit modulators and converter, balanced detection, 1e5 electrons. Rounds are interleaved.
"""

import argparse
import statistics
import time
from pathlib import Path

from ..instruments import limit_threads
from ..instruments.files import check_output, write_document

KIND = "lightloom body"

TOKENS, NEW_TOKENS, VOCABULARY = 128, 8, 512


def measure(repeats: int) -> dict[str, dict[str, list[float]]]:
    """Time every backend: what -> backend -> seconds of each round."""
    import numpy as np

    from ..backends import Backend, DigitalBackend, MockBackend, OpticsProfile
    from ..models import Cache
    from ..models.shapes import sized_model, with_random_weights
    from .matmul import BENCH

    model = with_random_weights(sized_model(768, 12, vocabulary=VOCABULARY, context=1024))
    tokens = np.random.Generator(np.random.Philox(1)).integers(0, VOCABULARY, (1, TOKENS))
    backends: dict[str, Backend] = {"float32 numpy": DigitalBackend()}
    for encoding in ("push-pull", "abs-split", "offset"):
        backends[encoding] = MockBackend(OpticsProfile(**BENCH, encoding=encoding))
    seconds: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in backends} for what in ("128 tokens", "one token")
    }
    for turn in range(repeats + 1):  # the first one warms up
        for name, backend in backends.items():
            cache = Cache()
            start = time.perf_counter()
            model.forward(tokens, cache=cache, backend=backend, placement="projections")
            took = [time.perf_counter() - start]
            for _ in range(NEW_TOKENS):
                start = time.perf_counter()
                model.forward(tokens[:, :1], cache=cache, backend=backend, placement="projections")
                took.append(time.perf_counter() - start)
            if turn:
                seconds["128 tokens"][name].append(took[0])
                seconds["one token"][name] += took[1:]
    return seconds


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.json:
        check_output(options.json, KIND)
    limit_threads(options.threads)
    seconds = measure(options.repeats)
    for what, times in seconds.items():
        medians = {name: statistics.median(values) for name, values in times.items()}
        base = medians["float32 numpy"]
        shares = ", ".join(f"{name} {m / base:.2f}" for name, m in medians.items() if m != base)
        print(f"{what}: float32 numpy {1e3 * base:.1f} ms; of that time {shares}")
    if options.json:
        document = {"schema": 1, "threads": options.threads, "seconds": seconds}
        write_document(options.json, document, KIND)


if __name__ == "__main__":
    main()
