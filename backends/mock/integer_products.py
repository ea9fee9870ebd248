"""Exact integer products, the arithmetic of every sum of light.

Integers of up to 8 bits are one plane, those of up to 15 bits two planes, 256 high + low. Every way
to compute a product of planes is exact, so its bits depend neither on the batch nor on the threads:

- compiled tiles of dot products of bytes, if the processor has an instruction for them (numba);
- otherwise a library's product of 8-bit integers (onnxruntime, see `int8_gemm`), and for few rows
  a compiled loop over 8-bit weights;
- otherwise float32, whose sums are exact below 2^24: K is cut there, and partial sums add in
  float64;
- finer integers, of modulators without levels: float64, exact below 2^53.
"""

from collections.abc import Iterator
from functools import cached_property
from threading import Lock

import numpy as np

from ...instruments.environment import COMPILED
from . import LOOPS, compiled_loops
from .int8_gemm import IntegerProduct, integer_product
from .noise import GROUP
from .product_choice import FLOATS, LOOPS_OF_BYTES, fastest_path

ONE_PLANE, TWO_PLANES = 128, 32_512  # largest magnitudes; 32,512 is 256 * 127
FEW_ROWS = 4  # up to which a loop over the weights is faster than a library
_PANEL = 512  # outputs at a time: their weights and sums stay in a second-level cache
LONGEST = 60_000  # sums of more 8-bit products do not fit 32 bits
_BLOCK_BYTES = 1 << 20  # of weights that are converted at a time
_KEPT_BYTES = 128 << 20  # of float32 copies of weights that are kept for the next product


