"""Layouts: how elements are placed on the pixels of modulators and detectors, one file each."""

from .base import Layout, Marks
from .imaged import ImagedLayout
from .line import LineLayout
from .single_pixel import SinglePixelLayout

LAYOUTS: dict[str, type[Layout]] = {
    kind.name: kind for kind in (ImagedLayout, LineLayout, SinglePixelLayout)
}

OLD_LAYOUTS = {"block": "single-pixel"}  # names in older files -> current names

__all__ = [
    "LAYOUTS",
    "OLD_LAYOUTS",
    "ImagedLayout",
    "Layout",
    "LineLayout",
    "Marks",
    "SinglePixelLayout",
]
