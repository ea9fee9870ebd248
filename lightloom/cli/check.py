"""`lightloom check`: every instrument of a bench, and products."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..instruments import InputError, limit_threads
from ..instruments.text import say
from .options import BenchFile, Json
from .output import print_json

if TYPE_CHECKING:
    from ..backends.bench.bench import Bench

RandomProducts = Annotated[
    int | None,
    typer.Option(help="Compare at least this many random dot products with exact values.", min=1),
]
Rearm = Annotated[
    bool,
    typer.Option("--rearm", help="On site only: allow light again on a bench that is latched off."),
]
ProductSeed = Annotated[int, typer.Option(help="Seed of the random products.", min=0)]


def command(
    bench: BenchFile,
    random_products: RandomProducts = None,
    rearm: Rearm = False,
    seed: ProductSeed = 1,
    json_: Json = False,
) -> None:
    """Test every instrument of a bench, then products; prints a line for each test.

    Example: lightloom check --bench bench.toml --random-products 2000
    """
    limit_threads(None)
    from ..backends.bench import FIRST_PRODUCTS, check_bench, ignored_keys, load_bench, safety
    from ..report.terminal.bench import show_accuracy, show_checks
    from ..report.terminal.console import open_console

    opened = load_bench(bench)
    for remark in ignored_keys(opened):
        say(remark)
    if rearm:
        _rearm(bench, opened)
    findings, accuracy = check_bench(opened, random_products or FIRST_PRODUCTS, seed)
    source = opened.source
    fail_safe = safety.fail_safe(opened.file, opened.is_simulated, source)
    missing = safety.lacks(opened.file, source) if fail_safe is False else []
    if json_:
        document: dict[str, Any] = {"schema": 1, "bench": str(bench)}
        document["findings"] = [vars(f) for f in findings]
        document |= {"fail_safe": fail_safe, "not_fail_safe": missing}
        document["random_products"] = None if accuracy is None else accuracy.as_dict()
        print_json(document)
    else:
        console = open_console(for_people=True)
        show_checks(console, str(bench), findings)
        if missing:
            console.print(f"[bold yellow]NOT FAIL-SAFE[/]: {'; '.join(missing)}", highlight=False)
        if random_products is not None and accuracy is not None:
            show_accuracy(console, accuracy)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _rearm(bench: Path, opened: "Bench") -> None:
    """Ask a person on site whether the beam path is safe; then the bench may emit again."""
    from ..backends.bench import safety

    with safety.holding(bench, not opened.is_simulated):
        found = safety.latched(bench, opened.latches)
        if found is None:
            say(f"{bench} is not latched off: nothing to re-arm")
            return
        if not safety.is_terminal(sys.stdin):
            raise InputError(
                f"--rearm: {bench} is {found}; only a person who sees the bench can re-arm it, at "
                "a terminal"
            )
        say(f"{bench} is {found} (found by {found.by})")
        question = 'If you are on site and the beam path is safe, type "safe": '
        print(question, end="", file=sys.stderr)
        if sys.stdin.readline().strip() != "safe":
            raise InputError(f"{bench} stays latched off")
        safety.rearm(bench, opened.latches)
