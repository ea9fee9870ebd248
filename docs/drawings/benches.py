"""The three layouts of a bench, the recoveries from a fault, and the order of shots."""

import tempfile
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
from canvas import (
    COLOURS,
    CONVERT,
    GOOD,
    HOST,
    INK,
    LARGE,
    LIGHT,
    NORMAL,
    SOFT,
    STOP,
    Canvas,
    tint,
)
from lightloom.backends.bench import BenchBackend, example_file, load_bench
from lightloom.backends.bench.fault_policy import DEFAULTS, FaultPolicy
from lightloom.backends.tiling import ORDERS, visits
from matplotlib.colors import to_hex, to_rgb

# --- layouts --------------------------------------------------------------------------------------

_INPUT_X, _LENS_X, _WEIGHT_X, _LAST_X, _DETECTOR_X = 168, 276, 308, 416, 450
_SIDE, _ROW = 78, 136


def draw_layouts() -> None:
    """Draw the three layouts as layouts.svg."""
    canvas = Canvas(468)
    for x, text, colour in (
        (120, "source", LIGHT), (_INPUT_X + 39, "input\nmodulator", CONVERT),
        (_LENS_X, "lens", INK), (_WEIGHT_X + 39, "weight\nmodulator", CONVERT),
        (_LAST_X, "lens", INK), (_DETECTOR_X + 39, "detector", CONVERT),
        (635, "one shot gives", INK),
    ):  # fmt: skip
        canvas.text(x, 24, text, color=colour, weight="bold")
    rows = {
        "imaged": "Each block has\nits own pixels.",
        "line": "A lens sums\neach row.",
        "single-pixel": "A photodiode\ntakes all light.",
    }
    for number, (layout, text) in enumerate(rows.items()):
        y = 52 + number * _ROW
        canvas.text(14, y + 14, layout, size=LARGE, weight="bold", ha="left")
        for line, part in enumerate(text.split("\n")):
            canvas.text(14, y + 38 + 15 * line, part, ha="left", size=11, color=SOFT)
        _train(canvas, layout, y)
        slots, length = _size(layout)
        what = "1 dot product" if slots == 1 else f"{slots:,} dot products"
        canvas.text(635, y + 34, what, size=NORMAL, weight="bold", color=HOST)
        canvas.text(635, y + 54, f"of {length} elements each" if slots > 1 else
                    f"of {length} elements")  # fmt: skip
        note = {
            "imaged": "slots for any mix of\nrows and vectors",
            "line": "all rows meet the\nsame vector",
            "single-pixel": "read by a DAQ",
        }[layout]
        canvas.text(635, y + 85, note, color=SOFT)
    canvas.text(360, 454, "numbers of the full-size example benches of lightloom init", color=SOFT)
    canvas.save(
        "layouts",
        "The layouts imaged, line and single-pixel: source, two modulators, lenses and detector",
    )


def _train(canvas: Canvas, layout: str, y: float) -> None:
    """Draw the light's way through one layout."""
    middle = y + _SIDE / 2 + 6
    low, high = y + 6, y + 6 + _SIDE
    top = middle - 6 if layout != "imaged" else low
    bottom = middle + 6 if layout != "imaged" else high
    canvas.beam([(120, middle - 4), (_INPUT_X, low), (_INPUT_X, high), (120, middle + 4)])
    canvas.beam([(_INPUT_X, low), (_WEIGHT_X, low), (_WEIGHT_X, high), (_INPUT_X, high)])
    end = _DETECTOR_X + (0 if layout == "imaged" else 33)
    if layout == "line":
        top, bottom, end = low, high, _DETECTOR_X + 33
    canvas.beam([(_WEIGHT_X, low), (_LAST_X, low), (end, top), (end, bottom), (_LAST_X, high),
                 (_WEIGHT_X, high)])  # fmt: skip
    canvas.axes.plot([120], [middle], "o", color=LIGHT, markersize=13, zorder=3)
    canvas.lens(_LENS_X, middle, _SIDE + 14)
    if layout == "line":  # a cylinder, seen from its flat side
        teal = COLOURS["teal"]
        canvas.area((_LAST_X - 7, low - 7), (14, _SIDE + 14), tint(teal, 0.2), teal)
        canvas.line([(_LAST_X - 2, low - 7), (_LAST_X - 2, high + 7)], teal, zorder=3, linewidth=1)
        canvas.text(_LAST_X, high + 18, "cylindrical", size=10.5, color=SOFT)
    else:
        canvas.lens(_LAST_X, middle, _SIDE + 14)
    inputs, weights = _frames(layout)
    _grid(canvas, _INPUT_X, low, inputs, layout)
    _grid(canvas, _WEIGHT_X, low, weights, layout)
    _detector(canvas, layout, low, inputs, weights)


