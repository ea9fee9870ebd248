"""The header of a GGUF file: its metadata, and where its tensors lie.

Every count is checked against the bytes that are left, so that a damaged file cannot ask for more
than its own size.
"""

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError

_KINDS = {  # of plain values, as numpy's
    **{0: "u1", 1: "i1", 2: "u2", 3: "i2", 4: "u4", 5: "i4", 6: "f4", 7: "?"},
    **{10: "u8", 11: "i8", 12: "f8"},
}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_LEAST_PAIR, _LEAST_TENSOR = 13, 24  # bytes of the shortest pair of key and value, and tensor
_MOST_AXES = 8
_MOST_VALUES_PER_BYTE = 8
_ALIGNMENT = 32  # of the tensors, where the file names no other


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a GGUF file.

    Parameters
    ----------
    shape : in numpy order
    kind : number of its type
    first : its first byte in the file
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    first: int


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Parameters
    ----------
    metadata : plain values, texts, and lists of them
    order : of bytes: "<" or ">"
    """

    metadata: dict[str, Any]
    tensors: tuple[TensorEntry, ...]
    order: str


def has_magic(path: Path) -> bool:
    """Return whether a file begins with the magic bytes of GGUF."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file.

    Raises
    ------
    InputError : for a file that is not GGUF, or is shorter than its counts
    """
    try:
        if not has_magic(path):
            raise InputError(f"{path} is not a GGUF file: it does not begin with GGUF")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _HeaderReader(data).read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, struct.error) as error:
        raise InputError(f"{path} is not a complete GGUF file: {error}") from None


class _HeaderReader:
    """Reads a GGUF header from its first byte to the last tensor's entry."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._order = "<"

    def read(self) -> GgufHeader:
        """Return the header."""
        self._at = 4
        if struct.unpack_from("<I", self._data, 4)[0] & 0xFFFF == 0:
            self._order = ">"
        if (version := self._take("I")) not in _VERSIONS:
            raise ValueError(f"it says that it is of version {version}, and there are 2 and 3")
        count = self._take_count(_LEAST_TENSOR, "tensors")
        pairs = self._take_count(_LEAST_PAIR, "entries of metadata")
        metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self._take_string()
            if key in metadata:
                raise ValueError(f"it names {key!r} twice")
            metadata[key] = self._take_value(self._take("I"))
        tensors = [self._take_tensor() for _ in range(count)]
        if self._at > len(self._data):
            raise ValueError("it ends within its header")
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment = {alignment!r} is not a power of two")
        begin = -(-self._at // alignment) * alignment
        placed = (replace(tensor, first=begin + tensor.first) for tensor in tensors)
        return GgufHeader(metadata, tuple(placed), self._order)

    def _take_value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._take_string()
        if kind == _ARRAY:
            return self._take_array(self._take("I"))
        return self._take_numbers(kind, 1)[0]

    def _take_array(self, kind: int) -> list[Any]:
        size = 8 if kind == _STRING else self._type(kind).itemsize
        count = self._take_count(size, "entries of an array")
        if kind == _STRING:
            return self._take_strings(count)
        return self._take_numbers(kind, count)

    def _take_numbers(self, kind: int, count: int) -> list[Any]:
        wanted = self._type(kind)
        last = self._at + count * wanted.itemsize
        if last > len(self._data):
            raise ValueError("it ends within its header")
        found = np.frombuffer(self._data[self._at : last], dtype=wanted)
        self._at = last
        return list(found.tolist())

    def _take_tensor(self) -> TensorEntry:
        """Return a tensor whose first byte is counted from the first of all tensors."""
        name, axes = self._take_string(), self._take("I")
        if not 1 <= axes <= _MOST_AXES:
            raise ValueError(f"it claims a tensor of {axes} axes")
        shape = tuple(self._take("Q") for _ in range(axes))[::-1]
        values = math.prod(shape)
        if values > _MOST_VALUES_PER_BYTE * len(self._data):
            raise ValueError(f"it claims a tensor of {values} values in {len(self._data)} bytes")
        return TensorEntry(name, shape, self._take("I"), self._take("Q"))

    def _take_string(self) -> str:
        return self._take_strings(1)[0]

    def _take_strings(self, count: int) -> list[str]:
        """Read strings, in one loop: a vocabulary has a hundred thousand."""
        data, at, size, texts = self._data, self._at, len(self._data), []
        length_at = struct.Struct(self._order + "Q").unpack_from
        for _ in range(count):
            (length,) = length_at(data, at)
            first = at + 8
            at = first + length
            if at > size:
                raise ValueError(
                    f"it claims {length} bytes of a string, and {size - first} bytes are left"
                )
            texts.append(data[first:at].decode("utf-8"))
        self._at = at
        return texts

    def _type(self, kind: int) -> np.dtype[Any]:
        if kind not in _KINDS:
            raise ValueError(f"it holds values of kind {kind}, which GGUF does not have there")
        return np.dtype(self._order + _KINDS[kind])

    def _take(self, kind: str) -> int:
        (value,) = struct.unpack_from(self._order + kind, self._data, self._at)
        self._at += struct.calcsize(kind)
        return int(value)

    def _take_count(self, size: int, what: str) -> int:
        """Read a count of things of at least `size` bytes, which must be left."""
        count, left = self._take("Q"), len(self._data) - self._at
        if count * size > left:
            raise ValueError(f"it claims {count} {what}, and {left} bytes are left")
        return count
