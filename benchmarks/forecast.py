"""Tokens per second that benches would give, what holds them up, and what this machine gives.

    python -m lightloom.benchmarks.forecast gpt2 path/to/smollm2.gguf

Predicted by the simulator from profiles, their hosts included; measured here for the processor, in
float32 numpy. Prefill takes in a prompt; decode gives one token after it.
"""

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from ..backends import open_backend
from ..instruments import limit_threads
from ..models import Cache, Model
from ..models.shapes import model_or_shape, with_random_weights
from ..scheduler.runs import Plan, plan

PROFILES = ("oled-slm-2022", "dmd-camera", "projection-2030")
_REPEATS = 3


def predicted(model: Model, profile: str, tokens: int, placement: str) -> tuple[Plan, Plan]:
    """Return the plans of taking in a prompt, and of giving one token after it."""
    backend = open_backend(f"mock:{profile}")
    both = plan(model, backend, 1, tokens, 2, placement)  # the first token comes with the prompt
    return replace(both, passes=both.passes[:1]), replace(both, passes=both.passes[1:])


def measured(model: Model, tokens: int) -> tuple[float, float]:
    """Return tokens per second of both on this machine."""
    executor = model.executor()
    prompt, one = np.zeros((1, tokens), dtype=np.int64), np.zeros((1, 1), dtype=np.int64)
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(_REPEATS + 1):
        cache = Cache()
        for kept, given in zip(times, (prompt, one), strict=True):
            start = time.perf_counter()
            model.run_pass(executor, "last", given, None, cache)
            if repeat:  # the first one reads weights
                kept.append(time.perf_counter() - start)
    prefill, decode = (statistics.median(kept) for kept in times)
    return tokens / prefill, 1 / decode


def main(arguments: list[str] | None = None) -> None:
    """Print a table of models and benches, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--placement", default="paper")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    limit_threads(options.threads)
    print("| model | bench | prefill, tokens/s | decode, tokens/s | bottleneck of decode |")
    print("|---|---|---|---|---|")
    for name in options.models:
        model = model_or_shape(name)
        for profile in PROFILES:
            prefill, decode = predicted(model, profile, options.tokens, options.placement)
            found = (options.tokens / prefill.seconds, 1 / decode.seconds)
            rates = " | ".join(f"{rate:.3g}" for rate in found)
            print(f"| {name} | {profile}, predicted | {rates} | {decode.prediction.bottleneck} |")
        runs = model if len(model.weights) else with_random_weights(model)
        rates = " | ".join(f"{rate:.3g}" for rate in measured(runs, options.tokens))
        print(f"| {name} | this processor, numpy, measured | {rates} | |")


if __name__ == "__main__":
    main()
