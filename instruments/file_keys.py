"""`FileKey`: a key of a file that a user writes, with default, unit, allowed values and meaning.

A key has its meaning in one place: the docstring below the field of its model. The reference pages
and `lightloom devices --keys` show it from there. Not here: the models (`toml_file`).
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .table import Table, columns

REQUIRED, NONE = "required", "none"  # defaults: the key must be given; it can be left out
_UNITS = {  # end of a name -> unit; the first that fits
    "_e_per_s": "e/s",
    "_bytes_per_s": "B/s",
    "_per_s": "1/s",
    "_per_pixel_j": "1/J",
    "_per_electron": "V/e",
    "_bytes": "B",
    "_bits": "bits",
    "bit_depth": "bits",
    "_deg": "degrees",
    "_hz": "Hz",
    "_px": "pixels",
    "_e": "e",
    "_j": "J",
    "_m": "m",
    "_s": "s",
    "_v": "V",
    "_w": "W",
}
_WORDS = {  # type -> how a table names it
    bool: "true, false",
    int: "integer",
    float: "number",
    str: "text",
    dict: "table",
    Mapping: "table",
    list: "list",
    tuple: "list",
}


@dataclass(frozen=True)
class Items:
    """The names of the items of a list, as metadata: `Annotated[tuple[int, int], Items(...)]`."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class FileKey:
    """One key of a file.

    Parameters
    ----------
    default : as a file writes it; REQUIRED, or NONE if the key can be left out
    unit : of its numbers; "" for none
    allowed : the type of its value, and limits or choices
    table : model of the table that the key opens; None for a value
    """

    name: str
    meaning: str
    default: str = NONE
    unit: str = ""
    allowed: str = "text"
    table: type[BaseModel] | None = None


def keys_of(model: type[BaseModel]) -> tuple[FileKey, ...]:
    """Return the keys of a model, in order."""
    meanings = _meanings(model)
    return tuple(
        _key(field.alias or name, meanings.get(name, ""), field)
        for name, field in model.model_fields.items()
    )


def keys_table(keys: Iterable[FileKey], title: str = "") -> Table:
    """Return keys as a table; a column without content is left out."""
    heads = {"key": str, "default": str, "unit": str, "allowed": None, "meaning": None}
    rows = [(key.name, key.default, key.unit, key.allowed, key.meaning) for key in keys]
    used = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    shown = columns(heads)
    return Table(
        title,
        tuple(shown[place] for place in used),
        tuple(tuple(row[place] for place in used) for row in rows),
    )


def key_tables(model: type[BaseModel], title: str) -> list[Table]:
    """Return the keys of a model as a table, and a table for each model that they open."""
    keys = keys_of(model)
    inner = [key_tables(key.table, f"{title}: {key.name}") for key in keys if key.table is not None]
    return [keys_table(keys, title), *(table for tables in inner for table in tables)]


def nearest_key(model: type[BaseModel], place: Iterable[str | int]) -> str | None:
    """Return the key that is most like an unknown one; None if no key is like it.

    Parameters
    ----------
    model : of the file
    place : the tables that lead to the unknown key, and the key
    """
    *tables, unknown = [part for part in place if isinstance(part, str)]
    for name in tables:
        inner = {key.name: key.table for key in keys_of(model)}.get(name)
        if inner is None:
            return None
        model = inner
    return next(iter(get_close_matches(unknown, [key.name for key in keys_of(model)], 1)), None)


def unit_of(name: str) -> str:
    """Return the unit that the end of a name states; "" for none."""
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def as_toml(value: Any) -> str:
    """Return a default as a file writes it; "" for a table, whose keys have their own."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{}" if not value else ""
    return "" if isinstance(value, BaseModel) else str(value)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a model and its bases, on one line.

    They are read from the source when they are asked for: pydantic would read it for every
    model while it is imported, which takes a tenth of a second for a bench file.
    """
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        try:
            source = textwrap.dedent(inspect.getsource(kind))
        except (OSError, TypeError):  # a class that was typed at a prompt has none
            continue
        (tree,) = ast.parse(source).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found.pop(field.target.id, None)
                match below:
                    case ast.Expr(value=ast.Constant(value=str() as text)):
                        found[field.target.id] = " ".join(text.split())
    return found


