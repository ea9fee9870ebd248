"""The command line: every command of `lightloom`, in the groups that `--help` shows.

A command is a short way to a call of Python, in a file of its own. Nothing heavy is imported before
a command needs it, and threads are set before numpy is loaded.
"""

from collections.abc import Callable
from typing import NoReturn

import typer

from . import (
    align,
    benchmark,
    calibrate,
    check,
    devices,
    doctor,
    energy,
    export,
    init,
    plan,
    process,
    report,
    resume,
    run,
    sweep,
)
from .errors import guarded

_GROUPS: dict[str, dict[str, Callable[..., None]]] = {
    "Models": {
        "run": run.command,
        "plan": plan.command,
        "energy": energy.command,
        "benchmark": benchmark.command,
        "sweep": sweep.command,
    },
    "Benches": {
        "init": init.command,
        "devices": devices.command,
        "check": check.command,
        "align": align.command,
        "calibrate": calibrate.command,
    },
    "While it runs and after": {
        "resume": resume.command,
        "report": report.command,
        "export": export.command,
    },
    "This machine": {"doctor": doctor.command},
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Run Transformers on light, and see what that costs.",
)
for _group, _commands in _GROUPS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_group)(guarded(_command))


def main() -> NoReturn:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    process.run(app)
