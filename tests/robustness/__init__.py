"""Campaigns that take hours: fuzzing, injected faults, and processes that are killed."""
