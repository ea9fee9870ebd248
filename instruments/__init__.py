"""Ground floor: instruments, and what every room shares (errors, units)."""

if __name__ != "lightloom.instruments":
    raise ImportError("import lightloom.instruments, not instruments")

from .errors import InputError, LightloomError, MissingExtraError

__all__ = ["InputError", "LightloomError", "MissingExtraError"]
