"""How one number goes through a bench, with the values of a real shot of a tiny simulated bench."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from canvas import COLOURS, CONVERT, HOST, INK, LARGE, LIGHT, SOFT, Canvas
from lightloom.backends.bench import BenchBackend, example_file, load_bench
from lightloom.backends.bench.decoding import Decoder

_X, _W = (0.6, -0.2, 0.8, 0.4), (0.5, 1.0, -0.25, 0.75)
_HEIGHT = 462


def draw_number() -> None:
    """Draw the way of one product as number.svg."""
    found = _measured()
    canvas = Canvas(_HEIGHT)
    canvas.text(20, 22, "There: numbers become light", size=LARGE, ha="left", weight="bold")
    there = [
        (HOST, "Number\nx₁ = 0.6", "divided by the\nlargest, 0.8: 0.75"),
        (CONVERT, f"Grey level\n{found['x_level']} of 255", "the level with the\nnearest light"),
        (CONVERT, "Frame\n16 elements a slot", "x fills one frame,\nw the other"),
        (LIGHT, "Light\n0.75 x 0.5 = 0.375", "of element 1,\nof a fully open one"),
    ]
    _row(canvas, 40, there)
    _levels(canvas, 138, found)
    canvas.text(20, 294, "And back: light becomes numbers", size=LARGE, ha="left", weight="bold")
    back = [
        (LIGHT, "Light of a slot\n0.375 + 0.375 = 0.75", "the sum over its\nelements, one shot"),
        (CONVERT, f"Counts\n{found['counts']:,.0f}", f"sum of {found['pixels']} pixels;\n"
         f"{found['dark']:,.0f} are dark counts"),
        (CONVERT, f"Electrons\n{found['electrons'][0]:,.0f}", f"without dark counts,\n"
         f"x {found['gain']:.3g} electrons a count"),
        (HOST, f"Reading\n{found['readings'][0]:.4f}", "divided by the electrons\n"
         f"of full scale, {found['full']:,.0f}"),
    ]  # fmt: skip
    _row(canvas, 312, back)
    a, b, c, d = found["readings"]
    canvas.legend(450, 22)
    canvas.text(
        270, 426,
        f"y = 0.8 x ({a:.4f} - {b:.4f} - {c:.4f} + {d:.4f}) = {found['y']:.4f}",
        size=14, color=HOST, weight="bold",
    )  # fmt: skip
    canvas.text(610, 426, f"exact: {np.dot(_X, _W):.4f}", size=14)
    canvas.text(270, 447, "four readings with the signs of their rails, times both scales",
                color=SOFT)  # fmt: skip
    canvas.save(
        "number",
        "The way of one product: number, grey level, frame, light, counts, electrons, number",
    )


def _row(canvas: Canvas, y: float, stages: list[tuple[str, str, str]]) -> None:
    for number, (colour, text, below) in enumerate(stages):
        x = 20 + 175 * number
        canvas.box((x, y), (153, 54), text, colour)
        canvas.text(x + 76, y + 76, below, color=SOFT)
        if number < 3:
            canvas.arrow((x + 154, y + 27), (x + 174, y + 27))


def _levels(canvas: Canvas, y: float, found: dict[str, Any]) -> None:
    """Draw the first elements of the rails of x and w, and the light of their four products."""
    columns = [("x⁺", "x_plus", 95), ("w⁺", "w_plus", 95), ("x⁻", "x_minus", 405),
               ("w⁻", "w_minus", 405)]  # fmt: skip
    for number, (name, key, x) in enumerate(columns):
        top = y + 10 + 52 * (number % 2)
        canvas.text(x - 12, top + 19, name, ha="right", size=14, weight="bold")
        for place, level in enumerate(found[key]):
            shade = f"#{int(level):02x}{int(level):02x}{int(level):02x}"
            canvas.area((x + 58 * place, top), (54, 38), shade, COLOURS["soft"])
            colour = INK if level > 120 else "#ffffff"
            canvas.text(x + 58 * place + 27, top + 19, str(int(level)), color=colour, size=13)
    canvas.text(
        360, y + 124,
        "grey levels of the first four elements; x⁺ and x⁻ meet w⁺ and w⁻ in four slots",
        color=SOFT,
    )  # fmt: skip


def _measured() -> dict[str, Any]:
    """Multiply x by w on a tiny simulated bench; return what its one shot shows and gives."""
    x, w = np.zeros((2, 1, 16))
    x[0, :4], w[0, :4] = _X, _W
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(example_file("imaged", tiny=True), encoding="utf-8")
        with BenchBackend(load_bench(path)) as backend, _watched() as shots:
            y = backend.matmul(x, w).y[0, 0]
            model = backend.optical_model
            taken, decoded = shots[-1]
    levels = {role: frame.levels for role, frame in taken.frames.items()}
    top, left, bottom, right = model.layout.boxes()[0]
    pixels = (bottom - top) * (right - left)
    counts = float(taken.data[top:bottom, left:right].sum(dtype=float))
    full = model.response.pairs_e[0, 0]
    return {
        "y": y, "counts": counts, "pixels": pixels, "gain": model.optics.gain_e_per_count,
        "dark": pixels * float(model.optics.dark_counts), "electrons": decoded.electrons,
        "full": full, "readings": decoded.electrons[:4] / full, "x_level": levels["input"][0, 0],
        "x_plus": levels["input"][0, :4], "x_minus": levels["input"][2, :4],
        "w_plus": levels["weight"][0, :4], "w_minus": levels["weight"][1, :4],
    }  # fmt: skip


@contextmanager
def _watched() -> Iterator[list[tuple[Any, Any]]]:
    """Collect each exposure with its decoded shot within the `with` block."""
    shots: list[tuple[Any, Any]] = []
    decode = Decoder.decode

    def watched(decoder: Decoder, taken: Any) -> Any:
        decoded = decode(decoder, taken)
        shots.append((taken, decoded))
        return decoded

    with patch.object(Decoder, "decode", watched):
        yield shots
