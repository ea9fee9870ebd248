"""Measure the light that keeps a real model's loss, product by product, against their length.

    python -m lightloom.benchmarks scaling-layers --model smollm2.gguf --json smollm2.json
    python -m lightloom.benchmarks scaling-layers --model minilm --layers 0,2,5

Only one kind of product is on noisy light, in all layers or in one; all other products are exact.
The budget is the number of detected photons per output at which the noise costs 1 %. For a language
model, the mean loss per token rises by 1 % of itself (see `scaling.Text`). For an encoder, the mean
cosine with the embeddings without noise falls by 0.01. Modulators have 8 bits, with and without
noise. The text is that of `pydoc_data.topics`, which every Python has.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from ..backends import Backend, MockBackend
from ..instruments import InputError
from ..instruments.table import Column, Table
from ..models import Model
from ..models.inputs import CALIBRATION_TEXT
from ..scheduler import Executor, OpticalMatmul, Placement
from .scaling import Text, find_budget, profile_of, signal_costs

KIND = "lightloom scaling by layer"
_CALIBRATION_ROWS = 2  # of the usual text, for the scales of keys and values


class Passage(Text):
    """A model on text, calibrated on a few rows, since its products are measured one by one.

    An encoder's "loss" is 1 + (1 - cosine) of each sentence, against the embedding without noise,
    so that 1 % of it is a cosine of 0.99.
    """

    def __init__(self, model: Model, inputs: Any, placement: Placement) -> None:
        super().__init__(model, inputs, placement)
        self.sentences: Sequence[str] = inputs
        self._still = np.empty((0, 0))

    def prepared(self, backend: Backend) -> Executor:
        """Return the executor of a backend, its scales calibrated once, on a few rows."""
        executor = self.model.executor(backend, self.placement)
        if executor.needs_ranges and not self._ranges:
            text = CALIBRATION_TEXT.read_text(encoding="utf-8")
            self.model.calibrate(executor, self.model.rows_of(text, 128)[:_CALIBRATION_ROWS])
        return super().prepared(backend)

    def quiet(self, encoding: str) -> np.ndarray:
        """Return the loss of each row, or of each sentence, without noise."""
        if self.model.task == "language":
            return super().quiet(encoding)
        backend = MockBackend(profile_of(encoding, None))
        self._still = self._embed(backend)
        self.model.release(backend)
        return np.ones(len(self.rows))

    def measure(self, backend: MockBackend, encoding: str) -> np.ndarray:
        """Return the loss of each row, or of each sentence."""
        if self.model.task == "language":
            return super().measure(backend, encoding)
        found = self._embed(backend)
        return 2 - np.einsum("nd,nd->n", found, self._still, dtype=np.float64)

    def _embed(self, backend: MockBackend) -> np.ndarray:
        self.prepared(backend)
        return self.model.embed(self.sentences, backend, self.placement)


def inputs_of(model: Model, rows: int, length: int) -> Any:
    """Return rows of tokens [rows, length], or as many sentences for an encoder."""
    texts = [text for _, text in sorted(topics.items())]
    if model.task == "language":
        return model.rows_of("\n".join(texts[:rows]), length)[:rows]
    if model.task != "encoder":
        raise InputError(f"the model {model.name!r} ({model.task}) has no loss on a text")
    sentences = (re.search(r"[A-Z][a-z][^.]{40,160}\.", text) for text in texts)
    return [" ".join(found[0].split()) for found in sentences if found][:rows]


def groups_of(model: Model, layers: Sequence[int]) -> dict[str, list[OpticalMatmul]]:
    """Return the products by kind: of all layers, and of each of `layers`.

    Raises
    ------
    InputError : for a layer that the model does not have
    """
    found: dict[str, list[OpticalMatmul]] = {}
    for step in model.whole_program.matmuls:
        if step.layer is None:
            continue
        part = step.name.split(".", 2)[2]
        found.setdefault(part, []).append(step)
    several = {f"{part}, all layers": steps for part, steps in found.items()}
    for layer in layers:
        if not 0 <= layer < model.config.layers:
            raise InputError(
                f"layer {layer} is not one of the {model.config.layers} of {model.name}"
            )
        for part, steps in found.items():
            several[f"{part}, layer {layer}"] = [s for s in steps if s.layer == layer]
    return several


def measure_group(
    model: Model,
    inputs: Any,
    name: str,
    steps: Sequence[OpticalMatmul],
    encodings: Sequence[str],
    seeds: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Return the budgets of one kind of product, for JSON.

    Parameters
    ----------
    tell : called with a sentence on each budget
    """
    length = _length(model, steps[0], inputs)
    text = Passage(model, inputs, Placement(name, frozenset(step.name for step in steps)))
    costs = signal_costs(text) if not steps[0].dynamic and model.task == "language" else {}
    budgets, guess = {}, 0.5
    for encoding in encodings:
        quiet = text.quiet(encoding)
        found = find_budget(text.losses(encoding), quiet, seeds, guess)
        guess = 10 * found.light
        budgets[encoding] = {
            "per_mac": found.light,
            "per_output": found.light * length,
            "low": found.interval[0] * length,
            "high": found.interval[1] * length,
            "slope": found.slope,
            "quiet": found.quiet,
        }
        tell(f"{name}, {encoding}: {found.light * length:.4g} photons per output")
    return {
        "products": name,
        "length": length,
        "count": len(steps),
        "budgets": budgets,
        "signal": _means(costs),
    }


def _means(costs: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the geometric means over products."""
    if not costs:
        return {}
    keys = next(iter(costs.values()))
    return {k: float(np.exp(np.mean([np.log(c[k]) for c in costs.values()]))) for k in keys}


def _length(model: Model, step: OpticalMatmul, inputs: Any) -> float:
    """Return K; for attention x V, the mean number of tokens that a row attends to."""
    if step.kind != "attention x V":
        return float(step.w_shape[-1]({}))
    if model.task == "language":
        return float((inputs.shape[1] + 1) / 2)
    return float(np.mean([len(model.tokenizer.encode(text)) for text in inputs]))


def table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Return the budgets of every kind of product and encoding."""
    rows = tuple(
        (
            *(group["products"], group["length"], encoding),
            *(budget["per_output"], budget["low"], budget["high"]),
        )
        for group in groups
        for encoding, budget in group["budgets"].items()
    )
    columns = (
        Column("products", align="left"),
        Column("K", form=".0f"),
        Column("encoding", align="left"),
        Column("light", "photons/output", form=".4g"),
        Column("from", form=".4g"),
        Column("to", form=".4g"),
    )
    return Table("Light that keeps the result, product by product", columns, rows)
