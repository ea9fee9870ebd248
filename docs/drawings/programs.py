"""A layer as a program, and the rooms of the code."""

import ast
from pathlib import Path

from canvas import CONVERT, HOST, LIGHT, NORMAL, SOFT, Canvas, tint

import lightloom

_ROOT = Path(__file__).parents[2]
_LAYER = (  # steps of a layer, in two bands: names in a program -> text
    {
        "attention.norm": "layer\nnorm", "attention.q": "Q, K, V\nprojections",
        "attention.qk": "scores\nQ Kᵀ", "attention.softmax": "softmax",
        "attention.av": "softmax\ntimes V", "attention.output": "output\nprojection",
        "attention.residual": "add x",
    },
    {
        "mlp.norm": "layer\nnorm", "mlp.up": "feed-forward\nup", "mlp.activation": "GELU",
        "mlp.down": "feed-forward\ndown", "mlp.residual": "add x",
    },
)  # fmt: skip


def draw_layer() -> None:
    """Draw one layer as a program as layer.svg; where a step runs comes from a plan."""
    where = {
        step.name.removeprefix("layer.0."): step.where
        for step in lightloom.plan("digits", "mock:slm-camera").steps
        if step.name.startswith("layer.0.")
    }
    canvas = Canvas(430)
    canvas.legend(470, 18)
    for number, steps in enumerate(_LAYER):
        y = 36 + 200 * number
        canvas.area((70, y + 66), (640, 22), tint(CONVERT), tint(CONVERT, 0.4))
        canvas.text(12, y + 32, "light", color=LIGHT, size=NORMAL, ha="left", weight="bold")
        canvas.text(12, y + 77, "A/D, D/A", color=CONVERT, ha="left", size=11)
        canvas.text(12, y + 122, "host", color=HOST, size=NORMAL, ha="left", weight="bold")
        gap = 640 / len(steps)
        x, before = 70 + gap / 2, ""
        for name, text in steps.items():
            _step(canvas, (x, y), text, where[name], before, gap)
            x, before = x + gap, where[name]
    canvas.text(
        360, 414, "D/A: the host's numbers become grey levels.   A/D: the detector's light becomes "
        "counts.", color=SOFT,
    )  # fmt: skip
    canvas.save(
        "layer", "One layer of a Transformer: matrix products on light, all else on the host"
    )


def _step(
    canvas: Canvas, at: tuple[float, float], text: str, where: str, before: str, gap: float
) -> None:
    """Draw a step about x, and the way from the step before it."""
    x, y = at
    is_light = where == "optical"
    top, width = (y + 6 if is_light else y + 96), min(gap - 10, 96)
    colour = LIGHT if is_light else HOST
    canvas.box((x - width / 2, top), (width, 52), "", colour)
    canvas.text(x, top + 26, text)
    if not before:
        return
    left = x - gap
    if before == where == "optical":  # down to the host and up again
        canvas.line(
            [(left + 20, y + 60), (left + 20, y + 104), (x - 20, y + 104)], CONVERT, zorder=3
        )
        canvas.arrow((x - 20, y + 104), (x - 20, y + 59), CONVERT)
    elif before == where:
        canvas.arrow((left + width / 2 + 1, y + 122), (x - width / 2 - 1, y + 122), HOST)
    elif is_light:  # from the host up
        canvas.line([(left + width / 2 + 1, y + 122), (x - 20, y + 122)], CONVERT, zorder=3)
        canvas.arrow((x - 20, y + 122), (x - 20, y + 59), CONVERT)
    else:
        canvas.line([(left + 20, y + 60), (left + 20, y + 122)], CONVERT, zorder=3)
        canvas.arrow((left + 20, y + 122), (x - width / 2 - 1, y + 122), CONVERT)


_ROOMS = {
    "lightloom": ("front door: public names, commands, reports", ("cli", "report")),
    "benchmarks": ("studies of throughput, scaling and sweeps", ()),
    "models": ("families, weights, tokenizers", ()),
    "scheduler": ("programs, plans, runs", ("runs", "journal", "cluster", "energy")),
    "backends": ("matrix products", ("mock", "bench", "calibration", "optics")),
    "instruments": ("devices", ("drivers", "simulated", "safety")),
}


def draw_rooms() -> None:
    """Draw the rooms as rooms.svg, and check that the code's imports go down as the arrows do."""
    canvas = Canvas(472)
    names = list(_ROOMS)
    for number, (room, (text, parts)) in enumerate(_ROOMS.items()):
        y = 14 + 74 * number
        for other in _imported(room):
            if names.index(other) < number:
                raise ValueError(f"{room} imports {other}, which is above it")
        canvas.box((120, y), (580, 52), "", LIGHT if room == "backends" else HOST)
        canvas.text(136, y + 17, room, ha="left", weight="bold", size=14)
        canvas.text(136, y + 37, text, ha="left", color=SOFT)
        if parts:
            canvas.text(684, y + 27, ", ".join(parts), ha="right")
        if number:
            canvas.arrow((410, y - 21), (410, y - 1))
    canvas.arrow((70, 30), (70, 420), SOFT)
    canvas.text(46, 225, "imports go down", rotation=90, color=SOFT, size=NORMAL)
    canvas.text(410, 458, "A room may import every room below it, and none above it.", color=SOFT)
    canvas.save(
        "rooms", "Rooms of the code, from the front door to the instruments; imports go down"
    )


def _imported(room: str) -> list[str]:
    """Return the other rooms that the modules of a room import, from the top down."""
    found = set()
    for path in (_ROOT / room).rglob("*.py"):
        depth = len(path.relative_to(_ROOT).parts)
        if room == "lightloom":  # the front door's folder is the package itself
            depth -= 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == depth:
                found |= {(node.module or "").partition(".")[0]}
                if not node.module:
                    found |= {alias.name for alias in node.names}
    return [other for other in _ROOMS if other in found and other != room]
