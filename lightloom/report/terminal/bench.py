"""A bench, as tables: its checks, its accuracy, and what is attached."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import erf
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from ...instruments.formatting import format_bar, format_counted, format_number
from ...instruments.table import Column, Styled, Table
from .console import show_tables

if TYPE_CHECKING:
    from ...backends.bench.accuracy import Accuracy
    from ...instruments import Finding
    from ...instruments.discovery import FoundDevice


def show_checks(where: Console, path: str, findings: Sequence[Finding]) -> None:
    """Print what `lightloom check` found, a line each."""
    show_tables(where, [_check_table(findings)])
    failed = sum(not finding.passed for finding in findings)
    where.print(f"{escape(path)}: {len(findings) - failed} passed, {failed} failed; light is off")


def _check_table(findings: Sequence[Finding]) -> Table:
    columns = (Column("", align="left", wraps=True),) * 3
    marks = {True: Styled("pass", "good"), False: Styled("FAIL", "bad")}
    rows = [(marks[found.passed], found.what, found.detail) for found in findings]
    return Table("", columns, tuple(rows))


def show_accuracy(where: Console, found: Accuracy) -> None:
    """Print how far random products are from their exact values."""
    where.print(
        f"\n{format_counted(found.products, 'random product')} of length {found.length}, "
        f"{format_number(found.photons_full_scale)} photoelectrons per full-scale product of two "
        f"elements; {format_counted(found.shots, 'shot')}, of them "
        f"{format_counted(found.retries, 'repeat')}"
    )
    where.print(
        f"error [bold]{found.over_floor:.3f}[/] x the floor of shot noise, read noise and steps; "
        f"bias {found.bias_over_floor:+.3f} ± {found.bias_error:.3f} x the floor; "
        f"the error is {found.relative_error:.2%} of the values"
    )
    show_tables(where, (_light_table(found), _residual_table(found)))


def _light_table(found: Accuracy) -> Table:
    columns = (
        Column("photoelectrons of an output", form=",.0f", wraps=True),
        Column("relative error", form=".2%", wraps=True),
    )
    return Table("", columns, tuple(zip(found.light_e, found.error_at_light, strict=True)))


def _residual_table(found: Accuracy) -> Table:
    """Return residuals over predicted noise as bars, beside those of the ideal normal."""
    pairs = found.histogram.reshape(-1, 2).sum(axis=1)  # two neighbours in one bar
    edges = found.edges[::2]
    below = [0.0, *(0.5 + erf(float(edge) / 2**0.5) / 2 for edge in edges[1:-1]), 1.0]
    ideal = [(b - a) * found.products for a, b in pairwise(below)]
    longest = max(float(pairs.max()), *ideal)
    columns = (
        Column("residual / noise"),
        Column("found", form=",.0f", wraps=True),
        Column("", align="left", form=format_bar),
        Column("ideal", form=",.0f", wraps=True),
        Column("", align="left", form=format_bar),
    )
    rows = [
        (f"{low:+.1f} to {high:+.1f}", count, count / longest, wanted, wanted / longest)
        for (low, high), count, wanted in zip(pairwise(edges), pairs, ideal, strict=True)
    ]
    return Table("", columns, tuple(rows))


def show_devices(where: Console, found: list[FoundDevice]) -> None:
    """Print what is attached, with the lines for a bench file."""
    for item in found:
        where.print(f"[bold]{escape(item.kind)}[/] {escape(item.address)}", end="  ")
        where.print(escape(item.description), highlight=False)
        if item.toml:
            where.print(item.toml.strip(), markup=False, style="cyan")
    if not any(item.toml for item in found):
        where.print("nothing is attached; `lightloom init bench.toml` writes a simulated bench")
