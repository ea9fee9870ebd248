"""Text for terminals: external text made safe to show, and warnings as one-line remarks.

A terminal obeys control characters: some write its clipboard, some hide earlier output.
JSON and HTML escape them in other ways.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LINE_ENDS = re.compile(r"\r+\n")
_CONTROLS = re.compile(  # C0 without tab and line feed, DEL, C1 and bidirectional controls
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)
_MOST_IN_LINE = 100


def printable(text: str) -> str:
    r"""Return a text with control characters escaped, such as "\x1b" and "\u202e".

    Tabs and line feeds stay. Windows line ends become line feeds.
    """
    return _CONTROLS.sub(_escaped, _LINE_ENDS.sub("\n", text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def short_lines(*lines: str) -> str:
    """Return lines of at most 100 characters for a `repr`; a longer one is cut in its middle."""
    shown = (printable(line).replace("\n", " ") for line in lines)
    return "\n".join(
        line if len(line) <= _MOST_IN_LINE else f"{line[:60]} ... {line[-35:]}" for line in shown
    )


@contextmanager
def warnings_as_remarks() -> Iterator[None]:
    """Show warnings as one line each on standard error, without a source line."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if sys.stderr is not None:
            sys.stderr.write(f"note: {printable(str(message))}\n")

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before


def say(sentence: str) -> None:
    """Print a sentence of this program to standard error."""
    if sys.stderr is not None:
        sys.stderr.write(f"lightloom: {printable(sentence)}\n")
