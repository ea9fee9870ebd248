"""Almost valid inputs: bytes, texts and documents with changes.

Every choice comes from a `random.Random`, so that a seed repeats an input, and so that hypothesis
can search for the smallest one. Not here: their readers (`files`, `models`, `replies`, `journals`).
"""

import copy
import json
import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

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
            lines.insert(
                at, random.choice(("[", "[[a]]", "[a.b]", "a = '", 'b = """', "c = {", "d.e.f = 1"))
            )
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
        holder, key = _somewhere(random, document)
        if holder is None:
            return odd_value(random)
        _change(random, holder, key)
    return document


def _somewhere(random: Random, document: Any) -> tuple[Any, Any]:
    """Return a table or list of the tree and one of its keys; all places are about as likely."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys: Sequence[Any] = ()
        if isinstance(value, dict):
            keys = list(value)
        elif isinstance(value, list):
            keys = range(len(value))
        for key in keys:
            places.append((value, key))
            walk(value[key])

    walk(document)
    return random.choice(places) if places else (None, None)


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
    random: Random, text: str, document: Any, write: Callable[[Any], str] = json.dumps
) -> bytes:
    """Return a file with a changed document, lines or bytes; the document most often.

    Parameters
    ----------
    document : content of the text
    write : returns the text of a document
    """
    kind = random.randrange(10)
    if kind < 7:
        return write(changed_document(random, document)).encode("utf-8", "replace")
    if kind < 8:
        return changed_lines(random, text).encode("utf-8", "replace")
    if kind < 9:
        return changed_bytes(random, text.encode())
    return changed_bytes(random, random.randbytes(random.randrange(40)))


def as_toml(document: Any) -> str:
    """Return a document as TOML, every table in one line, without values that TOML cannot hold."""
    if not isinstance(document, dict):
        return f"value = {_toml(document)}\n"
    return "".join(
        f"{_toml(str(key))} = {_toml(value)}\n"
        for key, value in document.items()
        if value is not None
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, dict):
        inner = (f"{_toml(str(k))} = {_toml(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value if item is not None) + "]"
    if isinstance(value, int):
        return str(value)
    return json.dumps(str(value)).replace("\x7f", "\\u007f")
