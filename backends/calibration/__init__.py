"""From a bench as found to numbers to trust: `align`, then `calibrate`, by light alone."""

from .alignment import Alignment, align, store
from .calibrate import STEPS, calibrate
from .live_alignment import align_live

__all__ = ["STEPS", "Alignment", "align", "align_live", "calibrate", "store"]
