"""`lightloom init`: a bench file of simulated instruments."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import InputError

NewFile = Annotated[Path, typer.Argument(help="Where to write the bench file.")]
Layout = Annotated[str, typer.Option(help="Layout: imaged, line or single-pixel.")]
ClockName = Annotated[
    str, typer.Option(help="Clock: virtual (as fast as the computer allows) or real.")
]
Tiny = Annotated[
    bool, typer.Option("--tiny", help="Make modulators and a camera of 96 x 64 pixels.")
]
AsFound = Annotated[
    bool,
    typer.Option(
        "--as-found", help="Make a crooked, uneven, drifting bench, to align and calibrate."
    ),
]
WorldSeed = Annotated[
    int, typer.Option(help="Seed of the imperfections and the noise of the bench.", min=0)
]


def command(
    file: NewFile,
    layout: Layout = "imaged",
    clock: ClockName = "virtual",
    tiny: Tiny = False,
    as_found: AsFound = False,
    world_seed: WorldSeed = 0,
) -> None:
    """Write a commented bench file of simulated instruments, as a template for yours.

    Example: lightloom init bench.toml && lightloom run --bench bench.toml --limit 20
    """
    from ..backends.bench import example_file
    from ..instruments.files import write_output

    if clock not in ("virtual", "real"):
        raise InputError(f"unknown --clock {clock!r}; choose virtual or real")
    text = example_file(layout, clock, tiny, as_found, world_seed)
    write_output(file, text.encode())
    print(f"wrote {file}; next: lightloom {'align' if as_found else 'check'} --bench {file}")
