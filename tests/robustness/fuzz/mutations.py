"""Almost valid inputs: bytes, texts and documents with changes.

Every choice comes from a `random.Random`, so that a seed repeats an input, and so that hypothesis
can search for the smallest one.
"""

import copy
import json
import string
import tomllib
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import tomli_w

Path = tuple[Any, ...]  # of keys and indices, from the whole document to a value

ODD_NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 64, 255, 256, 1 << 31, (1 << 32) - 1, 1 << 53, (1 << 63) - 1, 1 << 63),
    *(-(1 << 63), 1 << 64, 10**20, 10**30, 10**400, 0.0, -0.0, 0.5, 1e-9, 5e-324, 1e-300, 1e300),
    *(1.7976931348623157e308, -1e300, float("nan"), float("inf"), float("-inf")),
)
ODD_TEXTS = (
    *("", " ", "0", "1", "-1", "5 ms", "5ms", "-5 ms", "5 W", "5 kW", "1e400 s", "1e-400 s", "nan"),
    *("inf W", "5 m s", "µ", "5 µs", "5 μs", "٥ ms", "1_000", "0x10", "true", "null", "known", "."),
    *("..", "/", "../x", "a/b", "C:\\x", "virtual", "block", "line", "x" * 3000, "\x00", "é"),
    *("\ue000", "💡", "e\u0301", "\u202e", "%s", "{0}", "[bold]", "[/]", "'", '"', "\\", "\n"),
    *("\r\n", "\t"),
)
BITS = (
    *(b"\x00", b"\xff", b"\x80", b"\n", b"\r", b'"', b"{", b"}", b"[", b",", b"-", b"9" * 40, b"e"),
)
BROKEN_LINES = ("[", "[[a]]", "[a.b]", "a = '", 'b = """', "c = {", "d.e.f = 1")


def odd_value(random: Random, depth: int = 0) -> Any:
    """Return a value that a file could hold in place of the expected one."""
    kind = random.randrange(10 if depth < 3 else 7)
    if kind < 3:
        return random.choice(ODD_NUMBERS)
    if kind < 5:
        return random.choice(ODD_TEXTS)
    if kind == 5:
        return random.random() < 0.5
    if kind == 6:
        return random.uniform(-1, 1) * 10.0 ** random.randrange(-12, 13)
    if kind == 7:
        return [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 8:
        names = random.sample(string.ascii_lowercase, random.randrange(3))
        return {name: odd_value(random, depth + 1) for name in names}
    value: Any = 1
    for _ in range(random.choice((2, 10, 60))):
        value = [value]
    return value


def changed_bytes(random: Random, data: bytes) -> bytes:
    """Return bytes that differ in up to four places."""
    found = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        at = random.randrange(len(found) + 1)
        size = random.choice((1, 1, 2, 4, 8, 100))
        kind = random.randrange(8)
        if kind == 0:
            del found[at:]
        elif kind == 1:
            del found[at : at + size]
        elif kind == 2:
            found[at:at] = random.randbytes(size)
        elif kind == 3:
            found[at:at] = random.choice(BITS)
        elif kind == 4:
            found[at:at] = found[at : at + size]
        elif kind == 5 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif kind == 6:
            found[at : at + size] = random.randbytes(min(size, len(found) - at))
        else:
            other = random.randrange(len(found) + 1)
            found[at : at + size] = found[other : other + size]
    return bytes(found)


def changed_lines(random: Random, text: str) -> str:
    """Return a text with lines removed, doubled, exchanged or added."""
    lines = text.split("\n")
    for _ in range(random.randrange(1, 4)):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        kind = random.randrange(7)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(other, lines[at])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines.insert(at, f"{random.choice(ODD_TEXTS)} = {random.choice(ODD_TEXTS)}")
        elif kind == 4:
            lines.insert(at, random.choice(BROKEN_LINES))
        elif kind == 5:
            depth = random.choice((10, 500, 30_000))
            lines.insert(at, f"deep = {'[' * depth}{']' * depth}")
        else:
            lines.insert(at, f"long = {'9' * random.choice((30, 5000))}")
    return "\n".join(lines)


def changed_document(random: Random, document: Any) -> Any:
    """Return a copy of a tree of tables and lists with up to three values changed."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        found = list(places(document))  # all of them are about as likely
        if not found:
            return odd_value(random)
        _, holder, key = random.choice(found)
        _change(random, holder, key)
    return document


def places(document: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Return path, holder and key of every value in a tree of tables and lists."""
    keys: Iterable[Any] = ()
    if isinstance(document, dict):
        keys = document
    elif isinstance(document, list | tuple):
        keys = range(len(document))
    for key in keys:
        yield (*path, key), document, key
        yield from places(document[key], (*path, key))


def _change(random: Random, holder: Any, key: Any) -> None:
    value, kind = holder[key], random.randrange(10)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and random.random() < 0.5:
        factor = 10.0 ** random.randrange(-6, 7)
        value = min(max(value, -1e300), 1e300)
        holder[key] = random.choice((value + 1, -value, value / 3, value * factor, str(value)))
    elif kind < 5:
        holder[key] = odd_value(random)
    elif kind == 5:
        del holder[key]
    elif kind == 6 and isinstance(holder, dict):
        holder[random.choice(("x", "shape", str(key) + "_", random.choice(ODD_TEXTS)))] = value
    elif kind == 8 and isinstance(value, str):
        holder[key] = changed_bytes(random, value.encode()).decode("utf-8", "replace")
    elif kind == 9 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    else:
        holder[key] = [value]


def changed_text(
    random: Random,
    text: str,
    read: Callable[[str], Any] = json.loads,
    write: Callable[[Any], str] = json.dumps,
) -> bytes:
    """Return a file with a changed document, lines or bytes; the document most often."""
    kind = random.randrange(10)
    if kind < 7:
        return write(changed_document(random, read(text))).encode("utf-8", "replace")
    if kind < 8:
        return changed_lines(random, text).encode("utf-8", "replace")
    return changed_bytes(
        random, text.encode() if kind == 8 else random.randbytes(random.randrange(40))
    )


def changed_toml(random: Random, text: str) -> bytes:
    """Return a TOML file with changes; None cannot be in one."""
    return changed_text(random, text, tomllib.loads, _as_toml)


def _as_toml(document: Any) -> str:
    return tomli_w.dumps(document if isinstance(document, dict) else {"value": document})
