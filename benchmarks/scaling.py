"""The scaling law: how much light keeps a model's loss, against the width of the model.

    python examples/train_glimmer.py --out family --widths 64 128 256 512
    python -m lightloom.benchmarks scaling family --json scaling.json --picture scaling.svg

A family is a folder with one folder for each member. The budget of a member and an encoding is the
number of detected photons per multiply-accumulate (MAC) at which noise adds 1 % to the loss on
held-out text. The loss without noise is that of the same 8-bit modulators (see `Text`). The study
fits the exponent of that budget against the width. Only shot noise is on: balanced detection, no
converter, light set for each vector (`photons_per_mac`).

The signal of each product against the light that carries it (`signal_costs`) explains the exponent;
it is measured on the same text.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import (
    Address,
    Backend,
    DigitalBackend,
    MatmulResult,
    MockBackend,
    OpticsProfile,
    Ranges,
)
from ..backends.base import PreparedWeights
from ..instruments import InputError
from ..instruments.errors import import_extra
from ..instruments.table import Column, Table
from ..models import Model, load_arrays, load_model
from ..scheduler import Executor, Placement
from ..scheduler.host_steps import token_loss
from .plots import save_picture, use_log_axes

KIND, PICTURE = "lightloom scaling", "lightloom scaling picture"
ENCODINGS = ("abs-split", "push-pull", "offset")
SHARE = 0.01  # of the loss: how much noise may add
SPREAD = (0.35, 0.7, 1.4)  # light over the budget: below it, the noise is estimated better
RESAMPLED = 1000
_ROWS_AT_ONCE = 8
_MOST_STEPS = 24

_BUDGETS = (
    Column("width", form=".0f"),
    Column("encoding", align="left"),
    Column("loss", form=".4f"),
    Column("light", "photons/MAC", form=".4g"),
    Column("from", form=".4g"),
    Column("to", form=".4g"),
    Column("slope", form=".2f"),
)
_LAWS = (
    Column("quantity", align="left"),
    *(Column(header, form="+.3f") for header in ("exponent", "from", "to")),
    *(Column(f"noise and text {end}", form="+.3f") for end in ("from", "to")),
    *(Column(f"scatter {end}", form="+.3f") for end in ("from", "to")),
)
Losses = Callable[[float, int], np.ndarray]

# two-sided 95 % quantiles of Student's t, by degrees of freedom
_STUDENT = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


# --------------------------------------------------------------------------- searching a budget


@dataclass(frozen=True)
class Budget:
    """Light at which noise adds `share` to a loss.

    Parameters
    ----------
    light : the budget
    samples : log of the budget, of each bootstrap over seeds and rows
    slope : of log excess against log light; -1 where the loss rises with the variance of the noise
    excess : light level -> measured relative excess
    quiet : loss without noise
    """

    light: float
    samples: np.ndarray
    slope: float
    excess: Mapping[float, float]
    quiet: float

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of the bootstraps."""
        low, high = np.exp(np.percentile(self.samples, [2.5, 97.5]))
        return float(low), float(high)


def find_budget(
    losses: Losses, quiet: np.ndarray, seeds: int, guess: float, share: float = SHARE
) -> Budget:
    """Return the light at which the mean loss exceeds the quiet one by a share of it.

    Parameters
    ----------
    losses : returns the loss of each row of text, [rows], at a light level with a seed
    quiet : the same without noise
    guess : light at which the search begins

    Raises
    ------
    InputError : when no level of light has such an excess
    """
    middle = _near(losses, quiet, guess, share)
    levels = [middle * factor for factor in SPREAD]
    noisy = np.array([[losses(level, seed) for seed in range(seeds)] for level in levels])
    logs = np.log(levels)

    def crossing(noisy: np.ndarray, quiet: np.ndarray) -> tuple[float, float]:
        """Return log of the budget, and the slope, from losses [levels, seeds, rows]."""
        excess = noisy.mean(axis=(1, 2)) / quiet.mean() - 1
        height = np.log(np.maximum(excess, share / 20) / share)  # a resample may have no excess
        slope, offset = np.polyfit(logs - logs.mean(), height, 1)
        slope = min(slope, -0.25)  # only noise that falls with light counts
        return logs.mean() - offset / slope, slope

    chance = np.random.Generator(np.random.Philox(len(quiet)))
    samples = []
    for _ in range(RESAMPLED):
        rows = chance.integers(0, len(quiet), len(quiet))
        chosen = chance.integers(0, seeds, seeds)
        samples.append(crossing(noisy[:, chosen][:, :, rows], quiet[rows])[0])
    at, slope = crossing(noisy, quiet)
    excess = noisy.mean(axis=(1, 2)) / quiet.mean() - 1
    return Budget(
        float(np.exp(at)),
        np.array(samples),
        float(slope),
        {float(level): float(e) for level, e in zip(levels, excess, strict=True)},
        float(quiet.mean()),
    )