def _frames(layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Return small frames of both modulators with values from 0 to 1."""
    random = np.random.default_rng(4)
    inputs, weights = random.uniform(0.1, 1, (2, 6, 6))
    if layout == "imaged":  # blocks of 2 x 2 elements; three copies of each vector
        inputs = np.tile(inputs[:2], (3, 1))
    elif layout == "line":
        inputs = np.tile(inputs[0], (6, 1))
    return inputs, weights


def _grid(canvas: Canvas, x: float, y: float, values: np.ndarray, layout: str) -> None:
    """Draw a frame: elements as grey squares, with dark guard bands where the layout has them."""
    canvas.area((x, y), (_SIDE, _SIDE), "#101214", CONVERT)
    for row in range(6):
        for column in range(6):
            left, top = 13 * column, 13 * row
            if layout == "imaged":
                left, top = (3 + 26 * (place // 2) + 10 * (place % 2) for place in (column, row))
            elif layout == "line":
                top += 2
            size = {"imaged": (10, 10), "line": (13, 9), "single-pixel": (13, 13)}[layout]
            shade = f"{int(30 + 225 * values[row, column]):02x}"
            canvas.area((x + left, y + top), size, f"#{shade * 3}")


def _detector(
    canvas: Canvas, layout: str, y: float, inputs: np.ndarray, weights: np.ndarray
) -> None:
    light = inputs * weights
    if layout == "single-pixel":
        canvas.axes.plot([_DETECTOR_X + 39], [y + 39], "o", color="#ffb27a", markersize=24,
                         markeredgecolor=CONVERT, zorder=3)  # fmt: skip
        canvas.text(_DETECTOR_X + 39, y + 70, "photodiode", size=10.5, color=SOFT)
        return
    canvas.area((_DETECTOR_X, y), (_SIDE, _SIDE), "#101214", CONVERT)
    if layout == "imaged":
        sums = light.reshape(3, 2, 3, 2).sum(axis=(1, 3))
        spots = [(5 + 26 * c, 5 + 26 * r, 16, 16, sums[r, c]) for r in range(3) for c in range(3)]
    else:
        spots = [(33, 13 * r + 2, 12, 9, light[r].sum()) for r in range(6)]
    most = max(spot[-1] for spot in spots)
    for left, top, width, height, value in spots:
        colour = to_hex([part * (value / most) ** 2 for part in to_rgb("#ffb27a")])
        canvas.area((_DETECTOR_X + left, y + top), (width, height), colour)


def _size(layout: str) -> tuple[int, int]:
    """Return slots and their length on the full-size example bench of a layout."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.toml"
        path.write_text(example_file(layout), encoding="utf-8")
        with BenchBackend(load_bench(path)) as backend:
            layout_ = backend.optical_model.layout
            return int(layout_.slots), int(layout_.length)


# --- faults ---------------------------------------------------------------------------------------


def draw_recoveries() -> None:
    """Draw what happens to a shot that fails as recoveries.svg, from the default policies."""
    policies: dict[tuple[str, ...], list[str]] = {}
    for kind in DEFAULTS:
        policies.setdefault(_merged(kind), []).append(kind)
    canvas = Canvas(166 + 66 * len(policies))
    canvas.box((20, 16), (120, 52), "Exposure\nof one shot", LIGHT)
    canvas.arrow((141, 42), (179, 42))
    canvas.box((180, 16), (150, 52), "Checks\nof the exposure", CONVERT)
    canvas.arrow((331, 42), (429, 42), GOOD)
    canvas.text(378, 30, "all pass", color=GOOD)
    canvas.box((430, 16), (150, 52), "Result\nis used", HOST)
    canvas.arrow((255, 69), (255, 104), STOP)
    canvas.text(265, 86, "one fails: the kind of fault decides", color=STOP, ha="left")
    canvas.text(20, 118, "kind of fault", ha="left", weight="bold")
    canvas.text(190, 118, "recoveries, from left to right, until the shot passes", ha="left",
                weight="bold")  # fmt: skip
    for number, (recoveries, kinds) in enumerate(policies.items()):
        y = 136 + 66 * number
        lines = textwrap.wrap(", ".join(kinds), 22)
        for place, line in enumerate(lines):
            at = y + 24 + 16 * (place - (len(lines) - 1) / 2)
            canvas.text(20, at, line, ha="left")
        _chain(canvas, y, recoveries)
    canvas.text(20, 150 + 66 * len(policies), "A paused run can be resumed.", ha="left", color=SOFT)
    canvas.save(
        "recoveries",
        "What happens to a shot that fails: recoveries of each kind of fault, ending with a pause",
    )


def _chain(canvas: Canvas, y: float, recoveries: tuple[str, ...]) -> None:
    x = 190.0
    for number, recovery in enumerate(recoveries):
        if recovery == "pause":
            canvas.box((x, y), (112, 48), "pause\nlight off", STOP)
            if number == 0:
                canvas.text(x + 124, y + 24, "an open interlock is re-armed on site", ha="left")
            return
        colour = {"retry": HOST, "wait": CONVERT, "reconnect": COLOURS["teal"]}[recovery.split()[0]]
        text = recovery.replace("retry", "retry\n").replace("wait", "wait\n")
        text = text.replace("reconnect", "reconnect\n").replace("\n ", "\n").removesuffix("\n")
        width = 84 if recovery.startswith("reconnect") else 62
        canvas.box((x, y), (width, 48), text, colour)
        canvas.arrow((x + width + 1, y + 24), (x + width + 11, y + 24))
        x += width + 12


def _merged(kind: str) -> tuple[str, ...]:
    """Return the default recoveries of a kind; equal ones in a row as one, "retry 3"."""
    policy, used = FaultPolicy({}), Counter[str]()
    found: list[tuple[str, int]] = []
    while not found or found[-1][0] != "pause":
        recovery = policy.recovery(kind, used)
        used[kind] += 1
        seconds = f"{recovery.wait_s * 1e3:g} ms" if recovery.wait_s < 0.1 else ""
        wait = seconds or f"{recovery.wait_s:g} s"
        name = f"wait {wait}" if recovery.name == "wait" else recovery.name
        if found and found[-1][0] == name:
            found[-1] = (name, found[-1][1] + 1)
        else:
            found.append((name, 1))
    return tuple(f"{name} x {times}" if times > 1 else name for name, times in found)


# --- orders ---------------------------------------------------------------------------------------


def draw_orders() -> None:
    """Draw the paths of both orders through the shots of a job as orders.svg."""
    tiles, vectors = 3, 5
    canvas = Canvas(250)
    for number, order in enumerate(ORDERS):
        x, y = 90 + 350 * number, 70
        canvas.text(x + 125, 20, order, size=LARGE, weight="bold")
        canvas.text(x + 125, 44, "input frames", color=SOFT)
        for tile in range(tiles):
            canvas.text(x - 8, y + 22 + 44 * tile, f"weights {tile + 1}", ha="right", color=HOST)
            for vector in range(vectors):
                canvas.area(
                    (x + 50 * vector, y + 44 * tile), (46, 40), tint(LIGHT), tint(LIGHT, 0.5)
                )
        path = [
            (x + 23 + 50 * v, y + 20 + 44 * t) for t, v in visits(tiles, vectors, order).tolist()
        ]
        canvas.line(path, LIGHT, linewidth=2.2, zorder=3)
        canvas.axes.plot(*path[0], "o", color=LIGHT, markersize=9, zorder=4)
        canvas.arrow(path[-2], path[-1], LIGHT)
        weights = tiles if number == 0 else vectors * (tiles - 1) + 1
        inputs = tiles * (vectors - 1) + 1 if number == 0 else vectors
        canvas.text(x + 125, 222, f"shows {weights} weight frames and {inputs} input frames",
                    weight="bold")  # fmt: skip
    canvas.save(
        "orders", "Paths of the two orders through a grid of weight frames and input frames"
    )


# --- tracks ---------------------------------------------------------------------------------------

_PARTS = (COLOURS["teal"], COLOURS["brown"])
_TRACKS = ("host", "feed", "encode", "input", "weight", "detector", "decode", "gather")


def draw_tracks() -> None:
    """Draw the eight tracks of a bench for two micro-batches as tracks.svg, schematically."""
    canvas = Canvas(342)
    for number, track in enumerate(_TRACKS):
        y = 34 + 34 * number
        canvas.text(90, y + 12, track, ha="right", size=NORMAL)
        canvas.line([(100, y + 29), (710, y + 29)], COLOURS["rule"], linewidth=0.8)
    canvas.arrow((100, 314), (710, 314))
    canvas.text(692, 326, "time", color=SOFT)
    for number, part in enumerate(_PARTS):
        canvas.text(160 + 128 * number, 18, f"micro-batch {number + 1}", color=part, weight="bold")
    for number in range(4):
        _product(canvas, 100 + 128 * number, _PARTS[number % 2])
        if number < 3:
            softmax = 302 + 128 * number
            _slice(canvas, "host", softmax, 54, _PARTS[number % 2], "softmax")
    _product(canvas, 612, _PARTS[0], shots=1, is_gathered=False)
    canvas.text(100, 326, "detector: exposure, then read-out (pale)", ha="left", color=SOFT)
    canvas.save(
        "tracks",
        "Eight tracks of a bench: the light of micro-batch 2 while the host works on micro-batch 1",
    )


def _product(
    canvas: Canvas, start: float, colour: str, shots: int = 4, is_gathered: bool = True
) -> None:
    """Draw a product of some shots on all tracks from a time on."""
    _slice(canvas, "feed", start, 18, colour)
    for shot in range(shots):
        at = start + 34 + 32 * shot
        _slice(canvas, "encode", at - 15, 13, colour)
        _slice(canvas, "input", at, 18, colour)
        if shot == 0:
            _slice(canvas, "weight", at, 18, colour)
        _slice(canvas, "detector", at + 19, 12, colour)
        _slice(canvas, "detector", at + 31, 12, colour, amount=0.1)
        if at + 58 < 710:
            _slice(canvas, "decode", at + 44, 12, colour)
    if is_gathered:
        _slice(canvas, "gather", start + 34 + 32 * shots + 26, 12, colour)


def _slice(canvas: Canvas, track: str, x: float, width: float, colour: str, text: str = "",
           amount: float = 0.4) -> None:  # fmt: skip
    y = 34 + 34 * _TRACKS.index(track)
    canvas.area((x, y), (width, 24), tint(colour, amount), colour)
    if text:
        canvas.text(x + width / 2, y + 12, text)
