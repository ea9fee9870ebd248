"""`printable`: makes external text, such as names, replies and file contents, safe to show.

A terminal obeys control characters: some write its clipboard, some hide earlier output.
JSON and HTML escape them in other ways.
"""

import re

_LINE_ENDS = re.compile(r"\r+\n")
_CONTROLS = re.compile(  # C0 without tab and line feed, DEL, C1 and bidirectional controls
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    r"""Return a text with control characters escaped, such as "\x1b" and "\u202e".

    Tabs and line feeds stay. Windows line ends become line feeds.
    """
    return _CONTROLS.sub(_escaped, _LINE_ENDS.sub("\n", text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
