"""Directives that show keys of files, and constants, as tables made from the code.

    ```{file-keys} lightloom.backends.bench.config:BenchFile
    ```
    ```{file-keys} scpi-source
    :without: lightloom.instruments.drivers.visa:VisaOptions
    ```
    ```{records} lightloom.instruments.simulated.faults:KINDS
    :first: kind
    ```
    ```{profile-constants} slm-camera
    ```
    ```{energy-constants} default
    ```

`file-keys` takes a model, a tuple of `FileKey`, or the name of a driver. A key that opens a table
is linked to the table of its model, which must be on the same page. `records` takes a mapping of
records or of texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib import import_module
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from lightloom.backends import load_profile
from lightloom.instruments import driver_class, driver_names
from lightloom.instruments.file_keys import FileKey, as_toml, keys_of, keys_table, unit_of
from lightloom.scheduler.energy.constants import Constant, load_constants
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Cell = str | list[nodes.Node]
_CONSTANT = ("constant", "value", "unit", "source")
_CODE = ("key", "default", "constant", "value")  # columns that a file holds as they are
_NOT_CODE = ("required", "none", "", "-")


def load(place: str) -> Any:
    """Return what "module:name" names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def shown_keys(argument: str, without: str = "") -> tuple[FileKey, ...]:
    """Return the keys that a directive `file-keys` shows.

    Parameters
    ----------
    argument : name of a driver, or "module:name" of a model or of a tuple of keys
    without : places of models whose keys are shown elsewhere, separated by commas
    """
    named = driver_class(argument).Options if argument in driver_names() else load(argument)
    keys = keys_of(named) if isinstance(named, type) else tuple(named)
    others = [load(place.strip()) for place in without.split(",") if place.strip()]
    left_out = {key.name for model in others for key in keys_of(model)}
    return tuple(key for key in keys if key.name not in left_out)


def target_of(model: type[BaseModel]) -> str:
    """Return the anchor of a model's table."""
    return f"keys-of-{model.__name__.strip('_').lower()}"


class _TableDirective(SphinxDirective):
    """A directive that shows a table; texts in its cells may have Markdown."""

    has_content = False
    required_arguments = 1
    final_argument_whitespace = False

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> nodes.table:
        """Return a table with a row of headers."""
        table, group = nodes.table(classes=["settings"]), nodes.tgroup(cols=len(heads))
        group += [nodes.colspec(colwidth=1) for _ in heads]
        head, body = nodes.thead(), nodes.tbody()
        head += self._row(heads, [""] * len(heads))
        body += [self._row(row, heads) for row in rows]
        group += [head, body]
        table += group
        return table

    def _row(self, cells: Sequence[Cell], heads: Sequence[str]) -> nodes.row:
        row = nodes.row()
        for cell, head in zip(cells, heads, strict=True):
            paragraph = nodes.paragraph()
            if not isinstance(cell, str):
                paragraph += cell
            elif head in _CODE and cell not in _NOT_CODE:
                paragraph += nodes.literal(cell, cell)
            else:
                found, messages = self.parse_inline(cell)
                paragraph += [*found, *messages]
            row += nodes.entry("", paragraph)
        return row


class FileKeys(_TableDirective):
    """The keys of a model, with default, unit, allowed values and meaning."""

    option_spec: ClassVar[Any] = {"without": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        """Return the table, and its anchor for keys that open it."""
        argument = self.arguments[0]
        keys = shown_keys(argument, self.options.get("without", ""))
        shown = keys_table(keys)
        heads = [column.header for column in shown.columns]
        rows = [
            self._linked(key, list(map(str, row)), heads)
            for key, row in zip(keys, shown.rows, strict=True)
        ]
        table = self.table(heads, rows)
        table["classes"].append("keys")
        named = None if argument in driver_names() else load(argument)
        if isinstance(named, type):
            table["ids"].append(target_of(named))
        return [table]

    def _linked(self, key: FileKey, row: list[str], heads: list[str]) -> list[Cell]:
        """Return the cells of a key, with a link to the table that it opens."""
        cells: list[Cell] = list(row)
        if key.table is not None:
            place = heads.index("allowed")
            cells[place] = [nodes.reference("", row[place], refid=target_of(key.table))]
        return cells


class Records(_TableDirective):
    """A mapping: its keys in the first column, the fields of its records, or texts, behind them."""

    option_spec: ClassVar[Any] = {
        "first": directives.unchanged_required,
        "second": directives.unchanged_required,
        "columns": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        named: Mapping[str, Any] = load(self.arguments[0])
        records = {name: self._fields(record) for name, record in named.items()}
        fields = list(next(iter(records.values())))
        if "columns" in self.options:
            fields = [field.strip() for field in self.options["columns"].split(",")]
        rows: list[list[Cell]] = [
            [[nodes.literal(name, name)], *(record[field] for field in fields)]
            for name, record in records.items()
        ]
        return [self.table([self.options.get("first", "name"), *fields], rows)]

    def _fields(self, record: Any) -> dict[str, str]:
        if not is_dataclass(record) or isinstance(record, type):
            return {self.options.get("second", "meaning"): str(record)}
        return {_title(name): _text(value) for name, value in asdict(record).items()}


def _title(name: str) -> str:
    """Return the name of a field as a header, with its unit."""
    words, _, end = name.rpartition("_")
    unit = unit_of(f"_{end}") if "_per_" not in name else ""
    return f"{words.replace('_', ' ')}, {unit}" if unit else name.replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    if isinstance(value, float):
        return "-" if math.isinf(value) else as_toml(float(f"{value:.4g}"))
    return "-" if value is None else str(value)


class ProfileConstants(_TableDirective):
    """The constants that a named profile gives, each with its source."""

    def run(self) -> list[nodes.Node]:
        """Return the title of the profile, and its table."""
        profile = load_profile(self.arguments[0])
        rows = [
            (name, as_toml(getattr(profile, name)), unit_of(name), source)
            for name, source in profile.sources.items()
        ]
        return [_sentence(profile.title), self.table(_CONSTANT, rows)]


class EnergyConstants(_TableDirective):
    """The constants of a named set of the energy account, each with its source."""

    def run(self) -> list[nodes.Node]:
        """Return the title of the set, and its table."""
        found = load_constants(self.arguments[0])
        tables = [
            ("", found.constants),
            *((f"encodings.{name}.", table) for name, table in found.encodings.items()),
            *((f"baselines.{name}.", base.constants) for name, base in found.baselines.items()),
        ]
        rows = [
            (f"{place}{name}", as_toml(constant.value), constant.unit, _source(constant))
            for place, table in tables
            for name, constant in table.items()
        ]
        return [_sentence(found.title), self.table(_CONSTANT, rows)]


def _sentence(title: str) -> nodes.paragraph:
    text = f"{title[:1].upper()}{title[1:]}."
    return nodes.paragraph(text, text)


def _source(constant: Constant) -> str:
    return f"{constant.source} (recalled, not looked up)" if constant.recalled else constant.source


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("file-keys", FileKeys)
    app.add_directive("records", Records)
    app.add_directive("profile-constants", ProfileConstants)
    app.add_directive("energy-constants", EnergyConstants)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
