"""The journal of a run: one SQLite file, what is kept in it, and what is read from it."""
