"""Fuzzing: inputs that nearly are what they should be, and what becomes of them."""