def _near(losses: Losses, quiet: np.ndarray, light: float, share: float) -> float:
    """Return light whose excess is within a factor of 1.6 of the share, with one seed.

    A small excess is proportional to 1 / light, so steps by that rule, within bounds, converge.
    """
    for step in range(_MOST_STEPS):
        excess = float(losses(light, 1000 + step).mean() / quiet.mean() - 1)
        if not math.isfinite(excess):
            excess = math.inf
        ratio = excess / share
        if 1 / 1.6 < ratio < 1.6:
            return light * ratio
        light *= min(max(ratio, 1 / 30), 30.0)
        if not 1e-12 < light < 1e24:
            break
    raise InputError(
        f"no level of light makes a loss of {quiet.mean():.3g} rise by {share:.0%}; "
        "give another --share"
    )


# ------------------------------------------------------------------------------- the exponent


@dataclass(frozen=True)
class Law:
    """Power law: light = factor x width ^ exponent.

    Parameters
    ----------
    low, high : 95 % interval of the exponent: the wider of `measured` and `scatter`
    measured : from the bootstraps of each budget: uncertainty of noise and text
    scatter : from the residuals of the members (Student's t); None below three widths
    """

    exponent: float
    factor: float
    low: float
    high: float
    measured: tuple[float, float]
    scatter: tuple[float, float] | None


def fit_law(widths: Sequence[float], samples: Sequence[np.ndarray], lights: Sequence[float]) -> Law:
    """Fit a power of the width.

    Parameters
    ----------
    widths : [n]
    samples : log of each budget, bootstrapped
    lights : the budgets

    Raises
    ------
    InputError : for fewer than two widths
    """
    if len(set(widths)) < 2:
        raise InputError(f"an exponent needs at least two widths, not {sorted(set(widths))}")
    x, y = np.log(widths), np.log(lights)
    exponent, offset = np.polyfit(x, y, 1)
    slopes = np.polyfit(x, np.stack(samples), 1)[0]
    low, high = np.percentile(slopes, [2.5, 97.5])
    scatter = None
    if len(x) > 2:
        rest = y - exponent * x - offset
        freedom = len(x) - 2
        error = math.sqrt(float(rest @ rest) / freedom / float(((x - x.mean()) ** 2).sum()))
        reach = _STUDENT[min(freedom, len(_STUDENT) - 1)] * error
        scatter = (float(exponent - reach), float(exponent + reach))
    widest = (float(low), float(high))
    if scatter is not None and scatter[1] - scatter[0] > high - low:
        widest = scatter
    return Law(
        float(exponent),
        float(np.exp(offset)),
        *widest,
        (float(low), float(high)),
        scatter,
    )


# -------------------------------------------------------------------------- losses of a model


