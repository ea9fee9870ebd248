"""Ground floor: instruments, and what every room shares (errors, limits of threads)."""

if __name__ != "lightloom.instruments":
    raise ImportError("import lightloom.instruments, not instruments")

from .environment import limit_threads
from .errors import InputError, LightloomError, MissingExtraError

__all__ = ["InputError", "LightloomError", "MissingExtraError", "limit_threads"]
