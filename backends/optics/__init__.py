"""The optics of a bench: response curves, registration, layouts, calibration files."""
