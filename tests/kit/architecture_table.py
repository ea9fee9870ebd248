"""Prints a table of all architectures: on light, as programs, resumed. Takes about five minutes.

python tests/kit/architecture_table.py
"""

import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from architectures import ARCHITECTURES, made, output_of
from killed_runs import Killed, killed_after
from lightloom.backends import MockBackend, load_profile

import lightloom

LINE = "| {} | {} | {} | {} | {} | {} |"


def difference(one: Any, other: Any) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def resumes(model: Any, data: Any, tokens: int | None, folder: Path) -> bool:
    """Return whether a run that was killed after 40 steps ends with the bits of a whole one."""

    def planned() -> Any:
        return lightloom.plan(model, MockBackend(load_profile()), 2, tokens)

    whole = planned().run(data, record=folder / "whole.db", reference=False)
    with suppress(Killed), killed_after(40):
        planned().run(data, record=folder / "half.db", reference=False)
    return bool(lightloom.resume(folder / "half.db").results == whole.results)


def row(name: str, folder: Path) -> str:
    """Return the row of an architecture."""
    off, share = 0.0, 1.0
    for attention in ("eager", None):
        module, inputs = made(name, attention)
        with torch.no_grad():
            expected = output_of(module(**inputs)).numpy()
            with lightloom.torch.optics(module, "digital", placement="all-optical") as light:
                found = output_of(module(**inputs)).numpy()
        off, share = max(off, difference(found, expected)), min(share, light.optical_share)
    traced = lightloom.torch.trace(module, inputs)
    data = {key: value.numpy() for key, value in inputs.items()}
    given = data["input_ids"] if traced.task == "language" else data
    off = max(off, difference(traced.forward(given), expected))
    traced.save(folder / "model")
    model = lightloom.load_model(folder / "model")
    tokens = data["input_ids"].shape[1] if traced.config.has_tokens else None
    is_resumed = resumes(model, given, tokens, folder)
    form = "with cache" if traced.task == "language" else "without"
    sizes = "any" if traced.fixed_sizes is None else "fixed"
    return LINE.format(
        name, f"{off:.0e}", f"{share:.1%}", sizes, form, "yes" if is_resumed else "NO"
    )


def main(names: list[str]) -> None:
    """Print the table of some architectures, or of all."""
    warnings.simplefilter("ignore")
    print(LINE.format("architecture", "difference", "on light", "sizes", "decodes", "resumed"))
    print("|---|---|---|---|---|---|")
    for name in names or ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            print(row(name, Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
