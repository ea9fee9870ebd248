"""Arithmetic on 16 numbers at a time, as LLVM code: what `kernels` needs beyond numba's loops.

Compilers turn a loop into vector instructions only if they can prove that its arrays do not
overlap. The loops of a reading have too many arrays for that, so they are written with `Lanes`
here: 16 numbers in one, two or four registers, whatever the processor has. Arrays are given by
their addresses, and have space for a multiple of 16 numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

WIDTH = 16
FLOAT, WORD, LONG, BIT = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.IntType(1)


class Lanes:
    """Sixteen numbers of one type: float32, int32 or int64, or truth values.

    Parameters
    ----------
    builder : of LLVM code
    value : vector
    """

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def kind(self) -> Any:
        """The type of one number."""
        return self.value.type.element

    def constant(self, number: Any) -> Lanes:
        """Return a constant of this type in all lanes."""
        return constant(self.builder, self.kind, number)

    def _operand(self, other: Any) -> Any:
        return (other if isinstance(other, Lanes) else self.constant(other)).value

    def _apply(self, integer: str, real: str, other: Any) -> Lanes:
        name = real if self.kind == FLOAT else integer
        return Lanes(self.builder, getattr(self.builder, name)(self.value, self._operand(other)))

    def __add__(self, other: Any) -> Lanes:
        return self._apply("add", "fadd", other)

    def __sub__(self, other: Any) -> Lanes:
        return self._apply("sub", "fsub", other)

    def __mul__(self, other: Any) -> Lanes:
        return self._apply("mul", "fmul", other)

    def __and__(self, other: Any) -> Lanes:
        return self._apply("and_", "", other)

    def __or__(self, other: Any) -> Lanes:
        return self._apply("or_", "", other)

    def __xor__(self, other: Any) -> Lanes:
        return self._apply("xor", "", other)

    def __rshift__(self, other: Any) -> Lanes:
        return self._apply("lshr", "", other)

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value))

    def compare(self, sign: str, other: Any) -> Lanes:
        """Return where a comparison holds; integers are compared without sign."""
        call = self.builder.fcmp_ordered if self.kind == FLOAT else self.builder.icmp_unsigned
        return Lanes(self.builder, call(sign, self.value, self._operand(other)))

    def select(self, yes: Lanes, no: Lanes) -> Lanes:
        """Return `yes` where this is true, and `no` elsewhere."""
        return Lanes(self.builder, self.builder.select(self.value, yes.value, no.value))

    def least(self, other: Any) -> Lanes:
        """Return the smaller number of each lane."""
        operand = Lanes(self.builder, self._operand(other))
        return self.compare("<", operand).select(self, operand)

    def most(self, other: Any) -> Lanes:
        """Return the larger number of each lane."""
        operand = Lanes(self.builder, self._operand(other))
        return self.compare(">", operand).select(self, operand)

    def call(self, name: str, *others: Lanes) -> Lanes:
        """Return an intrinsic of LLVM for float32, such as "sqrt" or "rint"."""
        numbers = [self.value, *(other.value for other in others)]
        kind = ir.FunctionType(self.value.type, [self.value.type] * len(numbers))
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.{name}.v{WIDTH}f32"
        )
        return Lanes(self.builder, self.builder.call(function, numbers))

    def fused(self, factor: Lanes, addend: Any) -> Lanes:
        """Return this times a factor plus an addend, rounded once."""
        return self.call("fma", factor, Lanes(self.builder, self._operand(addend)))

    def cast(self, name: str, kind: Any) -> Lanes:
        """Return numbers converted by an instruction such as "sitofp" or "bitcast"."""
        vector = ir.VectorType(kind, WIDTH)
        return Lanes(self.builder, getattr(self.builder, name)(self.value, vector))

    def rounded_down(self) -> Lanes:
        """Return the whole parts of numbers that are not negative, int32."""
        return self.cast("fptosi", WORD)

    def store(self, address: Any) -> None:
        """Store 16 numbers at an address."""
        place = self.builder.inttoptr(address, self.value.type.as_pointer())
        self.builder.store(self.value, place, align=4)

    def gathered(self, table: Any) -> Lanes:
        """Return the 32-bit words of a table, given by its address, at these places."""
        builder, found = self.builder, ir.Constant(self.value.type, ir.Undefined)
        places = self.cast("zext", LONG) * 4 + broadcast(builder, table)
        for lane in range(WIDTH):
            number = ir.Constant(WORD, lane)
            place = builder.extract_element(places.value, number)
            word = builder.load(builder.inttoptr(place, WORD.as_pointer()), align=4)
            found = builder.insert_element(found, word, number)
        return Lanes(builder, found)


def constant(builder: Any, kind: Any, number: Any) -> Lanes:
    """Return a constant in all lanes."""
    return Lanes(builder, ir.Constant(ir.VectorType(kind, WIDTH), [number] * WIDTH))


def broadcast(builder: Any, scalar: Any) -> Lanes:
    """Return a scalar in all lanes."""
    vector = ir.VectorType(scalar.type, WIDTH)
    nothing = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(WORD, 0))
    order = ir.Constant(ir.VectorType(WORD, WIDTH), [0] * WIDTH)
    return Lanes(builder, builder.shuffle_vector(first, nothing, order))


def numbered(builder: Any, kind: Any) -> Lanes:
    """Return 0 to 15."""
    return Lanes(builder, ir.Constant(ir.VectorType(kind, WIDTH), list(range(WIDTH))))


def load(builder: Any, address: Any, kind: Any = FLOAT) -> Lanes:
    """Load 16 numbers from an address."""
    vector = ir.VectorType(kind, WIDTH)
    return Lanes(builder, builder.load(builder.inttoptr(address, vector.as_pointer()), align=4))


class Counter:
    """Counts in all lanes, which a loop adds to."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        zeros = ir.Constant(ir.VectorType(WORD, WIDTH), [0] * WIDTH)
        self._place = cgutils.alloca_once_value(builder, zeros)

    def add(self, where: Lanes) -> None:
        """Count where something is true."""
        total = Lanes(self._builder, self._builder.load(self._place))
        self._builder.store((total + where.cast("zext", WORD)).value, self._place)

    def total(self) -> Any:
        """Return the sum of all lanes, int64."""
        lanes, total = self._builder.load(self._place), ir.Constant(LONG, 0)
        for lane in range(WIDTH):
            count = self._builder.extract_element(lanes, ir.Constant(WORD, lane))
            total = self._builder.add(total, self._builder.zext(count, LONG))
        return total


