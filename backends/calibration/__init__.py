"""From a bench as found to numbers that can be trusted: `align`, then `calibrate`, by light alone."""
