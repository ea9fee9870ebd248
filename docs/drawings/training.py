"""What training for light gains: a plot of what `examples/finetune_for_light.py` measured."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from canvas import COLOURS, HOST, SOFT, plot
from matplotlib.axes import Axes

_HALF_WIDTH = {5: 2.776 / 5**0.5}  # of 95 % intervals, over the deviation: Student's t
_MODELS = ("digits", "glimmer")


def draw_little_light() -> None:
    """Draw little-light.json as little-light.svg: quality against light, before and after."""
    path = Path(__file__).parent / "little-light.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    title = "Quality of digits and glimmer against photons per MAC, before and after training"
    with plot("little-light", title, 340) as figure:
        for axes, model in zip(figure.subplots(1, 2), _MODELS, strict=True):
            chosen = [result for result in results if result["model"] == model]
            _draw(axes, chosen)
            axes.set(title=model, xlabel="photons per MAC")
            axes.set_ylabel(chosen[0]["metric"])


def _draw(axes: Axes, results: list[dict[str, Any]]) -> None:
    before = _over_seeds(results, lambda result: result["before"])
    after = _over_seeds(results, lambda result: result["after"])
    for found, label, colour in (
        (before, "as shipped", HOST),
        (after, "trained", COLOURS["orange"]),
    ):
        levels, means, widths = zip(*((k, *v) for k, v in found.items()), strict=True)
        axes.errorbar(
            levels, means, widths, fmt="o-", color=colour, markersize=4, capsize=3, label=label
        )
        for level, mean in zip(levels, means, strict=True):
            axes.annotate(f"{mean:.3g}", (level, mean), (4, 5), textcoords="offset points")
    digital = results[0]["digital"]["before"]
    axes.axhline(digital, color=SOFT, linewidth=0.9, linestyle=":")
    axes.set_xscale("log")
    shown = sorted(before)
    axes.set_xticks(shown, [f"{level:g}" for level in shown])
    axes.set_xlim(shown[0] / 2, shown[-1] * 2)
    axes.minorticks_off()
    axes.grid(alpha=0.6)
    axes.legend()


def _over_seeds(
    results: list[dict[str, Any]], read: Callable[[dict[str, Any]], float]
) -> dict[float, tuple[float, float]]:
    """Return for each light: the mean over seeds, and half of its 95 % interval (0 if unknown)."""
    found = {}
    for light in sorted({result["photons_per_mac"] for result in results}):
        values = [read(result) for result in results if result["photons_per_mac"] == light]
        width = _HALF_WIDTH.get(len(values), 0.0)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        found[light] = (statistics.mean(values), width * spread)
    return found
