"""What every backend is: the contract, its results and what it counts."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ..instruments import Clock, InputError, Timeline
from .address import Address


@dataclass
class Stats:
    """Counted events of one product, or of many added up.

    `photons` are detected photoelectrons of light (not dark); `conversions` are samples of the
    analogue-to-digital converter, `input_samples` values sent to the input modulator,
    `weight_samples` values sent to the weight modulator. `checks` are checksums that were judged,
    `suspicious` those that were beyond what noise does. `marked` are shots whose numbers light did
    not give: skipped, or computed by the host. `seconds` is by stage: "encode",
    "product", "decode".
    """

    macs: int = 0
    shots: int = 0
    input_frames: int = 0
    weight_frames: int = 0
    input_samples: int = 0
    weight_samples: int = 0
    conversions: int = 0
    photons: float = 0.0
    saturated: int = 0
    retries: int = 0
    marked: int = 0
    checks: int = 0
    suspicious: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, other: Stats) -> None:
        """Add the events of another product to these."""
        mine = self.__dict__  # a decoded token adds hundreds of these
        for name, count in other.__dict__.items():
            if count and name != "seconds":
                mine[name] += count
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        counts = {item.name: getattr(self, item.name) for item in fields(self)}
        return counts | {"frames": self.input_frames + self.weight_frames}


@dataclass(frozen=True)
class MatmulResult:
    """A product y, float32 [..., N, M], and what it took.

    Parameters
    ----------
    variance : of y, from the light that arrived, read noise and converter steps, float32 like y;
        None from a backend that does not know it
    """

    y: np.ndarray
    stats: Stats
    variance: np.ndarray | None = None


@dataclass(frozen=True)
class Ranges:
    """What a calibration pass over other data fixed for one matmul, before any exposure.

    Parameters
    ----------
    readout : largest value to be read out, in units of y after scaling; per K-segment and output
        [segments, M], or per K-segment [segments, 1]; leading axes as those of the weights, or 1
    weight : largest |w| of a dynamic operand, broadcastable to [..., M, K]; None for static
        weights, whose scale comes from themselves
    """

    readout: np.ndarray
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedWeights:
    """Weights as a backend wants them; made by `Backend.prepare` and only for that backend."""

    shape: tuple[int, ...]
    content: Any
    ranges: Ranges | None = None
    maker: object = None


class Backend(ABC):
    """Who multiplies: Y[..., N, M] = X[..., N, K] W[..., M, K]^T.

    Subclasses fill in `_prepare` and `_matmul`; checks and the counting of calls are done here.
    """

    name: str
    is_mock = False
    is_asynchronous = False  # True: `begin` comes back at once, and light works meanwhile
    is_calibrated = True  # False: an operator insisted on a guess
    remarks: Sequence[str] = ()  # on what was multiplied, for a report
    profile: Any  # the constants of its bench; a digital backend has none
    geometry: Any  # `Geometry` of its frames, likewise
    timing: Any  # `ShotTiming` of its devices, likewise
    clock = Clock()  # the time that it goes by
    timeline: Timeline | None = None  # where slices of what happens go, if anybody wants them

    def __init__(self) -> None:
        self._calls = itertools.count()

    def prepare(self, weights: Any, *, ranges: Ranges | None = None) -> PreparedWeights:
        """Check weights [..., M, K] and bring them into the form that this backend multiplies.

        Leading axes are batched dynamic operands, such as the keys of each head.

        Raises
        ------
        InputError : when they are not at least two-dimensional numbers, or not finite
        """
        array = as_float(weights, "weights")
        if array.ndim < 2:
            raise InputError(f"weights of shape {array.shape} are no matrix [..., M, K]")
        check_finite(array, "weights")
        content = self._prepare(array, ranges) if array.size else None
        return PreparedWeights(array.shape, content, ranges, self._maker)

    def matmul(self, x: Any, w: Any, at: Address | None = None) -> MatmulResult:
        """Multiply x [..., N, K] by w [..., M, K] transposed: float32 [..., N, M].

        Parameters
        ----------
        w : prepared weights, or a float array; without leading axes it serves every row of x
        at : who is multiplied; None counts the calls, so that repeated calls differ

        Raises
        ------
        InputError : when the shapes do not multiply, or a number is not finite
        """
        return self.begin(x, w, at)()

    def begin(
        self,
        x: Any,
        w: Any,
        at: Address | None = None,
        done: Callable[[], None] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Callable[[], MatmulResult]:
        """Begin a product as `matmul` does it; what comes back waits for it and gives it.

        Products of an asynchronous backend are done in the order in which they were begun; `begin`
        waits while too many are on their way. Others have finished when it comes back.

        Parameters
        ----------
        done : called once when light has finished with it, or has failed, from whichever thread.
            Where it has a method `again`, that is called when it is to be taken again after all,
            and then it is called once more
        details : what a timeline should say of its shots
        """
        done = done or (lambda: None)
        x = as_float(x, "x")
        prepared = w if isinstance(w, PreparedWeights) else self.prepare(w)
        if prepared.maker != self._maker:
            raise InputError("these weights were prepared by a backend of another kind or profile")
        leading, (outputs, length) = prepared.shape[:-2], prepared.shape[-2:]
        if x.ndim < 1 or x.shape[-1] != length or (leading and x.shape[:-2] != leading):
            raise InputError(
                f"x of shape {x.shape} and weights of shape {prepared.shape} do not multiply: "
                "want x [..., N, K] and weights [M, K], or both with the same leading axes"
            )
        self._check_rows(x)
        if at is None:
            ids = np.arange(x.size // max(length, 1), dtype=np.uint64)
            at = Address(f"call.{next(self._calls)}", ids)
        if 0 in x.shape or 0 in prepared.shape:  # nothing to sum, or nothing asked
            empty = MatmulResult(np.zeros((*x.shape[:-1], outputs), dtype=np.float32), Stats())
            done()
            return lambda: empty
        matrices = int(np.prod(leading)) if leading else 1
        rows = np.asarray(at.rows, dtype=np.uint64)
        if rows.shape != x.shape[:-1]:
            rows = np.broadcast_to(rows, _rows_shape(x, at))
        rows = rows.reshape(matrices, -1)
        if not (rows.flags.c_contiguous and rows.flags.writeable):
            rows = np.require(rows, requirements=["C", "W"])
        stacked = x.reshape(matrices, rows.shape[1], length)
        try:
            named = Address(at.matmul, rows, at.attempt)
            finish = self._begin(stacked, prepared, named, done, details or {})
        except InputError:
            check_finite(x, "x")  # says where
            raise
        shape = (*x.shape[:-1], outputs)

        def finished() -> MatmulResult:
            result = finish()
            variance = None if result.variance is None else result.variance.reshape(shape)
            return MatmulResult(result.y.reshape(shape), result.stats, variance)

        return finished

    def open(self) -> None:  # noqa: B027 (most have nothing to open)
        """Get ready to multiply; harmless when it is."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of what it holds; harmless when that is done already."""

    def beat(self) -> None:  # noqa: B027 (most drive no hardware that asks for it)
        """Say that the run makes progress, for hardware that switches light off without that."""

    def warm_up(self) -> None:
        """Do what is done only once, such as compiling, so that no measured product pays for it."""
        one = np.ones((1, 1), dtype=np.float32)
        self.matmul(one, one, Address("warm up", np.zeros(1, dtype=np.uint64)))

    def _check_rows(self, x: np.ndarray) -> None:
        """Refuse rows that are not finite; a backend that meets them anyway may do so later."""
        check_finite(x, "x")

    @property
    def _maker(self) -> object:
        """What prepared weights depend on, beside the weights."""
        return self.name

    @abstractmethod
    def _prepare(self, weights: np.ndarray, ranges: Ranges | None) -> Any:
        """Return the content of `PreparedWeights` for checked float weights [..., M, K]."""

    def _matmul(self, x: np.ndarray, w: PreparedWeights, at: Address) -> MatmulResult:
        """Multiply x [matrices, N, K] by w; the address' rows are [matrices, N].

        An asynchronous backend fills in `_begin` instead.
        """
        return self._begin(x, w, at, lambda: None, {})()

    def _begin(
        self,
        x: np.ndarray,
        w: PreparedWeights,
        at: Address,
        done: Callable[[], None],
        details: Mapping[str, Any],
    ) -> Callable[[], MatmulResult]:
        """Begin what `_matmul` does."""
        result = self._matmul(x, w, at)
        done()
        return lambda: result

    def describe(self) -> Mapping[str, Any]:
        """Return what a record of a run should say about this backend."""
        return {"backend": self.name, "is_mock": self.is_mock}


def as_float(values: Any, name: str) -> np.ndarray:
    """Return numbers as float32 (a view where possible).

    Raises
    ------
    InputError : when they are not real numbers
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} is no array: its rows differ in length") from None
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {array.dtype}, not real numbers")
    with np.errstate(over="ignore"):  # what overflows is reported as not finite
        return array.astype(np.float32)


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity, saying where the first one is.

    Raises
    ------
    InputError : when a number is not finite
    """
    if array.size > 1 << 14:
        # a sum is finite unless something in it is not, or all is enormous: look closer then
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(array.sum(dtype=np.float32)):
                return
    finite = np.isfinite(array)
    if not finite.all():
        bad = ~finite
        where = tuple(int(index) for index in np.argwhere(bad)[0])
        raise InputError(
            f"{name} has {int(bad.sum())} values that are not finite, the first {array[where]} "
            f"at {list(where)}"
        )


def _rows_shape(x: np.ndarray, at: Address) -> tuple[int, ...]:
    shape = np.shape(at.rows)
    wanted = x.shape[:-1]
    if shape != wanted and int(np.prod(shape)) != int(np.prod(wanted)):
        raise InputError(
            f"the address {at.matmul!r} names rows of shape {shape}, but x has rows {wanted}"
        )
    return shape
