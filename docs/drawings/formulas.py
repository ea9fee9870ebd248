"""The three encodings and the noise of a product, drawn from the formulas of light.md."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from canvas import COLOURS, HOST, LIGHT, SOFT, plot, tint
from lightloom.backends import MockBackend, OpticsProfile

_NAMES = ("abs-split", "push-pull", "offset")
_PER_MAC = 10.0  # detected photoelectrons for each multiplication


def rails(name: str, x: np.ndarray, w: np.ndarray) -> tuple[list[Any], list[Any], float]:
    """Return the rails of x [..., K] and w [..., K] with their signs, and the scale of a product.

    Without leaks, and with one scale for all rows.
    """
    if name == "offset":
        spans = [values.max() - values.min() for values in (x, w)]
        u, v = ((values - values.min()) / np.ptp(values) for values in (x, w))
        return [(1, u)], [(1, v)], float(np.prod(spans))
    tops = [np.abs(values).max() for values in (x, w)]
    x, w = x / tops[0], w / tops[1]
    halves = [(1, np.maximum(x, 0)), (-1, np.maximum(-x, 0))]
    weights = [(1, np.maximum(w, 0)), (-1, np.maximum(-w, 0))]
    if name == "push-pull":
        weights = [(1, (1 + w) / 2), (-1, (1 - w) / 2)]
    return halves, weights, float(np.prod(tops))


def readings(name: str, x: np.ndarray, w: np.ndarray) -> tuple[dict[str, float], float]:
    """Return the light of the readings of one product, in electrons, and the deviation of y."""
    of_x, of_w, scale = rails(name, x, w)
    signs = {1: "⁺", -1: "⁻"}
    alone = len(of_x) == 1
    light = {
        "x w" if alone else f"x{signs[s]}w{signs[r]}": float(a @ b)
        for s, a in of_x
        for r, b in of_w
    }
    full = _PER_MAC * len(x) / sum(light.values())  # photons_full_scale
    light = {reading: full * value for reading, value in light.items()}
    return light, scale / full * float(np.sqrt(sum(light.values())))


def draw_encodings() -> None:
    """Draw rails, light and noise of a small product in each encoding as encodings.svg."""
    x = np.array([0.6, -0.3, 0.9, -0.7, 0.2, -0.1])
    w = np.array([0.4, 0.7, -0.2, -0.9, 0.3, 0.1])
    title = "Rails, light and noise of one product in the encodings abs-split, push-pull and offset"
    with plot("encodings", title, 600) as figure:
        grid = figure.subplots(4, 3, gridspec_kw={"width_ratios": (1, 1, 1.15)})
        for axes, values, name in ((grid[0, 0], x, "x"), (grid[0, 1], w, "w")):
            axes.bar(range(6), values, color=HOST, width=0.7)
            axes.axhline(0, color=SOFT, linewidth=0.8)
            axes.set(title=f"signed vector {name}", ylim=(-1.05, 1.05), xticks=[])
        grid[0, 2].axis("off")
        exact = f"y = x · w = {x @ w:.3f}"
        grid[0, 2].text(0.5, 0.62, exact, ha="center", size=14, color=HOST, weight="bold")
        said = f"every row below: {_PER_MAC:g} detected\nelectrons a multiplication"
        grid[0, 2].text(0.5, 0.2, said, ha="center", color=SOFT)
        for row, name in zip(grid[1:], _NAMES, strict=True):
            _draw_row(row, name, x, w)
        figure.align_ylabels(grid[:, 0])


def _draw_row(row: Any, name: str, x: np.ndarray, w: np.ndarray) -> None:
    of_x, of_w, _ = rails(name, x, w)
    for axes, parts, letter in ((row[0], of_x, "x"), (row[1], of_w, "w")):
        width = 0.8 / len(parts)
        for number, (sign, values) in enumerate(parts):
            colour = LIGHT if number == 0 else tint(LIGHT, 0.4)
            label = letter if len(parts) == 1 else letter + ("⁺" if sign > 0 else "⁻")
            places = np.arange(6) - 0.4 + width / 2 + number * width
            axes.bar(places, values, width=width, color=colour, label=label)
        axes.set(ylim=(0, 1.45), xticks=[], yticks=[0, 1])
        axes.legend(ncols=2, loc="upper right", borderpad=0, handlelength=1, columnspacing=1)
    row[0].set_ylabel(name, size=13, weight="bold")
    light, deviation = readings(name, x, w)
    row[2].bar(list(light), list(light.values()), color=LIGHT, width=0.6)
    row[2].set(
        xlim=(-0.6, 3.6),
        ylim=(0, 75),
        title=f"shot noise of y: ± {deviation:.2f}",
        ylabel="electrons",
    )


def draw_noise() -> None:
    """Draw the relative noise of products against their light as noise.svg: theory and mock."""
    random = np.random.default_rng(0)
    x, w = random.standard_normal((32, 256)), random.standard_normal((32, 256))
    signal = float(np.mean((x @ w.T) ** 2))
    light = np.logspace(-1, 4, 6)
    with plot("noise", "Relative error of products against their light", 380) as figure:
        axes = figure.subplots()
        colours = (COLOURS["orange"], COLOURS["purple"], COLOURS["teal"])
        for name, colour in zip(_NAMES, colours, strict=True):
            ends = np.array([light[0] / 1.6, light[-1] * 1.6])
            axes.plot(ends, np.sqrt(_variance(name, x, w) / ends / signal), color=colour)
            means, errors = _mock(name, x, w, light, signal)
            axes.errorbar(light, means, errors, fmt="o", color=colour, markersize=5, capsize=3)
            axes.text(ends[-1] * 1.15, np.sqrt(_variance(name, x, w) / ends[-1] / signal), name,
                      color=colour, va="center", size=13)  # fmt: skip
        axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
        axes.text(8e4, 1.1, "error as large as the signal", color=SOFT, ha="right")
        axes.set(xscale="log", yscale="log", xlim=(0.06, 9e4), ylabel="error over signal, rms",
                 xlabel="detected photoelectrons for each multiplication")  # fmt: skip
        axes.set_title("Shot noise of products of 256 terms: theory (lines) and mock (points)")
        axes.grid(alpha=0.6)


def _variance(name: str, x: np.ndarray, w: np.ndarray) -> float:
    """Return the mean variance of y at one detected electron for each multiplication."""
    found = []
    for row in x:
        parts: Mapping[str, Any] = {"x": row, "w": w}
        light = np.zeros(len(w))
        scales = np.zeros(len(w))
        for number, weights in enumerate(parts["w"]):
            of_x, of_w, scales[number] = rails(name, row, weights)
            light[number] = sum(a @ b for _, a in of_x for _, b in of_w)
        full = w.size / light.sum()  # photons_full_scale at one electron a multiplication
        found.append(np.mean(scales**2 * light / full))
    return float(np.mean(found))


def _mock(
    name: str, x: np.ndarray, w: np.ndarray, light: np.ndarray, signal: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the relative error of the mock at each light, and its standard error of 8 seeds."""
    found = np.array([
        [
            np.sqrt(np.mean((_product(name, per_mac, seed, x, w) - x @ w.T) ** 2) / signal)
            for seed in range(8)
        ]
        for per_mac in light
    ])  # fmt: skip
    return found.mean(axis=1), found.std(axis=1, ddof=1) / np.sqrt(8)


def _product(name: str, per_mac: float, seed: int, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    backend = MockBackend(OpticsProfile(encoding=name, photons_per_mac=float(per_mac)), seed=seed)
    return np.asarray(backend.matmul(x, w).y)
