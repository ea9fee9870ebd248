"""The fast statistical model of a bench."""
