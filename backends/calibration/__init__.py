"""From a bench as found to numbers to trust: `align`, then `calibrate`, by light alone."""

from .align import Alignment, align, follow, store
from .calibrate import STEPS, calibrate

__all__ = ["STEPS", "Alignment", "align", "calibrate", "follow", "store"]
