"""Predict the tokens per second of benches and their bottleneck, beside this processor.

    python -m lightloom.benchmarks forecast gpt2 path/to/smollm2.gguf

Figures of benches are predicted from profiles, hosts included. Those of the processor are measured
here, in float32 numpy. Prefill reads a prompt; decode gives one token after it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..backends import open_backend
from ..instruments.table import Cell, Column, Table
from ..models import Cache, Model
from ..models.shapes import model_or_shape, with_random_weights
from ..scheduler.runs import Plan, plan
from .stopwatch import seconds_of

PROFILES = ("oled-slm-2022", "dmd-camera", "projection-2030")
_REPEATS = 3


def predicted(model: Model, profile: str, tokens: int, placement: str) -> tuple[Plan, Plan]:
    """Return the plans of prefill and of one decoded token."""
    backend = open_backend(f"mock:{profile}")
    both = plan(model, backend, 1, tokens, 2, placement)  # the first token comes with the prompt
    return replace(both, passes=both.passes[:1]), replace(both, passes=both.passes[1:])


def measured(model: Model, tokens: int) -> tuple[float, float]:
    """Return tokens per second of prefill and of decode on this machine."""
    executor = model.executor()
    prompt, one = np.zeros((1, tokens), dtype=np.int64), np.zeros((1, 1), dtype=np.int64)
    rounds = []
    for _ in range(_REPEATS + 1):
        run = partial(model.run_pass, executor, "last", cache=Cache())
        rounds.append([seconds_of(partial(run, given)) for given in (prompt, one)])
    del rounds[0]  # it reads weights
    prefill_s, decode_s = np.median(rounds, axis=0)
    return tokens / prefill_s, 1 / decode_s


def forecast(name: str, tokens: int, placement: str) -> list[tuple[Cell, ...]]:
    """Return the rows of one model: each bench as predicted, and this processor as measured."""
    model = model_or_shape(name)
    rows: list[tuple[Cell, ...]] = []
    for profile in PROFILES:
        prefill, decode = predicted(model, profile, tokens, placement)
        rates = (tokens / prefill.seconds, 1 / decode.seconds)
        rows.append((name, profile, "predicted", *rates, decode.prediction.bottleneck))
    runs = model if len(model.weights) else with_random_weights(model)
    rows.append((name, "this processor, numpy", "measured", *measured(runs, tokens), None))
    return rows


def table(rows: Sequence[tuple[Cell, ...]]) -> Table:
    """Return the rows of `forecast` under their headers."""
    columns = (
        Column("model", align="left"),
        Column("machine", align="left"),
        Column("source", align="left"),
        Column("prefill", "tokens/s", form=".3g"),
        Column("decode", "tokens/s", form=".3g"),
        Column("bottleneck of decode", align="left"),
    )
    return Table("Tokens per second", columns, tuple(rows))
