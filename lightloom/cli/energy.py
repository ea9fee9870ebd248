"""`lightloom energy`: energy and time on a bench and on digital machines."""

import math
from collections.abc import Sequence as Several
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..instruments import InputError, limit_threads
from .backends import chosen_backend
from .options import (
    SEVERAL,
    Batch,
    Depth,
    Json,
    NewTokens,
    Placement,
    ProfileNames,
    Sequence,
    Settings,
    Threads,
    Width,
)
from .output import print_json

if TYPE_CHECKING:
    from ..scheduler import Baseline
    from ..scheduler.runs import Plan

AnyModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model as for run (default: digits), or gpt2, gpt3-175b, mt-nlg-530b, llama-7b.",
    ),
]
Constants = Annotated[
    list[str] | None,
    typer.Option(
        "--constants", help=f"Set of constants: a name or a TOML file; a later one wins. {SEVERAL}"
    ),
]
TokensPerSecond = Annotated[
    float | None,
    typer.Option(help="Throughput for which converters are counted (default: that of the bench)."),
]
NoMachine = Annotated[
    bool, typer.Option("--no-machine", help="Do not time this machine as a digital baseline.")
]
Page = Annotated[
    Path | None, typer.Option(help="Also write the account to this file, as an HTML page.")
]


def command(
    model: AnyModel = None,
    width: Width = None,
    depth: Depth = 12,
    sequence: Sequence = None,
    batch: Batch = 1,
    new_tokens: NewTokens = 0,
    profile: ProfileNames = None,
    set_: Settings = None,
    placement: Placement = "paper",
    constants: Constants = None,
    tokens_per_second: TokensPerSecond = None,
    no_machine: NoMachine = False,
    html: Page = None,
    threads: Threads = None,
    json_: Json = False,
) -> None:
    """Account for energy and time on a bench and on digital machines; runs nothing.

    Example: lightloom energy --model gpt3-175b --profile projection-2030 --sequence 1024
    """
    limit_threads(threads)
    from ..backends import DEFAULT
    from ..models.shapes import model_or_shape, sized_model
    from ..report.energy import ENERGY_PAGE, energy_page
    from ..report.page import write_page
    from ..report.terminal.console import open_console
    from ..report.terminal.run import show_energy
    from ..scheduler import measure_machine
    from ..scheduler.runs import plan

    _check_options(model, width, tokens_per_second, html)
    loaded = sized_model(width, depth) if width is not None else model_or_shape(model or "digits")
    backends = [chosen_backend("mock", name, set_, 0) for name in profile or [DEFAULT]]
    sizes = (batch, sequence, new_tokens)
    plans = [plan(loaded, opened, *sizes, placement, constants or ()) for opened in backends]
    machines = [] if no_machine else [measure_machine()]
    document = energy_document(plans, constants or [], tokens_per_second, machines)
    if json_:
        print_json(document)
    else:
        show_energy(open_console(for_people=True), document)
    if html is not None:
        write_page(html, energy_page(document), ENERGY_PAGE)


def _check_options(
    model: str | None, width: int | None, tokens_per_second: float | None, html: Path | None
) -> None:
    """Refuse options that do not go together, and a page that could not be written."""
    from ..report.energy import ENERGY_PAGE
    from ..report.page import check_page

    if model is not None and width is not None:
        raise InputError("--model and --width are two models; give one of them")
    if tokens_per_second is not None and not 0 < tokens_per_second < math.inf:
        raise InputError(f"--tokens-per-second = {tokens_per_second} must be above 0")
    if html is not None:
        check_page(html, ENERGY_PAGE)


def energy_document(
    plans: Several["Plan"],
    constants: Several[str],
    tokens_per_s: float | None,
    machines: Several["Baseline"],
) -> dict[str, Any]:
    """Return the accounts of plans of one model on several benches, with crossover widths.

    Parameters
    ----------
    tokens_per_s : throughput that converters are counted for; None is what the bench reaches
    machines : digital machines that were timed, as baselines
    """
    from ..models.shapes import layer_program
    from ..scheduler import account_document
    from ..scheduler.energy.crossover import crossovers

    accounts = []
    first = plans[0]
    batch, new = first.passes[0][0]["batch"], first.passes[0][0]["new"]
    for plan in plans:
        account = plan.energy(*constants, machines=machines)
        widths = crossovers(
            layer_program, plan.profile, account.constants, batch, new, plan.placement
        )
        entry = account_document(account, tokens_per_s)
        accounts.append(entry | {"crossovers": [vars(item) for item in widths]})
    return {
        "schema": 1,
        "model": first.model.name,
        "batch": batch,
        "sequence": new,
        "new_tokens": sum(times for _, times in first.passes[1:]) and len(first.passes),
        "placement": first.placement,
        "is_mock": first.backend.is_mock,
        "accounts": accounts,
        "source": "counted from the plan, times constants that each name their source; "
        "nothing was run",
    }
