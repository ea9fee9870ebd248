"""Optical calibration of a bench that is not yet aligned: `align`, then `calibrate`."""

from .alignment import Alignment, align, align_live, store
from .calibrate import STEPS, calibrate

__all__ = ["STEPS", "Alignment", "align", "align_live", "calibrate", "store"]
