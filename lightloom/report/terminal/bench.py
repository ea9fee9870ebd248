"""A bench, as tables: its checks, its accuracy, and what is attached."""

from __future__ import annotations

from itertools import pairwise
from math import erf
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import new_table

if TYPE_CHECKING:
    from ...backends.bench.accuracy import Accuracy
    from ...instruments import Finding
    from ...instruments.discovery import FoundDevice

_BAR = 30  # characters of the longest bar


def show_checks(where: Console, path: str, findings: list[Finding]) -> None:
    """Print what `lightloom check` found, a line each."""
    table = new_table("", "", "", wrapped=range(3), show_header=False)
    for finding in findings:
        mark = "[green]pass[/]" if finding.passed else "[bold red]FAIL[/]"
        table.add_row(mark, escape(finding.what), escape(finding.detail))
    where.print(table)
    failed = sum(not finding.passed for finding in findings)
    where.print(f"{escape(path)}: {len(findings) - failed} passed, {failed} failed; light is off")


def show_accuracy(where: Console, found: Accuracy) -> None:
    """Print how far random products are from their exact values."""
    where.print(
        f"\n{found.products:,} random products of length {found.length}, "
        f"{found.photons_full_scale:,.0f} photoelectrons per full-scale product of two elements; "
        f"{found.shots:,} shots, {found.retries} of them repeats"
    )
    where.print(
        f"error [bold]{found.over_floor:.3f}[/] x the floor of shot noise, read noise and steps; "
        f"bias {found.bias_over_floor:+.3f} +- {found.bias_error:.3f} x the floor; "
        f"the error is {found.relative_error:.2%} of the values"
    )
    heads = ("photoelectrons of an output", "relative error")
    lights = new_table(*heads, numbers=range(2), wrapped=range(2))
    for light, error in zip(found.light_e, found.error_at_light, strict=True):
        lights.add_row(f"{light:,.0f}", f"{error:.2%}")
    where.print(lights)
    where.print(_histogram(found))


def _histogram(found: Accuracy) -> Table:
    """Draw residuals over predicted noise as bars, beside those of the ideal normal."""
    pairs = found.histogram.reshape(-1, 2).sum(axis=1)  # two neighbours in one bar
    edges = found.edges[::2]
    below = [0.0, *(0.5 + erf(float(edge) / 2**0.5) / 2 for edge in edges[1:-1]), 1.0]
    ideal = [(b - a) * found.products for a, b in pairwise(below)]
    longest = max(float(pairs.max()), *ideal)
    heads = ("residual / noise", "found", "", "ideal", "")
    table = new_table(*heads, numbers=(0, 1, 3), wrapped=range(1, 5))
    for column in (2, 4):
        table.columns[column].min_width = _BAR
    for (low, high), count, wanted in zip(pairwise(edges), pairs, ideal, strict=True):
        bars = ["#" * round(_BAR * value / longest) for value in (float(count), wanted)]
        table.add_row(
            f"{low:+.1f} to {high:+.1f}", f"{count:,}", bars[0], f"{wanted:,.0f}", bars[1]
        )
    return table


def show_devices(where: Console, found: list[FoundDevice]) -> None:
    """Print what is attached, with the lines for a bench file."""
    for item in found:
        where.print(f"[bold]{escape(item.kind)}[/] {escape(item.address)}", end="  ")
        where.print(escape(item.description), highlight=False)
        if item.toml:
            where.print(item.toml.strip(), markup=False, style="cyan")
    if not any(item.toml for item in found):
        where.print("nothing is attached; `lightloom init bench.toml` writes a simulated bench")
