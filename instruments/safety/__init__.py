"""Switching light off, and exclusive use: signals, the watchdog process, and process locks."""