class Text:
    """A language model on rows of held-out text.

    The loss that noise adds on one text is mostly chance: some predictions improve, others get
    worse. So the loss is that of text as the model without noise expects it: its own loss plus the
    divergence KL(without noise || with noise) of each prediction. `seen` has the losses of the text
    itself, to compare.

    Parameters
    ----------
    rows : tokens [rows, T]
    placement : the products on light
    """

    def __init__(self, model: Model, rows: np.ndarray, placement: str | Placement) -> None:
        self.model, self.rows, self.placement = model, rows, placement
        self.seen: dict[float, list[float]] = {}
        self._ranges: dict[str, Ranges] = {}
        self._quiet: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}

    def quiet(self, encoding: str) -> np.ndarray:
        """Return the loss of each row with modulators of 8 bits and no noise: float64 [rows]."""
        if encoding not in self._quiet:
            backend = MockBackend(profile_of(encoding, None))
            losses, kept = [], []
            for rows, logits in self._passes(backend):
                losses.append(token_loss(logits, rows[:, 1:]).mean(axis=1))
                kept.append(log_shares(logits))
            self.model.release(backend)
            self._quiet = {encoding: (np.concatenate(losses), kept)}
        return self._quiet[encoding][0]

    def losses(self, encoding: str) -> Losses:
        """Return a function that measures the loss of each row at a light level with a seed."""
        held: dict[float, MockBackend] = {}  # weights are prepared once for each level

        def at(light: float, seed: int) -> np.ndarray:
            if light not in held:
                for backend in held.values():
                    self.model.release(backend)
                held.clear()
                held[light] = MockBackend(profile_of(encoding, light))
            held[light].seed = seed
            return self.measure(held[light], encoding)

        return at

    def measure(self, backend: MockBackend, encoding: str) -> np.ndarray:
        """Return the mean loss of each row on a backend: float64 [rows]."""
        quiet = self.quiet(encoding)
        added, actual = [], []
        for (rows, logits), still in zip(
            self._passes(backend), self._quiet[encoding][1], strict=True
        ):
            actual.append(token_loss(logits, rows[:, 1:]).mean())
            apart = still - log_shares(logits)
            apart *= np.exp(still)
            added.append(apart.sum(axis=-1, dtype=np.float64).mean(axis=1))
        light = backend.profile.photons_per_mac or math.inf
        self.seen.setdefault(light, []).append(float(np.mean(actual)))
        return quiet + np.concatenate(added)

    def _passes(self, backend: MockBackend) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield a few rows at a time with their logits [n, T - 1, V], without the last ones."""
        executor = self.prepared(backend)
        for first in range(0, len(self.rows), _ROWS_AT_ONCE):
            rows = self.rows[first : first + _ROWS_AT_ONCE]
            ids = np.arange(first, first + len(rows))
            yield rows, self.model.run_pass(executor, "logits", rows, sequences=ids)[:, :-1]

    def prepared(self, backend: Backend) -> Executor:
        """Return the executor of a backend, the scales of keys and values calibrated once."""
        executor = self.model.executor(backend, self.placement)
        if executor.needs_ranges:
            if not self._ranges:
                self.model.calibrate(executor)
                self._ranges = executor.ranges
            executor.ranges = self._ranges
        return executor


def log_shares(logits: np.ndarray) -> np.ndarray:
    """Return the log of the probabilities: float32 [..., V]."""
    result = logits - logits.max(axis=-1, keepdims=True)
    result -= np.log(np.exp(result).sum(axis=-1, keepdims=True))
    return result


def profile_of(encoding: str, photons_per_mac: float | None) -> OpticsProfile:
    """Return a profile with 8-bit modulators and shot noise alone."""
    return OpticsProfile(
        name="shot noise",
        input_bits=8,
        weight_bits=8,
        encoding=encoding,
        photons_per_mac=photons_per_mac,
    )


# ------------------------------------------------------------------- what explains the exponent


class _Listener(DigitalBackend):
    """Digital backend that notes the cost in light of each product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, float]]] = {}

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        result = super()._matmul(x, w, at)
        weights = w.content
        if weights.ndim == 2:
            self.found.setdefault(at.matmul, []).append(signal_cost(x[0], weights, result.y[0]))
        return result


