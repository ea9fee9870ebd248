"""`Weights`: tensors on disk, memory-mapped and lazy: safetensors, with or without shards.

A tensor stays in its stored form until it is used, and there is never more than one float32 copy. A
tensor that is stored in float32 is a view of the file. Another one is converted, and then kept only
for the host: a weight that goes to light is lent (`Weights.lend`), and a table of embeddings is
converted row by row (`Weights.table`). Pickles are refused, since opening one can run code.
`gguf_file` reads GGUF files.
"""

import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import check_finite
from ..instruments import InputError
from .config_keys import read_json

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_PART = 1 << 16  # values converted at a time: temporary arrays stay in the processor's cache


@dataclass(frozen=True)
class Stored:
    """A tensor on disk.

    Parameters
    ----------
    shape : of the tensor
    read : reads it in float32
    name : in the file
    read_rows : reads the rows [n] of a matrix in float32: [n, columns]; None reads the whole tensor
    content : parts of what its numbers follow from, for a digest; None takes the numbers themselves
    release : lets the system drop the pages of its stored form
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    name: str = ""
    read_rows: Callable[[np.ndarray], np.ndarray] | None = None
    content: Callable[[], Iterable[bytes | memoryview]] | None = None
    release: Callable[[], None] = lambda: None

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows [n] of a matrix in float32: [n, columns]."""
        return self.read()[rows] if self.read_rows is None else self.read_rows(rows)


class Weights(Mapping[str, np.ndarray]):
    """Tensors by name, float32, each checked to be finite when it is read.

    `weights[name]` is read once and kept.

    Parameters
    ----------
    source : the file or folder, for messages
    stored : name -> tensor on disk
    """

    def __init__(self, source: Path, stored: Mapping[str, Stored]) -> None:
        self.source = source
        self.stored = dict(stored)
        self._kept: dict[str, np.ndarray] = {}
        self._digests: dict[str, bytes] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._kept.get(name)
        if array is None:
            array = self._kept[name] = self._checked(name, self._entry(name).read())
        return array

    @contextmanager
    def lend(self, name: str) -> Iterator[np.ndarray]:
        """Lend a tensor in float32 for the time of a `with`; it is not kept."""
        if (kept := self._kept.get(name)) is not None:
            yield kept
            return
        entry = self._entry(name)
        try:
            yield self._checked(name, entry.read())
        finally:
            entry.release()

    def table(self, name: str) -> "RowTable":
        """Return a matrix whose rows are converted when they are looked up."""
        self._entry(name)
        return RowTable(self, name)

    def rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the rows [n] of a matrix in float32, as a copy [n, columns]."""
        kept = self._kept.get(name)
        if kept is not None:
            return np.asarray(kept[rows])
        return self._checked(name, self._entry(name).rows(rows))

    def digest(self, name: str) -> bytes:
        """Return a digest of the whole content of a tensor: 32 bytes of BLAKE2b."""
        found = self._digests.get(name)
        if found is None:
            entry = self._entry(name)
            state = blake2b(repr(entry.shape).encode(), digest_size=32)
            parts = [entry.read().tobytes()] if entry.content is None else entry.content()
            for part in parts:
                state.update(part)
            entry.release()
            found = self._digests[name] = state.digest()
        return found

    def _entry(self, name: str) -> Stored:
        if name not in self.stored:
            raise InputError(
                f"{self.source}: no tensor {name!r} among its {len(self)}; the configuration "
                "and the weights do not match"
            )
        return self.stored[name]

    def _checked(self, name: str, array: np.ndarray) -> np.ndarray:
        try:
            check_finite(array, name)
        except InputError:
            shown = self.stored[name].name or name
            raise InputError(
                f"{self.source}: tensor {shown!r} holds NaN or infinite values"
            ) from None
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def renamed(self, rename: Callable[[str], str]) -> "Weights":
        """Return the same tensors under other names.

        Raises
        ------
        InputError : when two tensors get the same name
        """
        stored: dict[str, Stored] = {}
        for name, entry in self.stored.items():
            if (new := rename(name)) in stored:
                raise InputError(
                    f"{self.source}: tensor {new!r} occurs twice, under names of two conventions; "
                    "remove one"
                )
            stored[new] = entry
        return Weights(self.source, stored)

    def are_equal(self, one: str, other: str) -> bool:
        """Return whether two tensors hold the same numbers; matrices are read in parts."""
        first, second = self.stored[one], self.stored[other]
        if first.shape != second.shape:
            return False
        if len(first.shape) < 2:
            return np.array_equal(first.read(), second.read())
        count = first.shape[0]
        step = max(1, _PART * count // max(1, int(np.prod(first.shape))))
        blocks = (np.arange(at, min(at + step, count)) for at in range(0, count, step))
        return all(np.array_equal(first.rows(rows), second.rows(rows)) for rows in blocks)

    def check_shapes(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Check that tensors of these shapes exist, without reading them.

        Raises
        ------
        InputError : naming the first tensor that is missing or of another shape
        """
        for name, shape in wanted.items():
            found = self.stored.get(name)
            if found is not None and found.shape == shape:
                continue
            what = "is missing" if found is None else f"has shape {list(found.shape)}"
            raise InputError(
                f"{self.source}: tensor {name!r} {what}, the configuration needs {list(shape)}; "
                "the configuration and the weights do not match"
            )


