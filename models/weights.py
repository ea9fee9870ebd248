"""`Weights`: tensors on disk, memory-mapped and lazy: safetensors, with or without shards.

A tensor that is stored in float32 is a view of the file; any other is converted when it is first
read and then kept, so that there is only one float32 copy. Pickles are refused, since opening one
can run code. `gguf_file` reads GGUF files.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import InputError
from .config_keys import read_json

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
PART = 1 << 20  # values converted at a time, to avoid large temporary arrays


@dataclass(frozen=True)
class Stored:
    """A tensor on disk: its shape, the function that reads it in float32, its name in the file."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    name: str = ""


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

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._read.get(name)
        if array is None:
            if name not in self.stored:
                raise InputError(
                    f"{self.source}: no tensor {name!r} among its {len(self)}; the configuration "
                    "and the weights do not match"
                )
            array = self.stored[name].read()
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(array.sum(dtype=np.float64))
            if not finite:
                shown = self.stored[name].name or name
                raise InputError(f"{self.source}: tensor {shown!r} holds NaN or infinite values")
            self._read[name] = array
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
        """Return whether two tensors hold the same numbers."""
        first, second = (self.stored[name].read().reshape(-1) for name in (one, other))
        return first.shape == second.shape and all(
            np.array_equal(first[at : at + PART], second[at : at + PART])
            for at in range(0, first.size, PART)
        )

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
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=0)[8 + length :]
    stored = {
        name: Stored(tuple(entry["shape"]), _safetensor_reader(path, name, entry, data), name)
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
        if entry["dtype"] == "BF16":  # the upper half of a float32
            wide = stored.astype(np.uint32)
            wide <<= 16
            return wide.view(np.float32)
        return stored.astype(np.float32, copy=False)

    return read