def over_lanes(arrays: int, scalars: Sequence[Any]) -> Callable[[Callable[..., Any]], Any]:
    """Make a loop over vectors of a function of one step, for numba.

    The function gets the builder, the addresses of 16 numbers of each array, the scalars in all
    lanes, and which lanes are within the count. What it returns is counted, of a pair both. The
    loop takes the addresses of the arrays (uint64), the number of elements (int64) and the scalars,
    and returns the count; of a pair, the second one times 2^32 as well.

    Parameters
    ----------
    arrays : their number; each has elements of 4 bytes
    scalars : their numba types
    """

    def make(step: Callable[..., Any]) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arguments = cgutils.unpack_tuple(builder, arguments[0])
            addresses, count, numbers = (
                arguments[:arrays],
                arguments[arrays],
                [broadcast(builder, number) for number in arguments[arrays + 1 :]],
            )
            counters = Counter(builder), Counter(builder)
            rounds = builder.sdiv(
                builder.add(count, ir.Constant(LONG, WIDTH - 1)), ir.Constant(LONG, WIDTH)
            )
            with cgutils.for_range(builder, rounds) as loop:
                offset = builder.mul(loop.index, ir.Constant(LONG, 4 * WIDTH))
                first = builder.mul(loop.index, ir.Constant(LONG, WIDTH))
                left = broadcast(builder, builder.trunc(builder.sub(count, first), WORD))
                inside = numbered(builder, WORD).compare("<", left)
                places = [builder.add(address, offset) for address in addresses]
                found = step(builder, places, numbers, inside)
                for counter, where in zip(counters, _several(found), strict=False):
                    counter.add(where & inside)
            one, other = (counter.total() for counter in counters)
            return builder.or_(one, builder.shl(other, ir.Constant(LONG, 32)))

        taken = [*[types.uint64] * arrays, types.int64, *scalars]

        @intrinsic
        def loop(context: Any, *arguments: Any) -> Any:
            if list(arguments) != taken:
                raise TypingError(f"{step.__name__} takes {taken}, not {arguments}")
            return types.int64(types.StarArgTuple.from_types(taken)), generate

        return loop

    return make


def _several(found: Any) -> tuple[Lanes, ...]:
    if found is None:
        return ()
    return found if isinstance(found, tuple) else (found,)
