"""`lightloom devices`: what is attached."""

from .options import Json
from .output import print_json


def command(json_: Json = False) -> None:
    """Find attached instruments, with their lines for a bench file; writes to no device.

    Example: lightloom devices
    """
    from ..instruments.discovery import discover
    from ..report.terminal.bench import show_devices
    from ..report.terminal.console import open_console

    found = discover()
    if json_:
        print_json({"schema": 1, "devices": [vars(item) for item in found]})
    else:
        show_devices(open_console(for_people=True), found)
