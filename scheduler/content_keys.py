"""Keys of what is computed from a model's weights and kept between runs.

A key follows from everything that the bits may depend on: the content of the weights, the constants
of the backend, the code of lightloom, the libraries, and the processor. It names no path and no
time, so that a file may move, and a file that changed is never taken for the old one.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Backend
from ..instruments.cache_folder import key_of
from ..instruments.environment import COMPILED, THREAD_LIMITS, thread_count
from ..instruments.version import VERSION, version_of

_BACKENDS = f"{__name__.partition('.')[0]}.backends."
_ROOMS = ("backends", "models", "scheduler")  # whose code a number depends on
_LIBRARIES = ("numpy", "numba", "onnxruntime", "gguf")
_VARIABLES = (  # that choose the number of threads, or other instructions
    *THREAD_LIMITS,
    *("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"),
)
_UNREAD = {  # constants of a profile that change neither ranges nor encoded weights
    *("name", "title", "sources", "years"),
    *("photons_full_scale", "photons_per_mac", "photons_entering_per_mac"),
    *("read_noise_e", "dark_e", "source_rms"),
}


def content_key(
    backend: Backend, weights: Mapping[str, np.ndarray], names: Iterable[str], **others: Any
) -> str | None:
    """Return the key of what a backend computes from weights; None where it cannot be kept.

    `cache_folder.kept` takes it. Encoded weights of one product, for example:

        key = content_key(backend, weights, [step.w], transposed=step.transposed)
        arrays = kept("encoded", key, encode)

    Parameters
    ----------
    weights : whose content has a digest: those of a file
    names : of the weights
    others : what else it follows from, as JSON
    """
    kind = type(backend)
    if not kind.__module__.startswith(_BACKENDS):
        return None  # its code may change without a new version of lightloom
    digest: Any = getattr(weights, "digest", None)
    if digest is None:
        return None
    return key_of(
        {
            "weights": {name: digest(name).hex() for name in names},
            "backend": f"{kind.__module__}.{kind.__qualname__}",
            "profile": backend.profile.model_dump(mode="json", exclude=_UNREAD),
            "lightloom": [VERSION, _code()],
            "machine": _machine(),
            "threads": thread_count(),
            "variables": [os.environ.get(name) for name in _VARIABLES],
            **others,
        }
    )


def content_of(operand: Any) -> str:
    """Return a digest of numbers, with their type and shape."""
    array = np.asarray(operand)
    state = blake2b(f"{array.dtype.str} {array.shape} ".encode(), digest_size=32)
    state.update(array.tobytes())
    return state.hexdigest()


@cache
def _code() -> str:
    """Return a digest of the code in the rooms that compute: a checkout keeps its version."""
    root, state = Path(__file__).parents[1], blake2b(digest_size=32)
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            content = path.read_bytes()
            state.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode())
            state.update(content)
    return state.hexdigest()


@cache
def _machine() -> dict[str, Any]:
    """Return what float32 sums depend on: libraries, processor, compiled loops."""
    numpy = np.show_config(mode="dicts")
    return {
        "versions": {name: version_of(name) for name in _LIBRARIES},
        "python": platform.python_version(),
        "blas": {k: str(v) for k, v in numpy["Build Dependencies"]["blas"].items()},
        "processor": [platform.system(), platform.machine(), _processor(), os.cpu_count()],
        "instructions": numpy["SIMD Extensions"].get("found", []),
        "compiled": COMPILED,
    }


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() if platform.system() != "Linux" else ""
