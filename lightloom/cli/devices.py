"""`lightloom devices`: what is attached, and the keys of a driver."""

from typing import Annotated

import typer

from .options import Json
from .output import print_json

Driver = Annotated[
    str | None,
    typer.Option(
        "--keys",
        metavar="DRIVER",
        help="Show the keys of a driver in a bench file instead: default, unit, meaning.",
    ),
]


def command(driver: Driver = None, json_: Json = False) -> None:
    """Find attached instruments, with their lines for a bench file; writes to no device.

    Example: lightloom devices
    """
    if driver is not None:
        _show_keys(driver, json_)
        return
    from ..instruments.discovery import discover
    from ..report.terminal.bench import show_devices
    from ..report.terminal.console import open_console

    found = discover()
    if json_:
        print_json({"schema": 1, "devices": [vars(item) for item in found]})
    else:
        show_devices(open_console(for_people=True), found)


def _show_keys(driver: str, json_: bool) -> None:
    from ..instruments.file_keys import key_tables
    from ..instruments.registry import driver_class
    from ..report.terminal.console import open_console, show_tables

    tables = key_tables(driver_class(driver).Options, driver)
    if json_:
        keys = {
            table.title: [
                dict(zip([column.header for column in table.columns], row, strict=True))
                for row in table.rows
            ]
            for table in tables
        }
        print_json({"schema": 1, "driver": driver, "keys": keys})
    else:
        show_tables(open_console(for_people=True), tables)
