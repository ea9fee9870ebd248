"""`printable`: text from outside, such as names, replies and file contents, made safe to show.

A terminal obeys control characters: some write its clipboard, some hide what was printed before.
JSON and HTML escape them in their own ways.
"""

import re

_LINE_ENDS = re.compile(r"\r+\n")
_CONTROLS = re.compile(  # C0 but tab and line feed, DEL, C1, and what reorders a line
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    r"""Return a text with control characters written out, as "\x1b" and "\u202e".

    Tabs and line feeds stay; the line ends of Windows become line feeds.
    """
    return _CONTROLS.sub(_written_out, _LINE_ENDS.sub("\n", text))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
