"""The campaigns as commands: `python tests/robustness NAME` from a checkout.

Processes that a campaign starts find its modules on any system, because the folders of the tests
are first on the path that they inherit.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from lightloom.instruments.table import plain_text

TESTS = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(TESTS), str(TESTS / "kit")]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Campaigns that try lightloom for hours."
)
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.", min=0)]


@app.command("fuzz")
def fuzz(
    inputs: Annotated[int, typer.Option(help="Of all targets together.", min=1)] = 100_000,
    seed: Seed = 0,
    only: Annotated[str | None, typer.Option(help="This target alone.")] = None,
    first: Annotated[int, typer.Option(help="Number of the first input.", min=0)] = 0,
) -> None:
    """Feed mutated files, replies and arguments to their readers.

    The exit status is 1 for findings. Example: python tests/robustness fuzz --inputs 100000
    """
    from robustness.fuzz.campaign import TARGETS, run, table

    chosen = [target for target in TARGETS if only in (None, target.name)]
    if not chosen:
        names = ", ".join(target.name for target in TARGETS)
        raise typer.BadParameter(f"no target {only!r}; there are {names}")
    counts = run(chosen, inputs, seed, first)
    print(plain_text(table(counts)))
    if any(count.findings for count in counts):
        raise typer.Exit(1)


@app.command("faults")
def faults(
    faults: Annotated[int, typer.Option(help="Faults to inject.", min=1)] = 10_000,
    rate: Annotated[
        float | None, typer.Option(help="Fraction of shots that fail, instead of single faults.")
    ] = None,
    runs: Annotated[int, typer.Option(help="Runs with --rate.", min=1)] = 100,
    seed: Seed = 0,
) -> None:
    """Inject faults of every kind into runs on simulated benches.

    Example: python tests/robustness faults --rate 0.01 --runs 100
    """
    from robustness import fault_campaign as campaign

    logging.getLogger("lightloom").setLevel(logging.ERROR)  # a lost device is no news here
    if rate is not None:
        print(plain_text(campaign.rate_table(campaign.inject_at_rate(rate, runs, seed))))
        return
    outcomes = campaign.inject(faults, seed)
    print(plain_text(campaign.injected_table(outcomes)), end="\n\n")
    print(plain_text(campaign.noticed_table(outcomes)), end="\n\n")
    print(campaign.summary(outcomes))


@app.command("crashes")
def crashes(
    kills: Annotated[int, typer.Option(help="Runs to kill.", min=1)] = 200, seed: Seed = 0
) -> None:
    """Kill runs at random moments, resume them, and compare every number.

    Example: python tests/robustness crashes --kills 200
    """
    from robustness import crash_campaign as campaign

    print(plain_text(campaign.table(campaign.measure(kills, seed))))


if __name__ == "__main__":
    app()