def signal_cost(x: np.ndarray, w: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return photons per output at which shot noise equals the signal, for each encoding.

    With N photons per output (light set so that the mean over a vector's outputs is N), the noise
    of an output has the variance (its light x mean light) / N, in units of y; the figure is the
    mean of that, at N = 1, over the mean of y^2.

    Parameters
    ----------
    x, w, y : float [N, K], [M, K], [N, M]

    Returns
    -------
    costs : by encoding; "length" K; "x_peak", "w_peak": largest magnitude over root mean square;
        "coherence": y^2 over its value for random signs, sum x^2 w^2
    """
    length = w.shape[1]
    peak = np.maximum(np.abs(w).max(axis=1), 1e-30)
    signal = float((y.astype(np.float64) ** 2).mean())
    costs = {"length": float(length)}
    # abs-split: both rails together get sum |x| |w|, in units of the row's largest weight
    light = np.abs(x) @ np.abs(w / peak[:, None]).T
    noise = light * light.mean(axis=1, keepdims=True) * peak**2
    costs["abs-split"] = float(noise.mean(dtype=np.float64)) / signal
    # push-pull: the rails of an output add up to all light of the input
    total = np.abs(x).sum(axis=1)[:, None]
    costs["push-pull"] = float(((total * peak) ** 2).mean(dtype=np.float64)) / signal
    # offset: one rail, both operands mapped to [0, 1]
    low_x, low_w = x.min(axis=1, keepdims=True), w.min(axis=1, keepdims=True)
    span_x = np.maximum(x.max(axis=1, keepdims=True) - low_x, 1e-30)
    span_w = np.maximum(w.max(axis=1, keepdims=True) - low_w, 1e-30)
    light = ((x - low_x) / span_x) @ ((w - low_w) / span_w).T
    noise = light * light.mean(axis=1, keepdims=True) * (span_x * span_w.T) ** 2
    costs["offset"] = float(noise.mean(dtype=np.float64)) / signal
    costs["x_peak"] = float((np.abs(x).max(1) / np.sqrt((x**2).mean(1) + 1e-30)).mean())
    costs["w_peak"] = float((peak / np.sqrt((w**2).mean(1) + 1e-30)).mean())
    costs["coherence"] = signal / float(((x**2) @ (w**2).T).mean(dtype=np.float64))
    return costs


def signal_costs(text: Text, rows: int = 4) -> dict[str, dict[str, float]]:
    """Return `signal_cost` of every product with a static weight: name -> costs."""
    listener = _Listener()
    text.model.run_pass(text.prepared(listener), "logits", text.rows[:rows])
    text.model.release(listener)
    return {
        name: {key: float(np.mean([each[key] for each in several])) for key in several[0]}
        for name, several in listener.found.items()
    }


# ------------------------------------------------------------------------------------- the study


def members(folder: Path) -> list[Path]:
    """Return the members of a family, by width.

    Raises
    ------
    InputError : when there are fewer than two
    """
    found = {}
    for path in sorted(folder.glob("*/training.json")):
        found[path.parent] = json.loads(path.read_text(encoding="utf-8"))
    named = [path for path in found if path.name.startswith("width-")]
    if len(named) < 2:
        raise InputError(
            f"{folder} holds {len(named)} members (folders width-*); a law needs at least two: "
            "train them with examples/train_glimmer.py"
        )
    return sorted(named, key=lambda path: (found[path]["width"], path.name))


def read_members(path: Path) -> list[dict[str, Any]]:
    """Read the members from the JSON of an earlier run.

    Raises
    ------
    InputError : when the file has none
    """
    try:
        members_read: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["members"]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(
            f"{path} is not a document of this study; give a file that --json wrote, or a folder"
        ) from None
    return members_read


def measure_member(
    folder: Path,
    encodings: Sequence[str],
    placement: str,
    rows: int,
    seeds: int,
    share: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Return the budgets of one member, and the signal costs that explain them, for JSON.

    Parameters
    ----------
    tell : called with a sentence on each budget
    """
    model = load_model(folder)
    tokens = load_arrays(folder / "data.safetensors")["held_out"].astype(np.int64)[:rows]
    text = Text(model, tokens, placement)
    budgets = {}
    guess = 1.0
    for encoding in encodings:
        found = find_budget(text.losses(encoding), text.quiet(encoding), seeds, guess, share)
        guess = 10 * found.light  # the next encoding usually needs more
        actual = {at: float(np.mean(text.seen[at])) / found.quiet - 1 for at in found.excess}
        budgets[encoding] = _as_dict(found) | {"excess_of_the_text": _named(actual)}
        tell(f"width {model.config.width}, {encoding}: {found.light:.4g} photons per MAC")
    return {
        "member": folder.name,
        "width": model.config.width,
        "training": json.loads((folder / "training.json").read_text(encoding="utf-8")),
        "budgets": budgets,
        "costs": signal_costs(text),
    }


def _as_dict(found: Budget) -> dict[str, Any]:
    return {
        "light": found.light,
        "low": found.interval[0],
        "high": found.interval[1],
        "slope": found.slope,
        "quiet": found.quiet,
        "excess": _named(found.excess),
        "samples": [round(float(sample), 5) for sample in found.samples],
    }


def _named(values: Mapping[float, float]) -> dict[str, float]:
    return {f"{level:.6g}": float(value) for level, value in values.items()}


def laws(measured: Sequence[Mapping[str, Any]], encoding: str) -> dict[str, Law]:
    """Fit the budget of an encoding, and its two factors, against the width.

    Returns
    -------
    laws : "per MAC" and "per output" of the budget; "signal" of the photons per output at which
        noise equals the signal (geometric mean over the products); "tolerance" of the ratio of
        noise to signal at the budget, the signal's photons over the budget per output
    """
    widths = [member["width"] for member in measured]
    lights = np.array([member["budgets"][encoding]["light"] for member in measured])
    samples = [np.array(member["budgets"][encoding]["samples"]) for member in measured]
    lengths = np.array([_mean(member["costs"], "length") for member in measured])
    signal = np.array([_mean(member["costs"], encoding) for member in measured])
    exact = [np.zeros(1) for _ in widths]

    def law(values: np.ndarray, spread: Sequence[np.ndarray]) -> Law:
        logs = [np.log(v) + s for v, s in zip(values, spread, strict=True)]
        return fit_law(widths, logs, values.tolist())

    about = [each - each.mean() for each in samples]
    return {
        "per MAC": fit_law(widths, samples, lights.tolist()),
        "per output": law(lights * lengths, about),
        "signal": law(signal, exact),
        "tolerance": law(signal / (lights * lengths), about),
    }


def signal_laws(measured: Sequence[Mapping[str, Any]], encoding: str) -> dict[str, Law]:
    """Fit the photons per output at which noise equals the signal, for each kind of product."""
    widths = [member["width"] for member in measured]
    found = {}
    for part in dict.fromkeys(name.split(".", 2)[-1] for name in measured[0]["costs"]):
        values = [
            _mean({n: c for n, c in m["costs"].items() if n.split(".", 2)[-1] == part}, encoding)
            for m in measured
        ]
        found[part] = fit_law(widths, [np.log([value]) for value in values], values)
    return found


def _mean(costs: Mapping[str, Mapping[str, float]], key: str) -> float:
    """Return the geometric mean over the products."""
    return float(np.exp(np.mean([math.log(each[key]) for each in costs.values()])))


def all_laws(
    measured: Sequence[Mapping[str, Any]], encodings: Sequence[str]
) -> dict[str, dict[str, Law]]:
    """Fit the laws of every encoding, and of the signal of each kind of product."""
    return {
        encoding: laws(measured, encoding)
        | {f"signal of {part}": law for part, law in signal_laws(measured, encoding).items()}
        for encoding in encodings
    }


def budget_table(measured: Sequence[Mapping[str, Any]]) -> Table:
    """Return the budget of every member and encoding."""
    rows = tuple(
        (
            *(float(member["width"]), encoding, budget["quiet"], budget["light"]),
            *(budget["low"], budget["high"], budget["slope"]),
        )
        for member in measured
        for encoding, budget in member["budgets"].items()
    )
    return Table("Light that keeps the loss", _BUDGETS, rows)


def law_table(encoding: str, fitted: Mapping[str, Law]) -> Table:
    """Return the exponents of an encoding with their intervals."""
    rows = tuple(
        (name, law.exponent, law.low, law.high, *law.measured, *(law.scatter or (None, None)))
        for name, law in fitted.items()
    )
    return Table(f"{encoding}: exponent of the width, 95 % intervals", _LAWS, rows)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw budgets against the width, with the fitted laws and 1 / width."""
    figures = import_extra("matplotlib.figure", "report", "drawing the law")
    figure = figures.Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = document["members"]
    widths = np.array([member["width"] for member in measured], dtype=float)
    for colour, (encoding, fitted) in enumerate(document["laws"].items()):
        budgets = [member["budgets"][encoding] for member in measured]
        light = np.array([budget["light"] for budget in budgets])
        ends = np.array([[b["light"] - b["low"], b["high"] - b["light"]] for b in budgets]).T
        law, style = fitted["per MAC"], {"color": f"C{colour}"}
        said = f"{encoding}: {law['exponent']:+.2f} ({law['low']:+.2f} to {law['high']:+.2f})"
        left.errorbar(widths, light, ends, fmt="o", markersize=4, label=said, **style)
        left.plot(widths, law["factor"] * widths ** law["exponent"], **style)
        left.plot(widths, light[0] * widths[0] / widths, ":", **style)
        signal = [_mean(member["costs"], encoding) for member in measured]
        law = fitted["signal"]
        said = f"{encoding}: {law['exponent']:+.2f}"
        right.plot(widths, signal, "o", markersize=4, label=said, **style)
        right.plot(widths, law["factor"] * widths ** law["exponent"], **style)
    for axes in (left, right):
        use_log_axes(axes)
        axes.set_xlabel("width")
        axes.set_xticks(sorted(set(widths)), [f"{width:.0f}" for width in sorted(set(widths))])
        axes.minorticks_off()
        axes.legend(fontsize="small")
    left.set(ylabel="photons per MAC for 1 % of loss", title="Budget (dotted: 1 / width)")
    right.set(ylabel="photons per output", title="Light at which noise equals the signal")
    save_picture(figure, path, PICTURE)
