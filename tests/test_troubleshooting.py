"""The page on troubleshooting quotes messages as they are printed, so that a search finds them."""

import ast
import re

from package_modules import modules
from pages import DOCS

PAGE = DOCS / "how-to" / "troubleshooting.md"


def texts_of(node: ast.AST) -> str:
    """Return a text of the code, with `...` for each value in it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(texts_of(part) for part in node.values)
    return "..."


def printed_texts() -> str:
    """Return all texts in the code of the package, one a line."""
    found = []
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr) or (
                isinstance(node, ast.Constant) and isinstance(node.value, str)
            ):
                found.append(" ".join(texts_of(node).split()))
    return "\n".join(found)


def test_quoted_messages_are_printed() -> None:
    # an operator searches the page for the words of a message; other words would not be found
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    quotes = [quote for row in rows for quote in re.findall(r"`([^`]+)`", row)]
    texts = printed_texts()
    parts = [part.strip(" ()[],%") for quote in quotes for part in quote.split("...")]
    missing = [part for part in parts if part not in texts]
    assert len(quotes) > 60 and not missing, missing
