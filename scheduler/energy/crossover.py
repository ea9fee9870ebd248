"""At which widths a bench takes less energy than a digital machine, for one layer of GPT-2."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from ...backends import OpticsProfile
from ..costs import BenchModel
from ..placement import DEFAULT_POLICY, place
from ..program import Program
from .account import Account, planned_events
from .constants import Constants

HEAD_WIDTH = 64  # widths are whole numbers of heads
LARGEST = HEAD_WIDTH << 14  # 1,048,576
_STEPS = 5  # of halving between two doublings: 3 %


@dataclass(frozen=True)
class Crossover:
    """The widths between which the bench wins, about.

    Parameters
    ----------
    first : None if it does not win up to `LARGEST`
    last : None if it still wins there
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
    """Account for the layer of a program of one layer: no embedding, no head."""
    calls, bench = [({"batch": batch, "new": sequence, "past": 0}, 1)], BenchModel.of(profile)
    placed = place(program, placement, bench, calls, constants)
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
    """Find the widths at which the bench wins over each baseline: system, and products alone.

    The first run of widths is given, of heads of 64. Machines without a power have none.

    Parameters
    ----------
    program_of : writes the program of a model of one layer, for a width
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

    def wins(units: int, name: str, scope: str) -> bool:
        return (advantages(units)[name][scope] or 0.0) >= 1

    def turn(name: str, scope: str, start: int, wanted: bool) -> int | None:
        """Find the first width from `start` on where it wins (or loses), in units of a head."""
        high = start
        while wins(high, name, scope) != wanted:
            if high * HEAD_WIDTH >= LARGEST:
                return None
            high *= 2
        low = max(high // 2, start)
        for _ in range(_STEPS):
            middle = (low + high) // 2
            if middle in (low, high):
                break
            low, high = (low, middle) if wins(middle, name, scope) == wanted else (middle, high)
        return high

    found = []
    for name in powered:
        for scope in ("system", "compute"):
            first = turn(name, scope, 1, True)
            end = None if first is None else turn(name, scope, first, False)
            found.append(
                Crossover(
                    name,
                    scope,
                    None if first is None else first * HEAD_WIDTH,
                    None if end is None else (end - 1) * HEAD_WIDTH,
                )
            )
    return found
