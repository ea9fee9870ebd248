"""`Backend`: the contract of all backends, its results and its counts."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from ..instruments import Clock, InputError, Timeline
from ..instruments.formatting import format_count, format_counted
from .address import Address
from .profile import OpticsProfile, load_profile
from .tiling import Geometry
from .timing import ShotTiming

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FLOAT, _ID = np.dtype(np.float32), np.dtype(np.uint64)


@dataclass
class Stats:
    """Counted events of one product, or of a sum of products.

    Parameters
    ----------
    macs : multiplications and accumulations
    shots : exposures, repeated ones included
    input_frames, weight_frames : frames shown by each modulator
    input_samples, weight_samples : values sent to each modulator
    conversions : samples of the analogue-to-digital converter
    photons : detected photoelectrons of light, without dark ones
    saturated : readings beyond the range of the detector or the converter
    retries : repeated shots
    marked : shots whose numbers are not optical: skipped, or computed by the host
    checks : evaluated checksums
    suspicious : checksums that deviate by more than the noise
    seconds : time on this machine by stage: "encode", "product", "decode"
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
    """A product and its statistics.

    Parameters
    ----------
    y : the product, float32 [..., N, M]
    stats : counted events
    variance : of y, from shot noise, read noise and converter steps, float32 like y; None from a
        backend that does not know it
    """

    y: np.ndarray
    stats: Stats
    variance: np.ndarray | None = None

    def __repr__(self) -> str:
        stats, shape = self.stats, ", ".join(map(str, self.y.shape))
        return (
            f"MatmulResult: y of shape [{shape}], {format_counted(stats.shots, 'shot')}, "
            f"{format_count(stats.photons)} photons, {stats.saturated:,} saturated"
        )


@dataclass(frozen=True)
class Ranges:
    """The ranges of one matmul, fixed by a calibration pass over other data before any exposure.

    Parameters
    ----------
    readout : largest value to be read out, in units of y after scaling; per K-segment and output
        [segments, M], or per K-segment [segments, 1]; leading axes as those of the weights, or 1
    weight : largest |w| of a dynamic operand, broadcastable to [..., M, K]; None for static
        weights, which are scaled by their own maximum
    """

    readout: np.ndarray
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedWeights:
    """Weights in the form of a backend: `Backend.prepare` creates them for that backend only.

    Parameters
    ----------
    shape : [..., M, K] of the weights
    content : the weights in the form that the backend multiplies
    ranges : read-out ranges of their products; None before a calibration pass
    maker : the backend that prepared them
    """

    shape: tuple[int, ...]
    content: Any = field(repr=False)
    ranges: Ranges | None = field(default=None, repr=False)
    maker: object = field(default=None, repr=False)


