"""Plans, runs, resumed runs and their reports; for any model, which the caller hands in."""
