"""What a command writes: JSON on standard output, and the files that its options name."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..instruments import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from ..scheduler.runs import Report


def print_json(document: dict[str, Any]) -> None:
    """Print a document as JSON in ASCII, without a control character that a terminal obeys."""
    text = json.dumps(document, indent=2, allow_nan=False, default=str)
    print(text.replace("\x7f", "\\u007f"))  # the one control character that json leaves


def print_report(
    console: "Console", report: "Report", as_json: bool, text_is_shown: bool = False
) -> None:
    """Print the report of a run, for people or as JSON.

    Parameters
    ----------
    text_is_shown : the text that the run generated was printed before
    """
    from ..report.terminal.run import show_report

    if as_json:
        print_json(report.as_dict())
    else:
        show_report(console, report, text_is_shown)


def check_apart(outputs: dict[str, Path | None]) -> None:
    """Refuse one file for two outputs.

    Parameters
    ----------
    outputs : option -> the file that it names
    """
    places: dict[str, str] = {}
    for option, path in outputs.items():
        if path is not None:
            other = places.setdefault(os.path.normcase(os.path.realpath(path)), option)
            if other != option:
                raise InputError(f"{other} and {option} are both {path}; give each a name")
