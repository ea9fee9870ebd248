"""`lightloom calibrate`: the steps that measure an aligned bench."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..instruments import limit_threads
from ..instruments.formatting import format_counted
from ..instruments.text import say
from .options import SEVERAL, Json
from .output import print_json

if TYPE_CHECKING:
    from ..backends.optics.calibration_file import Step

AlignedBench = Annotated[Path, typer.Option("--bench", help="Bench file of an aligned bench.")]
OnlySteps = Annotated[
    list[str] | None, typer.Option(help=f"Run only this step. {SEVERAL}", metavar="NAME")
]
SkippedSteps = Annotated[
    list[str] | None, typer.Option(help=f"Skip this step. {SEVERAL}", metavar="NAME")
]
Missing = Annotated[bool, typer.Option("--resume", help="Skip the steps that are stored already.")]
_COSTS = ("shots", "seconds", "computing_s", "light_j")


def command(
    bench: AlignedBench,
    step: OnlySteps = None,
    skip: SkippedSteps = None,
    resume: Missing = False,
    json_: Json = False,
) -> None:
    """Measure an aligned bench with its own light, step by step; stores each finished step.

    Example: lightloom calibrate --bench bench.toml --resume
    """
    limit_threads(None)
    from ..backends.bench import load_bench
    from ..backends.calibration import calibrate
    from ..backends.optics.calibration_file import described
    from ..report.terminal.calibration import show_calibration, show_step
    from ..report.terminal.console import open_console, progress

    console = open_console(for_people=not json_)
    steps: list[Step] = []

    def done(finished: "Step") -> None:
        steps.append(finished)
        if not json_:
            show_step(console, finished)

    try:
        with progress(in_percent=True) as tell:
            found = calibrate(
                load_bench(bench),
                step or (),
                skip or (),
                resume,
                lambda name, share: tell(name, round(100 * share), 100),
                done,
            )
    except KeyboardInterrupt:
        say(
            f"{format_counted(len(steps), 'step')} of this call stored; resume with: "
            f"lightloom calibrate --bench {bench} --resume"
        )
        raise
    if json_:
        document = {"schema": 1, "bench": str(bench), "calibration": found.path}
        total = {key: sum(getattr(item, key) for item in steps) for key in _COSTS}
        print_json(document | {"steps": [described(item) for item in steps], "total": total})
    else:
        show_calibration(console, steps, found, str(bench))
