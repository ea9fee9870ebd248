"""The twin of a bench: a mock with the slots, curves and noise that a calibration measured."""
