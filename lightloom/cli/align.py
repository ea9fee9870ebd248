"""`lightloom align`: the registration of the modulators and the camera."""

from typing import Annotated

import typer

from ..instruments import limit_threads
from ..instruments.safety import signals
from .options import BenchFile, Json
from .output import print_json

LiveView = Annotated[
    bool, typer.Option("--live", help="Show the alignment while you turn screws, until Ctrl-C.")
]


def command(bench: BenchFile, live: LiveView = False, json_: Json = False) -> None:
    """Measure the registration of modulators and camera; begins a new calibration.

    Example: lightloom align --bench bench.toml --live
    """
    limit_threads(None)
    from ..backends.bench import load_bench
    from ..backends.bench.binding import path_for
    from ..backends.calibration import align, align_live, store
    from ..backends.optics.calibration_file import KIND
    from ..instruments.files import check_output
    from ..report.terminal.calibration import follow_alignment, show_alignment
    from ..report.terminal.console import open_console, progress

    check_output(path_for(bench), KIND)  # refuses what could not be stored before it looks

    console = open_console(for_people=not json_)
    with load_bench(bench) as opened:
        if live:
            with (
                signals.interrupt_ends_block()
            ):  # Ctrl-C ends this alone; other signals end the program
                follow_alignment(console, align_live, opened)
        with progress() as tell:
            found = align(opened, tell)
        path = store(opened, found)
    if json_:
        print_json(found.as_dict() | {"bench": str(bench), "calibration": str(path)})
    else:
        show_alignment(console, found, str(bench), str(path))
