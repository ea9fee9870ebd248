"""From a bench as found to numbers to trust: `align`, then `calibrate`, by light alone."""

from .align import Alignment, align, follow, store

__all__ = ["Alignment", "align", "follow", "store"]
