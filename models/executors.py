"""`Executors`: the backends that a model is called with, opened once and kept with its weights."""

from collections.abc import Mapping

import numpy as np

from ..backends import Backend, open_backend
from ..instruments import InputError
from ..scheduler import Executor, Placement


class Executors:
    """One executor for each backend and placement, which keeps the weights prepared for it.

    A backend that is given by name is opened at its first use.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str | int, str | Placement], Executor] = {}

    def get(
        self,
        weights: Mapping[str, np.ndarray],
        backend: Backend | str | None,
        placement: str | Placement,
    ) -> Executor:
        """Return the executor of a backend, or of its name; None is digital.

        Raises
        ------
        InputError : for what is neither, or an unknown name
        """
        if not isinstance(backend, Backend | str | None):
            raise InputError(
                f"backend = {backend!r} is neither a backend nor the name of one, such as 'mock'"
            )
        name_or_id = id(backend) if isinstance(backend, Backend) else backend or "digital"
        key = name_or_id, placement
        if key not in self._kept:
            opened = backend if isinstance(backend, Backend) else open_backend(str(name_or_id))
            self._kept[key] = Executor(opened, weights, placement)
        return self._kept[key]

    def release(self, backend: Backend) -> None:
        """Drop the weights that are prepared for a backend, when it is no longer used."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] != id(backend)}