class Backend(ABC):
    """Computes products Y[..., N, M] = X[..., N, K] W[..., M, K]^T.

    Subclasses implement `_prepare` and `_matmul`; this class checks operands and counts calls.
    Everything else has a default, which a subclass overrides where it differs. A backend is a
    context manager: it is open within its `with`.

    Attributes
    ----------
    is_optical : False for exact digital products: they need no digital reference beside them, no
        prediction for a bench and no energy account
    is_mock : True where the light is simulated
    is_asynchronous : True where `begin` returns at once, and the bench works meanwhile
    is_calibrated : False where the operator accepted a bench without calibration
    needs_ranges : True where read-out ranges come from a calibration pass, through `observe`
    remarks : on the products, for a report
    faults : number of repeated shots, by kind of fault
    checked : statistics of the checksums (`ChecksumStats`), by matmul
    benches : benches of this process that multiply (`BenchBackend`), by their names in a journal
    recorder : keeps the shots of `benches` (`bench.checkpoint.Recorder`); None keeps none
    clock : of its times
    timeline : records the events of devices; None records nothing
    """

    name: str
    is_optical = True
    is_mock = False
    is_asynchronous = False
    is_calibrated = True
    needs_ranges = False
    remarks: Sequence[str] = ()
    faults: Mapping[str, int] = _NOTHING
    checked: Mapping[str, Any] = _NOTHING
    benches: Mapping[str, Any] = _NOTHING
    recorder: Any = None
    clock = Clock()
    timeline: Timeline | None = None

    def __init__(self) -> None:
        self._calls = itertools.count()

    def __repr__(self) -> str:
        mock = ["mock"] if self.is_mock else []
        return f"<{type(self).__name__}: {', '.join([*self._identity, *mock])}>"

    @property
    def _identity(self) -> Sequence[str]:
        """What distinguishes this backend from others of its class, for its `repr`."""
        return (self.name,)

    @cached_property
    def profile(self) -> OpticsProfile:
        """The constants of its bench; by default those of the default profile."""
        return load_profile()

    @cached_property
    def geometry(self) -> Geometry:
        """The capacity of its frames; by default that of the profile."""
        return Geometry.of(self.profile)

    @cached_property
    def timing(self) -> ShotTiming:
        """The times of its devices; by default those of the profile."""
        return ShotTiming.of(self.profile)

    def prepare(
        self,
        weights: Any,
        *,
        ranges: Ranges | None = None,
        grown: PreparedWeights | None = None,
    ) -> PreparedWeights:
        """Check weights [..., M, K] and return them in the form that this backend multiplies.

        Leading axes are batched dynamic operands, such as the keys of each head.

        Parameters
        ----------
        ranges : of the products; None before a calibration pass
        grown : these weights when M or K was smaller, such as keys without those of new tokens. A
            backend may encode only the new ones; `grown` cannot be used any more.

        Raises
        ------
        InputError : when they are not at least two-dimensional numbers, or not finite
        """
        array = as_float(weights, "weights")
        if array.ndim < 2:
            raise InputError(
                f"weights of shape {array.shape} are not a matrix; give the shape [..., M, K]"
            )
        if grown is not None and self._can_grow(grown, array.shape, ranges):
            tokens: tuple[Any, ...] = (..., slice(grown.shape[-2], None), slice(None))
            if array.shape[-2] == grown.shape[-2]:
                tokens = (..., slice(grown.shape[-1], None))
            check_finite(array[tokens], "weights")
            if self._grow(array, grown.content):
                return PreparedWeights(array.shape, grown.content, ranges, self._maker)
        check_finite(array, "weights")
        content = self._prepare(array, ranges) if array.size else None
        return PreparedWeights(array.shape, content, ranges, self._maker)

    def kept_arrays(self, w: PreparedWeights) -> Mapping[str, np.ndarray]:
        """Return arrays from which `restore` makes weights [M, K] faster than `prepare`.

        None at all where it would not be faster.
        """
        return _NOTHING

    def restore(
        self, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], ranges: Ranges | None
    ) -> PreparedWeights | None:
        """Return weights [M, K] from their `kept_arrays`; None where they have to be prepared.

        Parameters
        ----------
        shape : (M, K)
        ranges : of their products
        """
        return None

    def _can_grow(
        self, grown: PreparedWeights, shape: tuple[int, ...], ranges: Ranges | None
    ) -> bool:
        """Return whether prepared weights may be these, but for one axis that was shorter."""
        old = grown.shape
        same = grown.maker == self._maker and grown.ranges is ranges and grown.content is not None
        if not same or len(old) != len(shape) or old[:-2] != shape[:-2]:
            return False
        return (old[-1] == shape[-1] and old[-2] <= shape[-2]) or (
            old[-2] == shape[-2] and old[-1] <= shape[-1]
        )

    def _grow(self, weights: np.ndarray, content: Any) -> bool:
        """Encode what weights [..., M, K] have beyond `content`; return whether that is done."""
        return False

    def matmul(self, x: Any, w: Any, at: Address | None = None) -> MatmulResult:
        """Multiply x [..., N, K] by w [..., M, K] transposed: float32 [..., N, M].

        Parameters
        ----------
        w : prepared weights, or a float array; without leading axes it serves every row of x
        at : identity of the product; None counts the calls, so that repeated calls differ

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
        """Begin a product, and return a function that waits for its result.

        An asynchronous backend executes products in the order in which they were begun; `begin`
        waits while too many are queued. Other backends finish the product before `begin` returns.

        Parameters
        ----------
        done : called once, from any thread, when the bench has finished or failed the product. If
            it has a method `again`, that is called when the product has to be repeated, and `done`
            is called once more afterwards
        details : attributes of its shots in a timeline
        """
        done = done or (lambda: None)
        x = as_float(x, "x")
        prepared = w if isinstance(w, PreparedWeights) else self.prepare(w)
        self._check_operands(x, prepared)
        leading, (outputs, length) = prepared.shape[:-2], prepared.shape[-2:]
        if at is None:
            ids = np.arange(x.size // max(length, 1), dtype=np.uint64)
            at = Address(f"call.{next(self._calls)}", ids)
        shape = (*x.shape[:-1], outputs)
        if 0 in x.shape or 0 in prepared.shape:  # no terms or no outputs
            empty = MatmulResult(np.zeros(shape, dtype=np.float32), Stats())
            done()
            return lambda: empty
        matrices = math.prod(leading)
        rows = _row_ids(x, at, matrices)
        stacked = x.reshape(matrices, rows.shape[1], length)
        try:
            named = at if rows is at.rows else Address(at.matmul, rows, at.attempt)
            finish = self._begin(stacked, prepared, named, done, details or {})
        except InputError:
            check_finite(x, "x")  # names the place
            raise

        def finished() -> MatmulResult:
            result = finish()
            if result.y.shape == shape:
                return result
            variance = None if result.variance is None else result.variance.reshape(shape)
            return MatmulResult(result.y.reshape(shape), result.stats, variance)

        return finished

    def _check_operands(self, x: np.ndarray, prepared: PreparedWeights) -> None:
        """Check that x and the weights multiply on this backend."""
        if prepared.maker != self._maker:
            raise InputError(
                "these weights were prepared by a backend of another kind or profile; prepare them "
                "with this one"
            )
        leading, length = prepared.shape[:-2], prepared.shape[-1]
        if x.ndim < 1 or x.shape[-1] != length or (leading and x.shape[:-2] != leading):
            raise InputError(
                f"x of shape {x.shape} and weights of shape {prepared.shape} do not multiply: "
                "give x [..., N, K] and weights [M, K], or both with the same leading axes"
            )
        self._check_rows(x)

    def open(self) -> None:  # noqa: B027 (most have nothing to open)
        """Open the backend; does nothing if it is open."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Release its resources; does nothing if it is closed."""

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def beat(self) -> None:  # noqa: B027 (most drive no hardware that asks for it)
        """Signal progress of the run to hardware that switches light off without this heartbeat."""

    def prepare_loops(self, multiplications: int) -> None:  # noqa: B027 (most compile nothing)
        """Choose between compiled loops and numpy, before a run of so many multiplications."""

    def warm_up(self) -> None:
        """Do one-time work such as compiling, so that no measured product includes it."""
        one = np.ones((1, 1), dtype=np.float32)
        self.matmul(one, one, Address("warm up", np.zeros(1, dtype=np.uint64)))

    def _check_rows(self, x: np.ndarray) -> None:
        """Refuse rows that are not finite; a backend may do so later instead."""
        check_finite(x, "x")

    @property
    def _maker(self) -> object:
        """The identity that prepared weights must share with the backend."""
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

    def observe(self, x: np.ndarray, w: PreparedWeights, valid: np.ndarray | None) -> np.ndarray:
        """Return the largest noise-free value of each output at its converter.

        A backend whose `needs_ranges` is True implements it.

        Parameters
        ----------
        x : float [..., N, K]
        w : prepared weights
        valid : bool, broadcastable to [..., N, M]; False marks masked positions, which do not
            enter a range

        Returns
        -------
        largest : float64 [matrices, segments, M], in units of y after scaling
        """
        raise NotImplementedError

    def with_settings(self, settings: Mapping[str, Any]) -> Backend | None:
        """Return the same backend with other constants; None where a bench defines them."""
        return None

    def describe(self) -> Mapping[str, Any]:
        """Return the description of this backend for a record of a run."""
        return {"backend": self.name, "is_mock": self.is_mock}

    def journal_entry(self) -> dict[str, Any]:
        """Return what the journal of a run keeps, as JSON, to open this backend again.

        Raises
        ------
        InputError : when runs on this backend cannot be recorded
        """
        raise InputError(
            f"a run on the backend {self.name!r} cannot be recorded, since it has no journal "
            "entry; run without --record"
        )


