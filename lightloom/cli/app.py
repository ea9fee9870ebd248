"""The command line: every command of `lightloom`, in the groups that `--help` shows.

A command is a short way to a call of Python: the function `command` of the file with its name.
Nothing heavy is imported before a command needs it, and threads are set before numpy is loaded.
"""

from types import ModuleType

import typer

from ..instruments.commands import guarded
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
    report,
    resume,
    run,
    sweep,
    twin,
)

_GROUPS: dict[str, tuple[ModuleType, ...]] = {
    "Models": (run, plan, energy, benchmark, sweep),
    "Benches": (init, devices, check, align, calibrate, twin),
    "While it runs and after": (resume, report, export),
    "This machine": (doctor,),
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Run Transformers on light, and see what that costs.",
)
for _group, _modules in _GROUPS.items():
    for _module in _modules:
        _name = _module.__name__.rpartition(".")[2]
        app.command(_name, rich_help_panel=_group)(guarded(_module.command))
