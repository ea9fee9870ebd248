"""The alignment and the calibration of a bench, as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from ...backends.optics.calibration_tables import figure_table
from ...instruments.formatting import format_counted, format_duration, format_energy
from .console import as_rich, show_tables

if TYPE_CHECKING:
    from ...backends.bench import Bench
    from ...backends.calibration import Alignment
    from ...backends.optics.calibration_file import Calibration, Step


def show_step(where: Console, done: Step) -> None:
    """Print a step of a calibration: what it found, and what that cost."""
    where.print(f"[bold]{done.name}[/]: {_cost([done])}")
    show_tables(where, [figure_table(done.figures)])
    for note in done.notes:
        where.print(f"[yellow]note:[/] {escape(note)}")


def show_calibration(where: Console, steps: Sequence[Step], found: Calibration, bench: str) -> None:
    """Print what a calibration cost, where it is, and what comes next."""
    from ...backends.bench.calibrated_optics import WANTED

    if steps:
        where.print(f"{format_counted(len(steps), 'step')}: {_cost(steps)}; light is off")
    else:
        where.print("no step was left to do")
    following = (
        f"lightloom check --bench {bench} --random-products 2000, then lightloom report {bench}"
    )
    if any(name not in found.steps for name in WANTED):
        following = f"lightloom calibrate --bench {bench} --resume, for the steps that are missing"
    where.print(f"stored in {escape(found.path)}; next: {escape(following)}")


def _cost(steps: Sequence[Step]) -> str:
    return _cost_text(
        sum(step.shots for step in steps),
        sum(step.seconds for step in steps),
        sum(step.computing_s for step in steps),
        sum(step.light_j for step in steps),
    )


def _cost_text(shots: float, bench_s: float, computing_s: float, light_j: float) -> str:
    return (
        f"{format_counted(int(shots), 'shot')}, {format_duration(bench_s)} of the bench, "
        f"{format_duration(computing_s)} of computing, {format_energy(light_j)} of light"
    )


def show_alignment(where: Console, found: Alignment, bench: str, path: str) -> None:
    """Print what `lightloom align` found, and what comes next."""
    show_tables(where, [figure_table(found.figures)])
    for sentence in found.advice:
        where.print(f"- {escape(sentence)}")
    cost = found.cost
    told = _cost_text(*(cost[key] for key in ("shots", "bench_s", "computing_s", "light_j")))
    where.print(f"{told}; light is off")
    where.print(f"stored in {escape(path)}; next: lightloom calibrate --bench {escape(bench)}")


def follow_alignment(where: Console, follow: Callable[..., Any], bench: Bench) -> None:
    """Show the registration, updated with every look, until the operator interrupts."""
    with Live(console=where, auto_refresh=False, transient=True) as shown:

        def tell(text: str) -> None:
            shown.update(f"[yellow]{escape(text)}[/]", refresh=True)

        with closing(follow(bench, tell)) as alignments:
            for found in alignments:
                advice = "\n".join(f"- {escape(sentence)}" for sentence in found.advice)
                text = f"{advice}\n[dim]Ctrl-C ends this and stores a full alignment[/]"
                shown.update(Group(as_rich(figure_table(found.figures)), text), refresh=True)
