"""`crossovers`: widths at which a bench takes less energy than a digital machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

from ...backends import OpticsProfile
from ..costs import BenchModel
from ..placement import DEFAULT_POLICY, decide
from ..program import Program
from .account import Account
from .constants import Constants
from .events import planned_events

HEAD_WIDTH = 64  # widths are multiples of it
MAX_WIDTH = HEAD_WIDTH << 14  # 1,048,576
_STEPS = 5  # of bisection within a factor of two: 3 %


@dataclass(frozen=True)
class Crossover:
    """The widths between which the bench takes less energy, approximately.

    Parameters
    ----------
    first : None if it takes more up to `MAX_WIDTH`
    last : None if it still takes less there
    """

    baseline: str
    scope: str
    first: int | None
    last: int | None


def layer_account(
    program: Program,
    profile: OpticsProfile,
    constants: Constants,
    batch: int,
    sequence: int,
    placement: str = DEFAULT_POLICY,
) -> Account:
    """Return the account of the layer in a program of one layer, without embedding and head."""
    calls, bench = [({"batch": batch, "new": sequence, "past": 0}, 1)], BenchModel.of(profile)
    placed = decide(program, placement, bench, calls, constants).on_light
    steps = [(s, s.name in placed) for s in program.steps if s.name.startswith("layer.")]
    parts = planned_events(steps, calls, bench)
    return Account(parts, constants, profile, batch * sequence)


def crossovers(
    program_of: Callable[[int], Program],
    profile: OpticsProfile,
    constants: Constants,
    batch: int,
    sequence: int,
    placement: str = DEFAULT_POLICY,
) -> list[Crossover]:
    """Return the widths at which the bench takes less energy than each baseline.

    For the whole system, and for the products alone; the first range of widths, in heads of 64.
    Baselines without a power are left out.

    Parameters
    ----------
    program_of : returns the program of a model of one layer, for a width
    """
    powered = {
        name: item
        for name, item in constants.baselines.items()
        if "mac_j" in item.constants or "power_w" in item.constants
    }
    constants = replace(constants, baselines=powered)

    @cache
    def advantages(units: int) -> dict[str, dict[str, float | None]]:
        width = units * HEAD_WIDTH
        program = program_of(width)
        account = layer_account(program, profile, constants, batch, sequence, placement)
        return account.advantages()

    def wins(name: str, scope: str, units: int) -> bool:
        return (advantages(units)[name][scope] or 0.0) >= 1

    return [
        _crossover(name, scope, partial(wins, name, scope))
        for name in powered
        for scope in ("system", "compute")
    ]


def _crossover(name: str, scope: str, wins: Callable[[int], bool]) -> Crossover:
    first = _first_units(wins, 1, True)
    end = None if first is None else _first_units(wins, first, False)
    return Crossover(
        name,
        scope,
        None if first is None else first * HEAD_WIDTH,
        None if end is None else (end - 1) * HEAD_WIDTH,
    )


def _first_units(wins: Callable[[int], bool], start: int, wanted: bool) -> int | None:
    """Return the first width from `start` on that wins (or does not), in units of a head."""
    high = start
    while wins(high) != wanted:
        if high * HEAD_WIDTH >= MAX_WIDTH:
            return None
        high *= 2
    low = max(high // 2, start)
    for _ in range(_STEPS):
        middle = (low + high) // 2
        if middle in (low, high):
            break
        low, high = (low, middle) if wins(middle) == wanted else (middle, high)
    return high
