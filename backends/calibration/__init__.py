"""From a bench as found to numbers that can be trusted: `align`, then `calibrate`, by light alone."""

from .align import Alignment, align, follow, store

__all__ = ["Alignment", "align", "follow", "store"]
