"""`Tags`: what is known of a tensor's memory: which weight it holds, or that it is a softmax.

A tag belongs to a storage, so that all views share it, and it ends with the storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

_MOST_STALE = 4096  # tags of storages that are gone, before they are dropped


@dataclass(frozen=True)
class Tag:
    """What a storage holds.

    Parameters
    ----------
    weight : name of the weight whose numbers it holds; "" is none
    is_softmax : whether it holds the result of a softmax, which is never below zero
    changes : changes of the weight that its version does not count, such as those through `.data`
    number : of the weight's storage; another storage of the same name has another one
    origin : of a copy: the version of the weight that it holds
    """

    weight: str = ""
    is_softmax: bool = False
    changes: int = 0
    number: int = 0
    origin: tuple[Any, ...] | None = None


class Tags:
    """The tags of all storages of a model's weights, and of tensors made from them."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[StorageWeakRef, Tag]] = {}
        self._stale_at = _MOST_STALE
        self._numbers = count(1)

    def name_weights(self, named: Mapping[str, torch.Tensor]) -> None:
        """Tag weights by name; of tied ones the first name stays."""
        for name, tensor in named.items():
            if not self.of(tensor).weight:
                self.put(tensor, Tag(weight=name, number=next(self._numbers)))

    def put(self, tensor: torch.Tensor, tag: Tag) -> None:
        """Tag the storage of a tensor."""
        if len(self._kept) >= self._stale_at:
            self._kept = {key: kept for key, kept in self._kept.items() if not kept[0].expired()}
            self._stale_at = _MOST_STALE + len(self._kept)
        storage = tensor.untyped_storage()
        self._kept[storage._cdata] = StorageWeakRef(storage), tag

    def of(self, tensor: torch.Tensor) -> Tag:
        """Return the tag of a tensor's storage; an empty one if it has none."""
        if tensor.layout is not torch.strided:  # it has no storage of its own
            return _NONE
        found = self._kept.get(tensor.untyped_storage()._cdata)
        return _NONE if found is None or found[0].expired() else found[1]


_NONE = Tag()


def tensors_in(values: object) -> Iterator[torch.Tensor]:
    """Yield the tensors among nested lists, tuples and mappings."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif isinstance(values, Mapping):
        yield from tensors_in(list(values.values()))


def version_of(w: torch.Tensor, tag: Tag, changes: int | None = None) -> tuple[Any, ...]:
    """Return what changes whenever the numbers of a weight, or of a part of one, change.

    Parameters
    ----------
    changes : as torch counts them; None reads them from `w`, which a view made below autograd lacks
    """
    place = w.storage_offset(), tuple(w.shape), w.stride()
    if tag.origin:
        return (tag.origin, *place)
    return (tag.number, tag.changes, changes_of(w) if changes is None else changes, *place)


def changes_of(tensor: torch.Tensor) -> int:
    """Return the changes of a tensor in place that torch counted; -1 where it counts none."""
    return -1 if tensor.is_inference() else tensor._version