def as_float(values: Any, name: str) -> np.ndarray:
    """Return numbers as float32 (a view where possible).

    Raises
    ------
    InputError : when they are not real numbers
    """
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{name} is not an array: its rows differ in length; give rows of equal length"
        ) from None
    if array.dtype == _FLOAT:
        return array
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {array.dtype}, not real numbers; give floats or integers")
    with np.errstate(over="ignore"):  # overflows are reported as not finite
        return array.astype(np.float32)


def check_finite(array: np.ndarray, name: str) -> None:
    """Check that an array has no NaN and no infinity.

    Raises
    ------
    InputError : when a number is not finite, naming the first place
    """
    if array.size > 1 << 14:
        # a finite sum has finite terms; otherwise all terms are checked
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


def check_row_count(x: np.ndarray, at: Address) -> None:
    """Check that an address names as many rows as x [..., K] has.

    Raises
    ------
    InputError : when it does not
    """
    shape, wanted = np.shape(at.rows), x.shape[:-1]
    if shape != wanted and math.prod(shape) != math.prod(wanted):
        raise InputError(
            f"the address {at.matmul!r} names rows of shape {shape}, but x has rows {wanted}; "
            "give one id per row"
        )


def _row_ids(x: np.ndarray, at: Address, matrices: int) -> np.ndarray:
    """Return the address' row ids as contiguous, writeable uint64 [matrices, N]."""
    check_row_count(x, at)
    rows = np.asarray(at.rows)
    if rows.dtype != _ID or rows.ndim != 2 or len(rows) != matrices:
        rows = np.asarray(rows, dtype=_ID).reshape(matrices, -1)
    if not (rows.flags.c_contiguous and rows.flags.writeable):
        rows = np.require(rows, requirements=["C", "W"])
    return rows
