"""Weights on disk, memory-mapped and lazy: safetensors (with or without shards) and GGUF.

A tensor that is stored in float32 is handed out as a view of the file; any other is converted when
it is first asked for and kept, so that there is never a second float32 copy. Pickles are refused:
opening one runs code.
"""

import contextlib
import ctypes
import json
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from ..instruments.errors import import_extra

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_PART = 1 << 20  # values converted at a time, so that converting needs no large temporary


@dataclass(frozen=True)
class Stored:
    """A tensor on disk: its shape, and what reads it in float32."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Weights(Mapping[str, np.ndarray]):
    """Tensors by name, float32, each checked to be finite when it is first read.

    Parameters
    ----------
    source : the file or folder, for messages
    stored : name -> tensor on disk
    """

    def __init__(self, source: Path, stored: Mapping[str, Stored]) -> None:
        self.source = source
        self.stored = dict(stored)
        self._read: dict[str, np.ndarray] = {}

    @classmethod
    def of_arrays(cls, source: Path, arrays: Mapping[str, np.ndarray]) -> "Weights":
        """Give arrays in memory as weights."""
        return cls(source, {k: Stored(v.shape, partial(np.asarray, v)) for k, v in arrays.items()})

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._read.get(name)
        if array is None:
            if name not in self.stored:
                raise InputError(
                    f"{self.source}: no tensor {name!r} among its {len(self)}; the configuration "
                    "and the weights do not belong together"
                )
            array = self.stored[name].read()
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(array.sum(dtype=np.float64))
            if not finite:
                raise InputError(f"{self.source}: tensor {name!r} holds NaN or infinite values")
            self._read[name] = array
        return array

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def renamed(self, rename: Callable[[str], str]) -> "Weights":
        """Give the same tensors under other names."""
        return Weights(self.source, {rename(name): entry for name, entry in self.stored.items()})

    def check_shapes(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Check that tensors of these shapes are there, without reading them.

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
                f"{self.source}: tensor {name!r} {what}, the configuration wants {list(shape)}; "
                "the configuration and the weights do not belong together"
            )


def read_safetensors(path: Path) -> Weights:
    """Open one safetensors file.

    Raises
    ------
    InputError : for a file that is truncated, corrupt, or holds numbers that are no floats
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # the library checks header, offsets and length
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise InputError(f"{path} is no complete safetensors file: {error}") from None
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=0)[8 + length :]
    stored = {
        name: Stored(tuple(entry["shape"]), _safetensor_reader(path, name, entry, data))
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return Weights(path, stored)


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
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise InputError(
                f"{folder} holds only pickled weights (*.bin, *.pt), which can run code when "
                "opened; convert them to model.safetensors first"
            )
        raise InputError(f"{folder} holds no model.safetensors and no model.safetensors.index.json")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index} has no weight_map")
    shards: dict[str, Weights] = {}
    stored: dict[str, Stored] = {}
    for name, file in weight_map.items():
        path = folder / Path(str(file)).name
        if not path.is_file():
            raise InputError(f"{index} names the shard {file!r}, which is not in {folder}")
        shard = shards.setdefault(path.name, read_safetensors(path))
        if name not in shard:
            raise InputError(f"{index} says that {name!r} is in {file!r}, but it is not there")
        stored[name] = shard.stored[name]
    return Weights(folder, stored)


def read_gguf(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Open a GGUF file: tensors under their GGUF names, and its metadata.

    Raises
    ------
    InputError : for a truncated or corrupt file
    MissingExtraError : without the package gguf
    """
    gguf = import_extra("gguf", "models", "reading GGUF files")
    try:
        reader = gguf.GGUFReader(str(path))
        metadata = {key: field.contents() for key, field in reader.fields.items() if field.types}
        release = _releaser(reader.data)
        stored = {
            tensor.name: _gguf_reader(path, gguf, tensor, release) for tensor in reader.tensors
        }
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{path} is no complete GGUF file: {error}") from None
    except Exception as error:  # the reader meets corrupt files with many kinds of exception
        raise InputError(f"{path} is no readable GGUF file: {type(error).__name__}") from None
    if not stored:
        raise InputError(f"{path} holds no tensors")
    del reader  # it holds an array for every word of the vocabulary
    _return_free_memory()
    return Weights(path, stored), metadata


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    InputError : when the file is missing or is no JSON object
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path} is no JSON object")
    return document


def _safetensor_reader(
    path: Path, name: str, entry: Mapping[str, Any], data: np.ndarray
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        kind = _TYPES.get(entry["dtype"])
        if kind is None:
            raise InputError(
                f"{path}: tensor {name!r} is stored as {entry['dtype']}; "
                f"lightloom reads {', '.join(_TYPES)}"
            )
        first, last = entry["data_offsets"]
        stored = np.frombuffer(data[first:last], dtype=kind).reshape(entry["shape"])
        if entry["dtype"] == "F32":
            return stored
        if entry["dtype"] == "BF16":
            return _by_parts(
                stored, lambda part: (part.astype(np.uint32) << np.uint32(16)).view(np.float32)
            )
        return stored.astype(np.float32)

    return read


def _by_parts(stored: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    result = np.empty(stored.shape, dtype=np.float32)
    flat_in, flat_out = stored.reshape(-1), result.reshape(-1)
    for first in range(0, flat_in.size, _PART):
        flat_out[first : first + _PART] = convert(flat_in[first : first + _PART])
    return result


def _return_free_memory() -> None:
    """Hand freed memory back to the system, where the C library has a call for it (glibc)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _releaser(mapped: np.ndarray) -> Callable[[], None]:
    """Give a function that lets the system drop a mapped file's pages, where it can."""
    pages: Any = mapped.base
    advice = getattr(mmap, "MADV_DONTNEED", None)  # POSIX only; elsewhere pages go when needed
    if advice is None or not isinstance(pages, mmap.mmap):
        return lambda: None
    return lambda: pages.madvise(advice)


def _gguf_reader(path: Path, gguf: Any, tensor: Any, release: Callable[[], None]) -> Stored:
    shape = tuple(int(size) for size in tensor.shape[::-1])

    def read() -> np.ndarray:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            return np.asarray(tensor.data).reshape(shape)
        stored = np.asarray(tensor.data).reshape(int(np.prod(shape[:-1])), -1)
        result = np.empty((len(stored), shape[-1]), dtype=np.float32)
        step = max(1, _PART // shape[-1])
        try:
            for first in range(0, len(stored), step):
                part = gguf.quants.dequantize(stored[first : first + step], tensor.tensor_type)
                result[first : first + step] = part
        except NotImplementedError:
            raise InputError(
                f"{path}: tensor {tensor.name!r} is quantised as {tensor.tensor_type.name}, "
                "which the package gguf cannot expand"
            ) from None
        release()  # what was converted is not needed in its stored form again
        return result.reshape(shape)

    return Stored(shape, read)