class Operand:
    """Integer weights [m, M, K] in optical units: m matrices (batched dynamic operands, else one).

    Parameters
    ----------
    integers : an array of any type that holds integers
    magnitude : bound of the integers
    magnitudes_of : operand whose magnitudes these are, so that they need not be stored

    Attributes
    ----------
    count : of planes, the higher first
    sums : over K, float64 [m, M]
    """

    _kept = 0
    _lock = Lock()

    def __init__(
        self, integers: np.ndarray, magnitude: int, magnitudes_of: "Operand | None" = None
    ) -> None:
        self.magnitude, self.shape = magnitude, integers.shape
        self.magnitudes_of = None if magnitude > ONE_PLANE else magnitudes_of
        self.is_wide = magnitude > TWO_PLANES
        self.sums = integers.sum(axis=-1, dtype=np.float64)
        planes = _two_planes(integers) if ONE_PLANE < magnitude <= TWO_PLANES else (integers,)
        kind = np.int32 if self.is_wide else np.int8
        self.count = len(planes)
        self._planes: list[np.ndarray | None] = [None] * self.count
        if self.magnitudes_of is None:
            self._planes = [plane.astype(kind, order="C") for plane in planes]
        self._packed: dict[tuple[int, int], np.ndarray] = {}
        self._panels: dict[tuple[int, int], list[np.ndarray]] = {}
        self._floats: dict[tuple[int, int], np.ndarray] = {}

    @cached_property
    def columns(self) -> np.ndarray:
        """The sums over the outputs: int64 [m, K]."""
        sums = [self.plane(number).sum(axis=1, dtype=np.int64) for number in range(self.count)]
        return sums[0] if len(sums) == 1 else 256 * sums[0] + sums[1]

    def plane(self, number: int) -> np.ndarray:
        """Return a plane, int8 [m, M, K]; or int32 if the integers are too fine for planes."""
        plane = self._planes[number]
        if plane is None and self.magnitudes_of is not None:
            return np.abs(self.magnitudes_of.plane(number))
        if plane is not None:
            return plane
        if (number, 0) in self._packed:
            packed = self._packed[number, 0]
            return np.asarray(compiled_loops().unpacked(packed, *self.shape[1:])[None])
        library = _library()
        assert library is not None
        columns = [library.columns(panel) for panel in self._panels[number, 0]]
        return np.ascontiguousarray(np.concatenate(columns, axis=1).T)[None]

    @cached_property
    def panels(self) -> list[slice]:
        """The outputs, divided into panels of about equal width, multiples of `GROUP`."""
        outputs = self.shape[1]
        step = -(-outputs // max(1, -(-outputs // _PANEL)) // GROUP) * GROUP
        return [slice(i, min(i + step, outputs)) for i in range(0, outputs, step)]

    def panel(self, plane: int, matrix: int, index: int, library: IntegerProduct) -> np.ndarray:
        """Return the weights of a panel in the library's form, [K, width].

        They are stored; for a single matrix they replace the plane.
        """
        if self.magnitudes_of is not None:
            return library.magnitudes(self.magnitudes_of.panel(plane, matrix, index, library))
        panels = self._panels.get((plane, matrix))
        if panels is None:
            rows = self.plane(plane)[matrix]
            panels = [library.stored(rows[part].T) for part in self.panels]
            self._panels[plane, matrix] = panels
            if self.shape[0] == 1:
                self._planes[plane] = None
        return panels[index]

    def floats(
        self, matrix: int, carrier: type[np.floating], keep: bool
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Yield blocks of outputs and the planes of their weights as floats, [K, width] each.

        Copies are stored in the order that BLAS multiplies fastest, up to 128 MiB in total; others
        are created each time.

        Parameters
        ----------
        keep : whether to store copies and use them; few rows are faster without, since 8-bit
            weights are read from memory faster than their copies
        """
        if keep:
            for number in range(self.count):
                self._keep(self.plane(number), number, matrix)
        kept = [self._floats.get((i, matrix)) if keep else None for i in range(self.count)]
        planes = [self.plane(number) for number in range(self.count)]
        outputs, length = self.shape[1:]
        step = max(16, _BLOCK_BYTES // max(length * np.dtype(carrier).itemsize, 1))
        if all(copy is not None for copy in kept):
            step = outputs
        for start in range(0, outputs, step):
            part = slice(start, min(start + step, outputs))
            yield (
                part,
                [
                    plane[matrix, part].astype(carrier).T if copy is None else copy[:, part]
                    for plane, copy in zip(planes, kept, strict=True)
                ],
            )

    def packed(self, plane: int, matrix: int) -> np.ndarray:
        """Return a plane in the form of `kernels.multiply_bytes`.

        It is stored; for a single matrix it replaces the plane.
        """
        stored = self._packed.get((plane, matrix))
        if stored is None:
            packed = compiled_loops().packed(self.plane(plane)[matrix])
            stored = self._packed[plane, matrix] = np.asarray(packed)
            if has_dot() and self.shape[0] == 1:
                self._planes[plane] = None  # `plane` makes it again
        return stored

    def _keep(self, plane: np.ndarray, number: int, matrix: int) -> None:
        size = 4 * plane[matrix].size
        with Operand._lock:
            if (number, matrix) in self._floats or Operand._kept + size > _KEPT_BYTES:
                return
            Operand._kept += size
            self._floats[number, matrix] = np.ascontiguousarray(plane[matrix].T, dtype=np.float32)

    def __del__(self) -> None:
        kept = sum(array.nbytes for array in getattr(self, "_floats", {}).values())
        if kept:
            Operand._kept -= kept


class IntegerRows:
    """Integer rows [n, K] in the forms that products use.

    Parameters
    ----------
    integers : int16, float32 or float64 [n, K] that hold integers
    magnitude : bound of the integers
    """

    def __init__(self, integers: np.ndarray, magnitude: int) -> None:
        self.integers, self.magnitude = integers, magnitude
        self.is_wide = magnitude > TWO_PLANES
        self._bytes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._unsigned: dict[str, list[tuple[np.ndarray, int]]] = {}

    def may_be_bytes(self, weights: Operand) -> bool:
        """Return whether products with weights fit 8-bit planes and 32-bit sums."""
        return (
            self.integers.dtype == np.int16 and not weights.is_wide and weights.shape[-1] <= LONGEST
        )

    def path(self, weights: Operand) -> str:
        """Return how a product of many rows is computed (see `product_choice`)."""
        outputs, length = weights.shape[1:]
        return fastest_path(len(self.integers), len(self.integers) * outputs * length)

    def variant(self, name: str) -> np.ndarray:
        """Return "signed", "magnitude", "plus" or "minus" (max(+-x, 0)) of the integers."""
        if name == "magnitude":
            return np.asarray(np.abs(self.integers))
        if name == "signed":
            return self.integers
        return np.maximum(self.integers if name == "plus" else -self.integers, 0)

    def planes(self, name: str) -> list[np.ndarray]:
        """Return the planes of a variant, in the type of the integers."""
        integers = self.variant(name)
        return [integers] if self.magnitude <= ONE_PLANE else list(_two_planes(integers))

    def as_bytes(self, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the planes of a variant in the form of `kernels.bytes_of`."""
        stored = self._bytes.get(name)
        if stored is None:
            stored = []
            n, length = self.integers.shape
            for plane in self.planes(name):
                rows, starts = np.empty((n, -(-length // 4) * 4), np.int8), np.empty(n, np.int32)
                compiled_loops().bytes_of(plane, rows, starts)
                stored.append((rows, starts))
            self._bytes[name] = stored
        return stored

    def as_unsigned(self, name: str) -> list[tuple[np.ndarray, int]]:
        """Return the planes of a variant as uint8, each with its zero point."""
        stored = self._unsigned.get(name)
        if stored is None:
            zero = 0 if name != "signed" and self.magnitude <= ONE_PLANE else 128
            stored = []
            for plane in self.planes(name):
                shifted = np.empty(plane.shape, dtype=np.uint8)
                np.add(plane, zero, out=shifted, casting="unsafe")
                stored.append((shifted, zero))
            self._unsigned[name] = stored
        return stored


def panels(rows: IntegerRows, weights: Operand, threads: int) -> list[tuple[int | None, slice]]:
    """Divide the outputs for the fastest product: (number of the panel or None, outputs)."""
    outputs = weights.shape[1]
    whole: list[tuple[int | None, slice]] = [(None, slice(0, outputs))]
    if not rows.may_be_bytes(weights):
        return whole
    if len(rows.integers) > FEW_ROWS:
        return list(enumerate(weights.panels)) if rows.path(weights) != FLOATS else whole
    if threads == 1:
        return whole
    step = -(-outputs // threads // GROUP) * GROUP
    return [(None, slice(i, min(i + step, outputs))) for i in range(0, outputs, step)]


def multiply(
    rows: IntegerRows,
    name: str,
    weights: Operand,
    matrix: int,
    panel: int | None,
    place: slice,
) -> np.ndarray:
    """Multiply a variant of integer rows [n, K] by integer weights [M, K], exactly.

    Parameters
    ----------
    panel, place : one of `panels`

    Returns
    -------
    product : [n, width], exact: int32, float32 or float64
    """
    few = len(rows.integers) <= FEW_ROWS
    if not rows.may_be_bytes(weights) or (panel is None and not few):
        return _in_floats(rows, name, weights, matrix)
    planes = range(weights.count)
    if few or rows.path(weights) == LOOPS_OF_BYTES:
        loops, products, width = compiled_loops(), [], place.stop - place.start
        for left, starts in rows.as_bytes(name):
            for plane in planes:
                tiles = -(-width // 64) * 64 if has_dot() else width
                product = np.empty((1, len(left), tiles), dtype=np.int32)
                packed, steps = weights.packed(plane, matrix), left.shape[1] // 4
                loops.multiply_bytes(
                    left, starts, packed, 0, steps, place.start, loops.ALL, product
                )
                products.append(np.ascontiguousarray(product[0, :, :width]))
        return _combined(products)
    library = _library()
    assert library is not None and panel is not None
    return _combined(
        [
            library.multiply(left, zero, weights.panel(plane, matrix, panel, library))
            for left, zero in rows.as_unsigned(name)
            for plane in planes
        ]
    )


def active_path() -> str:
    """Return how products are computed here, with the reason."""
    if not COMPILED:
        return "float32 in numpy, since numba (extra 'fast') is not installed"
    few = f"{FEW_ROWS} rows and fewer by compiled loops over 8-bit weights"
    product = integer_product()
    if compiled_loops().HAS_DOT:
        few = "8-bit integers by the processor's dot products (AVX-512 VNNI, exact in a self-test)"
        if isinstance(product, str):
            return few
        return f"{few}, or in onnxruntime where that is faster here"
    if isinstance(product, str):
        return f"float32 in numpy, since {product}; {few}"
    return f"8-bit integers in onnxruntime ({product.kind}, exact in a self-test); {few}"


def has_dot() -> bool:
    """Return whether compiled tiles serve any number of rows: numba and the processor allow it."""
    return LOOPS.is_used and bool(compiled_loops().HAS_DOT)


def _library() -> IntegerProduct | None:
    product = integer_product()
    return None if isinstance(product, str) else product


def _in_floats(rows: IntegerRows, name: str, weights: Operand, matrix: int) -> np.ndarray:
    """Multiply in float32 if its sums are exact, else in float64."""
    outputs, length = weights.shape[1:]
    wide = weights.is_wide or rows.is_wide
    carrier: type[np.floating] = np.float64 if wide else np.float32
    planes = [rows.variant(name)] if rows.is_wide else rows.planes(name)
    left = [np.ascontiguousarray(plane, dtype=carrier) for plane in planes]
    depth = (1 << 24) // ONE_PLANE**2
    if wide:
        depth = max((1 << 53) // (rows.magnitude * weights.magnitude), 1)
    simple = len(left) == weights.count == 1 and not wide and length <= depth
    result = np.empty((len(rows.integers), outputs), dtype=np.float32 if simple else np.float64)
    keep = not wide and len(rows.integers) > FEW_ROWS
    for part, right in weights.floats(matrix, carrier, keep):
        if simple:
            np.matmul(left[0], right[0], out=result[:, part])
            continue
        products = []
        for plane in left:
            for weight in right:
                product = np.zeros((len(plane), weight.shape[1]))
                for first in range(0, length, depth):
                    columns = slice(first, first + depth)
                    product += plane[:, columns] @ weight[columns]
                products.append(product)
        result[:, part] = _combined(products)
    return result


def _combined(products: list[np.ndarray]) -> np.ndarray:
    """Add the products of planes, 256 high + low: first those of the weights, then of the rows."""
    while len(products) > 1:
        pairs = zip(products[::2], products[1::2], strict=True)
        products = [_add_planes(high, low) for high, low in pairs]
    return products[0]


def _add_planes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    sums = np.empty(high.shape)
    if LOOPS.is_used:
        compiled_loops().add_planes(high, low, sums)
        return sums
    np.multiply(high, 256.0, out=sums)
    sums += low
    return sums


def _two_planes(integers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split integers of at most `TWO_PLANES` into 256 high + low, both from -128 to 127."""
    if integers.dtype.kind == "f":
        high = np.floor((integers + 128) / 256)
        return high, integers - 256 * high
    wide = integers.astype(np.int32)
    high = (wide + 128) >> 8
    return high.astype(np.int16), (wide - 256 * high).astype(np.int16)
