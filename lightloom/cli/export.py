"""`lightloom export`: all that a run kept, for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import limit_threads
from ..instruments.formatting import format_counted
from .options import Journal

NewOutput = Annotated[
    Path, typer.Option(help="New file (.h5 for HDF5), or new folder (.zarr for Zarr and xarray).")
]


def command(run: Journal, output: NewOutput) -> None:
    """Write all data of a recorded run as HDF5 or Zarr, with units and provenance.

    Example: lightloom export run.db --output run.h5
    """
    limit_threads(None)
    from ..scheduler.journal.export import export
    from ..scheduler.journal.journal_file import JournalFile

    with JournalFile(run) as journal:
        rows = export(journal, output)
    nouns = ("step", "shot", "fault")
    told = ", ".join(format_counted(rows.get(f"{noun}s", 0), noun) for noun in nouns)
    print(f"wrote {output}: {told}")
