"""What mock and bench share of optics: response curves, registration, layouts, calibration files."""
