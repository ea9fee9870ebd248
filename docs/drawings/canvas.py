"""The visual language of the drawings: a white card, three colours, boxes, arrows and symbols.

Orange is light, blue is the host and its numbers, purple is a conversion between them. The card is
white, so that a drawing reads the same in the light and the dark mode of the site.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from lightloom.report.charts import COLOURS

LIGHT, HOST, CONVERT = COLOURS["orange"], COLOURS["blue"], COLOURS["purple"]
INK, SOFT, STOP, GOOD = COLOURS["ink"], COLOURS["soft"], COLOURS["red"], COLOURS["green"]
WIDTH = 720  # of a drawing, in pixels
SMALL, NORMAL, LARGE = 11.5, 13, 15  # sizes of text, in pixels
_FONTS = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lightloom",
    "font.family": ["DejaVu Sans"],
    "font.size": SMALL,
    "axes.titlesize": NORMAL,
    "axes.labelsize": SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "grid.color": COLOURS["rule"],
}


class Output:
    """Where pictures are written.

    Attributes
    ----------
    folder : docs/pictures, unless the command names another one
    """

    folder = Path(__file__).parents[1] / "pictures"


def save_text(name: str, text: str) -> None:
    """Write a picture that is text, without spaces at the ends of lines."""
    text = re.sub(r"[ \t]+$", "", text, flags=re.M)
    (Output.folder / name).write_text(text, encoding="utf-8", newline="\n")


def tint(colour: str, amount: float = 0.12) -> str:
    """Return a colour mixed with white."""
    return to_hex([1 - amount * (1 - part) for part in to_rgb(colour)])


@contextmanager
def plot(name: str, title: str, height: int) -> Iterator[Figure]:
    """Draw a plot of data within the `with` block, then save it.

    Parameters
    ----------
    name : of the file, without its ending
    title : what it shows, for those who cannot see it
    height : in pixels
    """
    with matplotlib.rc_context({**_STYLE, "figure.dpi": 72}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # inches
        yield figure
        _save(figure, name, title)


class Canvas:
    """A drawing in pixels from its top left corner.

    Parameters
    ----------
    height : in pixels
    """

    def __init__(self, height: int) -> None:
        self.height = height
        with matplotlib.rc_context(_STYLE):
            self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
            self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write a text, centred about a point unless `ha` or `va` says otherwise."""
        style = {"size": SMALL, "ha": "center", "va": "center", "color": INK, **style}
        for number, line in enumerate(lines := text.split("\n")):
            at = y + (number - (len(lines) - 1) / 2) * 1.3 * style["size"]
            self.axes.text(x, at, line, family="DejaVu Sans", parse_math=False, **style)

    def box(
        self,
        corner: tuple[float, float],
        size: tuple[float, float],
        text: str = "",
        colour: str = HOST,
        **style: Any,
    ) -> None:
        """Draw a rounded box with a text in its middle; its first line is bold if it has more."""
        (x, y), (width, height) = corner, size
        self.axes.add_patch(
            FancyBboxPatch(
                (x + 5, y + 5), width - 10, height - 10, boxstyle="round,pad=5,rounding_size=6",
                facecolor=tint(colour), edgecolor=colour, linewidth=1.4, zorder=2,
            )
        )  # fmt: skip
        first, _, rest = text.partition("\n")
        centre = x + width / 2
        if not text:
            return
        if not rest:
            self.text(centre, y + height / 2, first, **style)
            return
        rows = rest.count("\n") + 2
        top = y + height / 2 - (rows - 1) / 2 * 1.3 * SMALL
        self.text(centre, top, first, weight="bold", **style)
        self.text(centre, top + rows / 2 * 1.3 * SMALL, rest, **style)

    def area(
        self, corner: tuple[float, float], size: tuple[float, float], colour: str, edge: str = ""
    ) -> None:
        """Fill a rectangle."""
        self.axes.add_patch(
            Rectangle(corner, *size, facecolor=colour, edgecolor=edge or colour, linewidth=0.8,
                      zorder=2)
        )  # fmt: skip

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str = SOFT,
        bend: float = 0,
        **style: Any,
    ) -> None:
        """Draw an arrow."""
        self.axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.5,
                shrinkA=0, shrinkB=0, connectionstyle=f"arc3,rad={bend}", zorder=3, **style,
            )
        )  # fmt: skip

    def line(self, points: list[tuple[float, float]], colour: str = SOFT, **style: Any) -> None:
        """Draw a line through points."""
        style = {"linewidth": 1.4, "zorder": 1, **style}
        self.axes.plot(*zip(*points, strict=True), color=colour, **style)

    def beam(self, points: list[tuple[float, float]], amount: float = 0.28) -> None:
        """Fill the outline of a beam of light."""
        colour = tint(LIGHT, amount)
        self.axes.add_patch(Polygon(points, facecolor=colour, edgecolor=colour, zorder=0))

    def lens(self, x: float, y: float, height: float, width: float = 14) -> None:
        """Draw a lens about a point."""
        glass = COLOURS["teal"]
        self.axes.add_patch(
            Ellipse((x, y), width, height, facecolor=tint(glass, 0.2), edgecolor=glass,
                    linewidth=1.3, zorder=2)
        )  # fmt: skip

    def legend(self, x: float, y: float) -> None:
        """Say which colour is what, in one line from a point on."""
        for colour, text in ((LIGHT, "light"), (CONVERT, "conversion"), (HOST, "host")):
            self.area((x, y - 6), (12, 12), tint(colour), colour)
            self.text(x + 18, y, text, ha="left")
            x += 45 + 7 * len(text)

    def save(self, name: str, title: str) -> None:
        """Check that no text overlaps another one or the edge, and save the drawing."""
        self.figure.canvas.draw()
        boxes = [(text.get_text(), text.get_window_extent()) for text in self.axes.texts]
        for number, (text, box) in enumerate(boxes):
            if box.x0 < 0 or box.y0 < 0 or box.x1 > WIDTH or box.y1 > self.height:
                raise ValueError(f"{name}: “{text}” lies beyond the edge")
            for other, place in boxes[:number]:
                if box.padded(-2).overlaps(place.padded(-2)):
                    raise ValueError(f"{name}: “{text}” overlaps “{other}”")
        with matplotlib.rc_context(_STYLE):
            _save(self.figure, name, title)


def _save(figure: Figure, name: str, title: str) -> None:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r"<!DOCTYPE.*?>\n|\s*<metadata>.*?</metadata>", "", stream.getvalue(), flags=re.S)
    text = re.sub(r"\n<!--.*?-->", "", text).replace("'DejaVu Sans'", _FONTS)
    text = re.sub(
        r"(<svg [^>]*)>", rf'\1 role="img">\n <title>{escape(title)}</title>', text, count=1
    )
    save_text(f"{name}.svg", text)
