"""`export`: a journal as HDF5 or Zarr, with units and provenance, for analysis elsewhere.

Both have the same tree: tables (`sessions`, `programs`, `passes`, `steps`, `segments`, `shots`,
`faults`, `about`, `report`), one array per column; and arrays (`results`, `electrons`, `inputs`,
`files`). Arrays of a kind are stacked along their first axis; arrays beside them name the owner of
each row. Arrays are written in chunks, so that memory does not grow with the run. Every group and
array states whether its numbers are simulated (`is_mock`).
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...backends import Stats
from ...backends.bench.checkpoint import QUALITY
from ...instruments import InputError
from ...instruments.errors import import_extra
from ...instruments.files import check_output, whole_output
from ...instruments.version import VERSION
from .journal_file import JournalFile
from .rows import SCHEMA as JOURNAL_SCHEMA

SCHEMA = 1
ENDINGS = {".h5": "hdf5", ".hdf5": "hdf5", ".zarr": "zarr"}
CHUNK_BYTES = 1 << 18
MAX_BUFFERED_BYTES = 32 << 20  # bytes, of all arrays together
_RESERVE_BYTES = 64 << 20  # left free on the disk: HDF5 does not end cleanly on a full one
_COUNTS = tuple(item.name for item in fields(Stats) if item.name != "seconds")
_STAGES = ("encode", "product", "decode")
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*%]')  # in names of folders; % marks what was replaced
_TEXT = "text"  # the dtype of a column of texts
_UNITS = {
    "electrons": "photoelectrons",
    "photons": "photoelectrons",
    "seconds": "s",
    "at_s": "s",
    "began_s": "s",
    "ended_s": "s",
    "lost_s": "s",
    **{f"{stage}_s": "s" for stage in _STAGES},
}
_MEANINGS = {
    "at_s": "seconds since 1970-01-01 00:00 UTC, when it was kept",
    "began_s": "seconds since 1970-01-01 00:00 UTC",
    "ended_s": "seconds since 1970-01-01 00:00 UTC; NaN without a recorded end",
    "lost_s": "of the bench's clock, for the exposure and the recovery",
    "electrons": "of each shot that is not a reference, in the order of the plan, by slot",
    "brightness": "light over that of calibration; NaN where it was not measured",
    "dark": "dark pixels off what calibration says, in sigma of their mean",
    "peak": "brightest sample over a full one",
    "checksum": "largest |z| of the checksums",
    "attempts": "how often the shot was taken",
    "where": "optical: on light; host: digitally",
    "part": "micro-batch of the pass",
}


def export(journal: JournalFile, output: str | Path) -> dict[str, int]:
    """Write a journal to a new file .h5, or a new folder .zarr; return the rows of each table.

    Parameters
    ----------
    output : .h5 or .hdf5 for HDF5, .zarr for Zarr

    Raises
    ------
    InputError : when the journal is damaged, or the output already exists, or cannot be written;
        the unfinished output, beside it under another name, is removed
    MissingExtraError : without the extra `export`
    """
    output = Path(output)
    kind = ENDINGS.get(output.suffix.lower())
    if kind is None:
        raise InputError(
            f"{output}: the name of an export ends in .h5 or .hdf5 (HDF5), or in .zarr (Zarr)"
        )
    check_output(output)
    about = journal.about()
    is_mock = bool(about.get("plan", {}).get("is_mock", True))
    opened = _hdf5 if kind == "hdf5" else _zarr
    with whole_output(output) as draft, opened(draft) as (root, empty):
        root.attrs.update({**_provenance(journal, about, is_mock), "is_mock": is_mock})
        tree = _Tree(_Store(draft, root, empty, is_mock))
        _write(journal, tree)
        tree.flush()
    return tree.rows


def _provenance(journal: JournalFile, about: Mapping[str, Any], is_mock: bool) -> dict[str, Any]:
    model = about.get("model", {})
    attributes = {
        "title": f"run of {model.get('name', 'an unknown model')}, from {journal.path.name}",
        "software": f"lightloom {VERSION}",
        "schema": SCHEMA,
        "journal_schema": JOURNAL_SCHEMA,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_complete": bool(journal.results()),
        "model": model.get("name", ""),
        "model_digest": model.get("digest", ""),
        "backend": about.get("backend", {}).get("kind", ""),
        "versions": json.dumps(about.get("versions", {})),
    }
    if is_mock:
        attributes["watermark"] = "MOCK: simulated; no light was measured"
    return attributes


# --- the tables -----------------------------------------------------------------------------------


def _write(journal: JournalFile, tree: _Tree) -> None:
    for name, documents in (("about", journal.about()), ("report", journal.results())):
        columns = {"key": _TEXT, "value": _TEXT}
        for key, value in documents.items():
            tree.row(name, columns, {"key": key, "value": json.dumps(value)})
    for row in journal.rows("file"):
        content = np.frombuffer(row["content"], dtype=np.uint8)
        tree.stack("files", row["name"], content, {})
    for name, value in journal.inputs().items():
        if isinstance(value, np.ndarray):
            tree.stack("inputs", name, value, {})
        else:
            texts = [value] if isinstance(value, str) else value
            for text in texts:
                tree.row(f"inputs/{name}", {"text": _TEXT}, {"text": str(text)})
    _write_sessions(journal, tree)
    for row in journal.rows("program"):
        tree.row("programs", {"number": "i8", "digest": _TEXT, "steps": _TEXT}, row)
    for row in journal.rows("pass"):
        tree.row("passes", {"number": "i8", "program": "i8", "document": _TEXT}, row)
    _write_steps(journal, tree)
    _write_segments(journal, tree)
    faults = {"session": "i8", "at_s": "f8", "kind": _TEXT, "device": _TEXT, "shot": _TEXT}
    faults |= {"attempt": "i8", "recovery": _TEXT, "detail": _TEXT, "lost_s": "f8"}
    for fault in journal.faults():
        tree.row("faults", faults, fault)


def _write_sessions(journal: JournalFile, tree: _Tree) -> None:
    columns = {"number": "i8", "began_s": "f8", "ended_s": "f8", "outcome": _TEXT, "detail": _TEXT}
    columns |= {"document": _TEXT}
    ends = {"number", "began_s", "at_s", "outcome", "detail"}
    for session in journal.sessions():
        document = {key: value for key, value in session.items() if key not in ends}
        ended_s = math.nan if session["at_s"] is None else session["at_s"]
        row = session | {"ended_s": ended_s, "document": json.dumps(document)}
        tree.row("sessions", columns, row | {"outcome": session["outcome"] or ""})


def _write_steps(journal: JournalFile, tree: _Tree) -> None:
    columns = {"pass": "i8", "step": "i8", "part": "i8", "session": "i8", "at_s": "f8"}
    columns |= {"name": _TEXT, "kind": _TEXT, "where": _TEXT, "seconds": "f8"} | _STATS_COLUMNS
    for step in journal.steps():
        tree.row("steps", columns, step | _stats_row(step["stats"]))
        owner = {"pass": step["pass"], "part": step["part"]}
        for number, value in enumerate(step["values"]):
            tree.stack(f"results/{_as_one_name(step['name'])}", str(number), value, owner)


_STATS_COLUMNS = (
    {name: "f8" if name == "photons" else "i8" for name in _COUNTS}
    | {f"{stage}_s": "f8" for stage in _STAGES}
    | {"stats": _TEXT}
)


def _stats_row(stats: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: stats.get(name, 0) for name in _COUNTS}
    stages = {f"{stage}_s": stats.get("seconds", {}).get(stage, 0.0) for stage in _STAGES}
    return counts | stages | {"stats": json.dumps(stats)}


def _write_segments(journal: JournalFile, tree: _Tree) -> None:
    columns = {"number": "i8", "job": _TEXT, "first": "i8", "done": "i8", "is_last": "?"}
    columns |= {"session": "i8", "at_s": "f8"} | _STATS_COLUMNS | {"state": _TEXT}
    figures = {"segment": "i8"} | dict.fromkeys(QUALITY, "f4")
    for segment in journal.segments():
        number, quality = segment["number"], segment["quality"]
        row = segment | {"state": json.dumps(segment["state"])}
        tree.row("segments", columns, row | _stats_row(segment["stats"]))
        tree.stack("electrons", "electrons", segment["electrons"], {"segment": number})
        shots = np.full(len(quality[QUALITY[0]]), number)
        tree.columns("shots", figures, {"segment": shots, **quality})


# --- tables and stacks, in chunks -----------------------------------------------------------------


@dataclass
class _Buffer:
    """Rows that are not written yet: a chunk is not full."""

    append: Callable[[np.ndarray], None]
    chunk_rows: int
    buffered: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0

    def add(self, rows: np.ndarray) -> None:
        self.buffered.append(rows)
        self.rows += len(rows)
        self.bytes += rows.nbytes

    def flush(self, whole_chunks: bool) -> None:
        """Write the buffered rows; writing only whole chunks is cheaper."""
        count = self.rows - self.rows % self.chunk_rows if whole_chunks else self.rows
        if not count:
            return
        rows = np.concatenate(self.buffered)
        self.append(rows[:count])
        left = rows[count:].copy()
        self.buffered, self.rows, self.bytes = ([left] if len(left) else []), len(left), left.nbytes


class _Tree:
    """The content of an export: tables with columns, and stacks of arrays.

    Attributes
    ----------
    rows : number of rows of each table and stack
    """

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._buffers: dict[str, _Buffer] = {}
        self._stacks: dict[tuple[str, str, str, tuple[int, ...]], str] = {}
        self._buffered_bytes = 0  # bytes
        self.rows: dict[str, int] = {}

    def row(self, table: str, columns: Mapping[str, str], values: Mapping[str, Any]) -> None:
        """Add a row to a table."""
        self.columns(table, columns, {name: [values[name]] for name in columns})

    def columns(
        self,
        table: str,
        columns: Mapping[str, str],
        values: Mapping[str, Sequence[Any] | np.ndarray],
    ) -> None:
        """Add rows to a table, by its columns: name -> dtype."""
        axes = (table.rpartition("/")[2],)
        for name, dtype in columns.items():
            if dtype == _TEXT:
                rows = np.empty(len(values[name]), dtype=object)
                rows[:] = [_clean(text) for text in values[name]]
            else:
                rows = np.asarray(values[name], dtype=dtype)
            self._add(f"{table}/{name}", rows, axes)
        self._count(table, len(next(iter(values.values()))))

    def stack(self, group: str, name: str, array: np.ndarray, owner: Mapping[str, int]) -> None:
        """Add an array to the stack of its name, with the owner of its rows.

        Arrays of another dtype, or other sizes after the first axis, get a stack of their own.
        """
        array = np.atleast_1d(array)
        shape = array.shape[1:]
        key = (group, name, array.dtype.str, shape)
        if key not in self._stacks:
            is_first = not any(known[:2] == key[:2] for known in self._stacks)
            sizes = "x".join(map(str, shape)) or "scalars"
            other = f"{name}_{sizes}"
            taken = other in self._stacks.values()
            self._stacks[key] = name if is_first else f"{other}_{array.dtype}" if taken else other
        stack = self._stacks[key]
        axes = [f"{stack}_row", *(f"{stack}_axis_{axis}" for axis in range(1, array.ndim))]
        self._add(f"{group}/{stack}", array, tuple(axes))
        for what, number in owner.items():
            numbers = np.full(len(array), number, dtype=np.int64)
            self._add(f"{group}/{stack}_{what}", numbers, (axes[0],))
        self._count(group, len(array))

    def flush(self) -> None:
        """Write all buffered rows."""
        for buffer in self._buffers.values():
            buffer.flush(whole_chunks=False)
        self._buffered_bytes = 0

    def _count(self, name: str, rows: int) -> None:
        top = name.partition("/")[0]
        self.rows[top] = self.rows.get(top, 0) + rows

    def _add(self, path: str, rows: np.ndarray, axes: tuple[str, ...]) -> None:
        buffer = self._buffers.get(path)
        if buffer is None:
            chunk = _chunk(rows)
            attributes = _attributes(path)
            buffer = self._buffers[path] = _Buffer(
                self._store.array(path, rows, chunk, axes, attributes), chunk[0]
            )
        buffer.add(rows)
        self._buffered_bytes += rows.nbytes
        if buffer.bytes >= CHUNK_BYTES:
            self._buffered_bytes -= buffer.bytes
            buffer.flush(whole_chunks=True)
            self._buffered_bytes += buffer.bytes
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            self.flush()


def _attributes(path: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    attributes = {"units": _UNITS.get(name, "1")}
    if name in _MEANINGS:
        attributes["description"] = _MEANINGS[name]
    elif path.startswith("results/"):
        attributes["description"] = (
            "results of a step, in units of the model; arrays beside it name the pass"
        )
    return attributes


def _as_one_name(step: str) -> str:
    """Return the name of a step without "/" and what Windows refuses in names, as in a URL."""
    return _NOT_IN_NAMES.sub(lambda found: f"%{ord(found[0]):02X}", step)


def _clean(text: object) -> str:
    """Return text without characters that one of the formats cannot hold."""
    return str(text).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _chunk(rows: np.ndarray) -> tuple[int, ...]:
    """Return the size of a chunk, by axis: at most about `CHUNK_BYTES`."""
    sizes = [max(size, 1) for size in rows.shape[1:]]
    item = 64 if rows.dtype == object else rows.itemsize
    while sizes and item * math.prod(sizes) > CHUNK_BYTES and max(sizes) > 1:
        longest = sizes.index(max(sizes))
        sizes[longest] = -(-sizes[longest] // 2)
    return max(1, CHUNK_BYTES // (item * math.prod(sizes))), *sizes


# --- the two formats ------------------------------------------------------------------------------

_Empty = Callable[[str, np.ndarray, tuple[int, ...], tuple[str, ...]], Any]
"""Makes an array of no rows, for its path, rows like those to come, size of a chunk and axes."""


class _Store:
    """A new file, or folder: its root group, and how its format makes an array."""

    def __init__(self, output: Path, root: Any, empty: _Empty, is_mock: bool) -> None:
        self._output, self._root, self._empty = output, root, empty
        self._mark = {"is_mock": is_mock}
        self._groups: set[str] = set()

    def array(
        self,
        path: str,
        rows: np.ndarray,
        chunk: tuple[int, ...],
        axes: tuple[str, ...],
        attributes: Mapping[str, Any],
    ) -> Callable[[np.ndarray], None]:
        """Make an empty array for rows like these, and return the function that appends to it."""
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            if str(parent) not in self._groups:
                self._groups.add(str(parent))
                self._root.create_group(str(parent)).attrs.update(self._mark)
        array = self._empty(path, rows, chunk, axes)
        array.attrs.update({**attributes, **self._mark})

        def append(more: np.ndarray) -> None:
            if shutil.disk_usage(self._output.parent).free < _RESERVE_BYTES + more.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            first, *sizes = array.shape
            array.resize((first + len(more), *sizes))
            array[first:] = more

        return append


@contextmanager
def _hdf5(output: Path) -> Iterator[tuple[Any, _Empty]]:
    h5py = import_extra("h5py", "export", "writing HDF5")
    root = h5py.File(output, "x")

    def empty(path: str, rows: np.ndarray, chunk: tuple[int, ...], axes: tuple[str, ...]) -> Any:
        is_text = rows.dtype == object
        array = root.create_dataset(
            path,
            (0, *rows.shape[1:]),
            h5py.string_dtype() if is_text else rows.dtype,
            chunks=chunk,
            maxshape=(None,) * rows.ndim,
            compression="gzip",
            compression_opts=1,
            shuffle=not is_text,
        )
        for number, axis in enumerate(axes):
            array.dims[number].label = axis
        return array

    def close() -> None:
        try:
            root.close()
        except RuntimeError as error:  # h5py's error for a failed write
            raise OSError(str(error).splitlines()[0]) from None

    with _completed(close):
        yield root, empty


@contextmanager
def _zarr(output: Path) -> Iterator[tuple[Any, _Empty]]:
    zarr = import_extra("zarr", "export", "writing Zarr")
    root = zarr.open_group(str(output), mode="w-", zarr_format=2)

    def empty(path: str, rows: np.ndarray, chunk: tuple[int, ...], axes: tuple[str, ...]) -> Any:
        return root.create_array(
            path,
            shape=(0, *rows.shape[1:]),
            dtype=str if rows.dtype == object else rows.dtype,
            chunks=chunk,
            fill_value=None,  # xarray would read a fill value as a missing number
            attributes={"_ARRAY_DIMENSIONS": list(axes)},  # xarray's name for axes
        )

    # xarray looks for consolidated metadata
    with _completed(lambda: zarr.consolidate_metadata(str(output), zarr_format=2)):
        yield root, empty


@contextmanager
def _completed(complete: Callable[[], object]) -> Iterator[None]:
    """Complete an output at the end; after an error, that one is reported."""
    try:
        yield
    except BaseException:
        with suppress(Exception):
            complete()
        raise
    complete()
