"""Figures of energy and of language: plots of what the pages of explanation say in tables."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from canvas import COLOURS, HOST, INK, LIGHT, SOFT, plot
from lightloom.backends import load_profile
from lightloom.models.shapes import layer_program, model_or_shape
from lightloom.scheduler.energy.constants import resolve
from lightloom.scheduler.energy.crossover import layer_account

import lightloom

_BENCHES = (  # profile, constants
    ("slm-camera", ()),
    ("projection-2030", ()),
    ("projection-2030", ("photons-per-output",)),
    ("scaled-optics", ("optical-transformers-2023",)),
)
_T_OF_FIVE = 2.776  # two-sided 95 % of Student with 4 degrees of freedom
_SCOPES = {"light": "light", "compute": "optical products", "system": "system"}
_BASELINES = {"digital-300fJ": "300 fJ/MAC", "gpu-full": "GPU 700 W", "gpu-reduced": "GPU 350 W"}


def draw_answer() -> None:
    """Draw the gain over a GPU on four benches as energy-answer.svg."""
    model = model_or_shape("gpt3-175b")
    colours = (LIGHT, COLOURS["gold"], HOST)
    title = "Energy of a GPU over that of four benches: light, optical products and system"
    with plot("energy-answer", title, 380) as figure:
        axes = figure.subplots()
        for number, (profile, sets) in enumerate(_BENCHES):
            gains = lightloom.plan(model, f"mock:{profile}", sequence=1024).energy(*sets)
            found = gains.advantages()["gpu-full"]
            for place, (scope, colour) in enumerate(zip(_SCOPES, colours, strict=True)):
                gain = float(found[scope] or 0.0)
                y = number + 0.26 * (place - 1)
                label = _SCOPES[scope] if number == 0 else None
                axes.barh(y, gain - 1, left=1, height=0.24, color=colour, label=label)
                ends = {"ha": "left" if gain > 1 else "right", "va": "center"}
                axes.text(gain * (1.3 if gain > 1 else 1 / 1.3), y, _figure(gain), **ends)
        names = [profile + "".join(f"\n{name}" for name in sets) for profile, sets in _BENCHES]
        axes.set_yticks(range(4), names)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set(xscale="log", xlim=(3e-9, 3e7), xlabel="energy of the GPU (700 W) over that of "
                 "the bench: above 1 the bench takes less")  # fmt: skip
        axes.invert_yaxis()
        axes.legend(loc="upper right")


def _figure(gain: float) -> str:
    """Return a ratio as the table of energy.md has it, from 1e-8 to a million."""
    if gain < 0.1:
        return f"{gain:.2f}" if gain > 0.01 else f"{gain:.0e}".replace("e-0", "e-")
    return (
        f"{gain:.2f}"
        if gain < 1
        else f"{gain:.1f}"
        if gain < 10
        else f"{float(f'{gain:.2g}'):,.0f}"
    )


def draw_widths() -> None:
    """Draw the energy of a layer against its width on two benches as energy-widths.svg."""
    title = "Energy of one layer against its width: two benches and three digital baselines"
    widths = [64 * 2**power for power in range(12)]
    with plot("energy-widths", title, 380) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (profile, sets) in zip(panels, _BENCHES[2:], strict=True):
            rows = [_layer(profile, sets, width) for width in widths]
            styles = ((SOFT, "-"), (COLOURS["teal"], "--"), (COLOURS["purple"], ":"))
            for (name, text), (colour, style) in zip(_BASELINES.items(), styles, strict=True):
                axes.plot(widths, [row[name] for row in rows], style, color=colour, label=text)
            axes.plot(widths, [row["bench"] for row in rows], "o-", color=LIGHT, markersize=4,
                      label="bench")  # fmt: skip
            axes.set(xscale="log", yscale="log", xlabel="width of the layer")
            axes.set_title(f"{profile},\n{sets[0]}")
            axes.grid(alpha=0.6)
        panels[0].set_ylabel("system: picojoules per MAC")
        panels[0].legend()


def _layer(profile: str, sets: tuple[str, ...], width: int) -> dict[str, float]:
    """Return picojoules per multiplication of a layer of 1,024 tokens: bench and baselines."""
    optics = load_profile(profile)
    account = layer_account(layer_program(width), optics, resolve(optics, sets), 1, 1024)
    macs = sum(part.events.macs + part.events.host_macs for part in account.parts)
    found = {item.baseline.name: item.system for item in account.digital()}
    joules: dict[str, Any] = {"bench": account.total("system")} | found
    return {name: 1e12 * (value or np.nan) / macs for name, value in joules.items()}


def draw_perplexity() -> None:
    """Draw perplexity.json as perplexity.svg: mean and deviation of seeds against light."""
    found = json.loads((Path(__file__).parent / "perplexity.json").read_text(encoding="utf-8"))
    colours = {"abs-split": LIGHT, "push-pull": COLOURS["purple"]}
    title = "Perplexity of SmolLM2 against electrons at full scale, for encodings and detections"
    with plot("perplexity", title, 400) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (converter, paths) in zip(panels, found["paths"].items(), strict=True):
            for name, path in paths.items():
                encoding, detection = name.split(", ")
                style = "-" if detection == "balanced" else "--"
                axes.errorbar(
                    found["electrons"], path["mean"], path["deviation"], fmt=f"o{style}",
                    color=colours[encoding], markersize=4, capsize=3, label=name,
                )  # fmt: skip
            axes.axhline(found["digital"], color=SOFT, linewidth=0.9, linestyle=":")
            axes.set(xscale="log", yscale="log", ylim=(12, 3e4), xlim=(6e2, 2e6))
            axes.set(xlabel="electrons at full scale", title=converter)
            axes.set_yticks([20, 100, 1000, 10000], ["20", "100", "1,000", "10,000"])
            axes.minorticks_off()
            axes.grid(alpha=0.6)
        panels[1].text(7e2, 14.6, f"digital: {found['digital']}", color=SOFT, va="center")
        panels[0].set_ylabel("perplexity")
        panels[0].legend(loc="upper right")


def draw_accuracy() -> None:
    """Draw accuracy.json as accuracy.svg: means of five trainings and their 95 % intervals."""
    found = json.loads((Path(__file__).parent / "accuracy.json").read_text(encoding="utf-8"))
    colours = {"trained for light": LIGHT, "trained without noise": COLOURS["purple"]}
    title = "Accuracy of perceptrons on digits against photons per multiplication"
    with plot("accuracy", title, 400) as figure:
        axes = figure.subplots()
        for name, network in found["networks"].items():
            each = 100 * np.array(network["optical"])  # [trainings, light levels]
            half = _T_OF_FIVE * each.std(axis=0, ddof=1) / np.sqrt(len(each))
            axes.errorbar(
                found["photons_per_mac"], each.mean(axis=0), half, fmt="o-",
                color=colours[name], markersize=4, capsize=3, label=name,
            )  # fmt: skip
            digital = 100 * np.mean(network["digital"])
            axes.axhline(digital, color=colours[name], linewidth=0.9, linestyle=":")
        axes.set(xscale="log", ylim=(0, 100), xlabel="detected photons per multiplication")
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.minorticks_off()
        axes.set_ylabel("accuracy in per cent")
        axes.grid(alpha=0.6)
        axes.legend(loc="lower right")
