"""`Size`: symbolic sizes, so that one program serves any batch, new tokens and past tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A sum of products of symbols, such as `past + new` or `3 * new`; immutable.

    Parameters
    ----------
    terms : ((coefficient, (symbol, ...)), ...), sorted
    """

    terms: tuple[tuple[int, tuple[str, ...]], ...]

    @classmethod
    def of(cls, value: int | str | Size) -> Size:
        """Return the size of a number, or of the name of a symbol."""
        if isinstance(value, Size):
            return value
        return cls(((1, (value,)),)) if isinstance(value, str) else cls(((value, ()),))

    def __add__(self, other: int | Size) -> Size:
        total: dict[tuple[str, ...], int] = {}
        for coefficient, symbols in (*self.terms, *Size.of(other).terms):
            total[symbols] = total.get(symbols, 0) + coefficient
        return Size(tuple((c, s) for s, c in sorted(total.items()) if c))

    def __mul__(self, other: int | Size) -> Size:
        result = Size(())
        for c1, s1 in self.terms:
            for c2, s2 in Size.of(other).terms:
                result = result + Size(((c1 * c2, tuple(sorted(s1 + s2))),))
        return result

    __radd__ = __add__
    __rmul__ = __mul__

    @property
    def is_fixed(self) -> bool:
        """Whether the size is a plain number."""
        return not any(symbols for _, symbols in self.terms)

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Return the number for given values of the symbols."""
        total = 0
        for coefficient, symbols in self.terms:
            for symbol in symbols:
                coefficient *= sizes[symbol]
            total += coefficient
        return total

    def __str__(self) -> str:
        parts = [
            "*".join(([str(c)] if c != 1 or not symbols else []) + list(symbols))
            for c, symbols in self.terms
        ]
        return " + ".join(parts) or "0"


BATCH, NEW, PAST = Size.of("batch"), Size.of("new"), Size.of("past")

Shape = tuple[Size, ...]
Sizes = Mapping[str, int]
"""The number of each symbol: batch, new and past tokens."""


def shape(*sizes: int | Size) -> Shape:
    """Return a symbolic shape."""
    return tuple(Size.of(size) for size in sizes)


def evaluate(symbolic: Shape, sizes: Sizes) -> tuple[int, ...]:
    """Return the numbers of a symbolic shape."""
    return tuple(size(sizes) for size in symbolic)