def _key(name: str, meaning: str, field: FieldInfo) -> FileKey:
    default = REQUIRED
    if not field.is_required():
        default = as_toml(field.get_default(call_default_factory=True))
    parts = list(_parts(field.annotation, field.metadata))
    is_number = any(kind in (int, float) for kind, _ in parts)
    units = [unit for _, notes in parts for note in notes if (unit := getattr(note, "unit", ""))]
    return FileKey(
        name,
        meaning,
        default,
        unit=next(iter(units), unit_of(name)) if is_number else "",
        allowed=_allowed(field.annotation, field.metadata),
        table=next((kind for kind, _ in parts if _is_model(kind)), None),
    )


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _flat(notes: Iterable[Any]) -> list[Any]:
    """Return the metadata of a type, those inside of a `Field` and a validator too."""
    found: list[Any] = []
    for note in notes:
        found += _flat(note.metadata) if isinstance(note, FieldInfo) else [note]
        found.append(getattr(note, "func", None))  # what `units` and `one_of` validate with
    return found


def _parts(kind: Any, notes: Iterable[Any] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a type and the types inside it, each with its metadata."""
    if get_origin(kind) is Annotated:
        inner, *more = get_args(kind)
        yield from _parts(inner, [*notes, *more])
        return
    yield kind, _flat(notes)
    for part in get_args(kind) if get_origin(kind) is not Literal else ():
        yield from _parts(part)


def _allowed(kind: Any, notes: Iterable[Any] = ()) -> str:
    """Return what a type allows, in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _allowed(inside[0], [*notes, *inside[1:]])
    if origin in (Union, UnionType):
        parts = [_allowed(part, notes) for part in inside if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(map(as_toml, inside))
    if origin is tuple:
        return _allowed_in_list(inside, notes)
    if _is_model(kind) or is_dataclass(kind):
        return "table"
    choices = [note.table for note in _flat(notes) if hasattr(note, "table")]
    if choices:
        return ", ".join(map(as_toml, choices[0]))
    word = _WORDS.get(origin or kind, "any value")
    limits = _limits(_flat(notes)) if kind in (int, float) else ""
    return limits if kind is float and limits else ", ".join(filter(None, (word, limits)))


def _allowed_in_list(inside: tuple[Any, ...], notes: Iterable[Any]) -> str:
    each = _allowed(inside[0])
    if inside[-1] is Ellipsis:
        return "list of tables" if each == "table" else f"list; each: {each}"
    named = [note.names for note in notes if isinstance(note, Items)]
    names = named[0] if named else tuple("abcdefgh"[: len(inside)])
    return f"[{', '.join(names)}]; each: {each}"


def _limits(notes: Iterable[Any]) -> str:
    found: dict[str, float] = {}
    for note in notes:
        for name in ("ge", "gt", "le", "lt"):
            limit = getattr(note, name, None)
            if limit is not None:
                found[name] = limit
    if "gt" in found and found["gt"] >= found.get("ge", found["gt"]):
        found.pop("ge", None)
    if "ge" in found and "le" in found:
        return f"{_limit(found['ge'])} to {_limit(found['le'])}"
    forms = {"ge": "{} or more", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    return ", ".join(forms[name].format(_limit(limit)) for name, limit in found.items())


def _limit(limit: float) -> str:
    bits = math.log2(limit) if limit > 1e6 else 0.0
    return f"2^{bits:.0f}" if bits.is_integer() and bits > 0 else _number(limit)


def _number(value: float) -> str:
    """Return a number with all its digits, and an exponent without a plus or zeros: 4e9."""
    text = f"{value:g}" if float(f"{value:g}") == value else f"{value:.12g}"
    return re.sub(r"e\+?(-?)0*", r"e\1", text)
