"""The journal of a run: one SQLite file that keeps its finished steps, shots and faults."""
