"""Fuzzing: almost valid inputs, and how their readers treat them."""
