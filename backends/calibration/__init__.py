"""Optical calibration of a bench that is not yet aligned: `align`, then `calibrate`."""

from .alignment import Alignment, align, store
from .calibrate import STEPS, calibrate
from .live_alignment import align_live

__all__ = ["STEPS", "Alignment", "align", "align_live", "calibrate", "store"]