@dataclass(frozen=True)
class RowTable:
    """A matrix in its stored form, looked up by rows: `table[tokens]`.

    Parameters
    ----------
    weights, name : that hold it
    """

    weights: Weights
    name: str

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows [...] in float32, as a copy [..., columns]."""
        rows = np.asarray(rows)
        found = self.weights.rows(self.name, rows.reshape(-1))
        return found.reshape(*rows.shape, found.shape[-1])


class MappedFile:
    """A file that is mapped into memory, read-only.

    Attributes
    ----------
    data : its bytes, uint8
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.data = np.frombuffer(self._pages, dtype=np.uint8)

    def release(self, first: int, last: int) -> None:
        """Let the system drop the pages of bytes `first` to `last`; they are read again if needed.

        Without it, whatever was read once counts as memory of this process.
        """
        advice = getattr(mmap, "MADV_DONTNEED", None)  # POSIX; elsewhere pages go when needed
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        if advice is not None and last > start:
            self._pages.madvise(advice, start, last - start)


def mapped_tensor(
    file: MappedFile,
    span: tuple[int, int],
    shape: tuple[int, ...],
    stored: np.ndarray,
    expand: Callable[[np.ndarray], np.ndarray],
    kind: str,
    name: str,
) -> Stored:
    """Return a tensor that lies in a mapped file.

    Parameters
    ----------
    span : its first byte, and the one after its last
    stored : its stored form, a view of the file: [rows, ...]
    expand : converts rows of it to float32
    kind : of its stored form
    name : in the file
    """
    release = partial(file.release, *span)

    def read() -> np.ndarray:
        if stored.dtype == np.float32:
            return stored.reshape(shape)
        result = np.empty((len(stored), int(np.prod(shape)) // max(len(stored), 1)), np.float32)
        step = max(1, _PART // max(result.shape[1], 1))
        for first in range(0, len(stored), step):
            part = stored[first : first + step]
            result[first : first + step] = expand(part)
            begin = span[0] + first * stored.strides[0]
            file.release(begin, begin + part.nbytes)  # the stored form is not needed again
        return result.reshape(shape)

    def content() -> tuple[bytes, memoryview]:
        return kind.encode(), file.data[slice(*span)].data

    return Stored(shape, read, name, lambda rows: expand(stored[rows]), content, release)


def read_safetensors(path: Path) -> Weights:
    """Open one safetensors file.

    Raises
    ------
    InputError : for a file that is truncated, corrupt, or holds numbers that are not floats
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # the library checks header, offsets and length
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise InputError(f"{path} is not a complete safetensors file: {error}") from None
    mapped = MappedFile(path)
    stored = {
        name: _safetensor(path, name, entry, mapped, 8 + length)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return Weights(path, stored)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read small arrays of any type from a safetensors file.

    Raises
    ------
    InputError : for a file that is not one of arrays
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a safetensors file of arrays: {error}") from None


def read_folder(folder: Path) -> Weights:
    """Open the safetensors of a Hugging Face folder, one file or several shards.

    Raises
    ------
    InputError : when there are none, or a shard is missing
    """
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.is_file():
        return read_safetensors(single)
    if not index.is_file():
        raise _no_weights(folder)
    stored: dict[str, Stored] = {}
    for shard in _read_shards(folder, index):
        if twice := stored.keys() & set(shard):
            raise InputError(f"{folder}: the tensor {min(twice)!r} is stored in two shards")
        stored |= shard.stored
    return Weights(folder, stored)


def _no_weights(folder: Path) -> InputError:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return InputError(
            f"{folder} holds only pickled weights (*.bin, *.pt), which can run code when "
            "opened; convert them to model.safetensors first"
        )
    return InputError(f"{folder} holds no model.safetensors and no model.safetensors.index.json")


def _read_shards(folder: Path, index: Path) -> Iterable[Weights]:
    """Open the shards that an index names, after a check that each tensor is in its shard."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index} has no weight_map")
    shards: dict[str, Weights] = {}
    for file in weight_map.values():
        path = folder / Path(str(file)).name
        if path.name in shards:
            continue
        if not path.is_file():
            raise InputError(f"{index} names the shard {file!r}, which is not in {folder}")
        shards[path.name] = read_safetensors(path)
    for name, file in weight_map.items():
        if name not in shards[Path(str(file)).name]:
            raise InputError(f"{index} names {file!r} for {name!r}, which is not in that shard")
    return shards.values()


def _safetensor(
    path: Path, name: str, entry: Mapping[str, Any], file: MappedFile, begin: int
) -> Stored:
    """Return a tensor of a safetensors file whose data begin at a byte."""
    shape, kind = tuple(entry["shape"]), entry["dtype"]
    if kind not in _TYPES:

        def refuse() -> np.ndarray:
            raise InputError(
                f"{path}: tensor {name!r} is stored as {kind}; lightloom reads {', '.join(_TYPES)}"
            )

        return Stored(shape, refuse, name)
    first, last = (begin + offset for offset in entry["data_offsets"])
    rows = shape[0] if len(shape) > 1 else 1
    stored = np.frombuffer(file.data[first:last], dtype=_TYPES[kind])
    stored = stored.reshape(rows, stored.size // max(rows, 1))
    expand = _of_bfloat16 if kind == "BF16" else _of_float
    return mapped_tensor(file, (first, last), shape, stored, expand, kind, name)


def _of_float(stored: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # reported as not finite
        return stored.astype(np.float32, copy=False)


def _of_bfloat16(stored: np.ndarray) -> np.ndarray:
    """Return float32 for its upper halves."""
    wide = stored.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
