"""Time a GPT-2-small-sized model with every projection on the mock, beside float32.

    python -m lightloom.benchmarks gpt2-forward --threads 1

Twelve layers of width 768 with seeded random weights, and a vocabulary of 512, so that the head
hardly counts. One pass takes 128 tokens, and one more token after them with a key-value cache. The
float32 run is lightloom's digital backend on numpy, with the same program and host steps. The mock
has 8-bit modulators and converter, balanced detection, 1e5 electrons. Rounds are interleaved.
"""

import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ..backends import Backend, DigitalBackend, MockBackend, OpticsProfile
from ..instruments.table import Column, Table
from ..models import Cache
from ..models.shapes import sized_model, with_random_weights
from .matmul import BENCH, NUMPY
from .stopwatch import seconds_of

KIND = "lightloom body"

TOKENS, NEW_TOKENS, VOCABULARY = 128, 8, 512


def measure(repeats: int) -> dict[str, dict[str, list[float]]]:
    """Time every backend: what -> backend -> seconds of each round."""
    model = with_random_weights(sized_model(768, 12, vocabulary=VOCABULARY, context=1024))
    tokens = np.random.Generator(np.random.Philox(1)).integers(0, VOCABULARY, (1, TOKENS))
    backends: dict[str, Backend] = {NUMPY: DigitalBackend()}
    for encoding in ("push-pull", "abs-split", "offset"):
        backends[encoding] = MockBackend(OpticsProfile(**BENCH, encoding=encoding))
    seconds: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in backends} for what in ("128 tokens", "one token")
    }
    for turn in range(repeats + 1):  # the first one warms up
        for name, backend in backends.items():
            run = partial(model.forward, cache=Cache(), backend=backend, placement="projections")
            prompt_s = seconds_of(partial(run, tokens))
            decoding_s = [seconds_of(partial(run, tokens[:, :1])) for _ in range(NEW_TOKENS)]
            if turn:
                seconds["128 tokens"][name].append(prompt_s)
                seconds["one token"][name] += decoding_s
    return seconds


def table(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    """Return the median times over that of float32 numpy, of what `measure` gave."""
    rows: list[tuple[str | float, ...]] = []
    for what, times in seconds.items():
        base, *others = (statistics.median(values) for values in times.values())
        rows.append((what, 1e3 * base, *(other / base for other in others)))
    _, *encodings = next(iter(seconds.values()))
    columns = (
        Column("pass", align="left"),
        Column(NUMPY, "ms", form=".1f"),
        *(Column(f"{encoding} over numpy", form=".2f") for encoding in encodings),
    )
    return Table("GPT-2-small-sized model, projections on the mock", columns, tuple(rows))
