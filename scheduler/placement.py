"""The placement of products, on light or on the host: by a policy, or a file of rules.

"paper" follows the published experiment; "projections" keeps the products without a stationary
operand on the host as well. "fastest" and "least-energy" compare the costs of each kind of product
on light and on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

from ..instruments import InputError
from .costs import BenchModel
from .energy.account import SCOPES, energy_of
from .energy.constants import Constants, resolve
from .energy.events import planned_events
from .graph import Calls, signature
from .placement_rules import PlacementRule, PlacementRules, read_rules
from .placement_times import PlacementTimes
from .program import OpticalMatmul, Program

_HEADS = ("LM head", "classifier")
_UNSUMMED = (
    "outer product"  # of length 1, such as the angles of rotary positions: nothing is summed
)

FIXED: Mapping[str, Callable[[OpticalMatmul], bool]] = {  # need neither costs nor a file
    "paper": lambda step: step.kind not in (*_HEADS, _UNSUMMED),
    "projections": lambda step: step.kind not in (*_HEADS, _UNSUMMED) and not step.dynamic,
    "all-optical": lambda step: step.kind != _UNSUMMED,
    "host": lambda step: False,
}
_COSTS = ("fastest", "least-energy")
_MOST_MOVED = 2  # groups that the search moves at the same time
POLICIES = (*FIXED, *_COSTS)
DEFAULT_POLICY = "paper"


@dataclass(frozen=True)
class Placement:
    """The decision of a policy for one program.

    Parameters
    ----------
    policy : its name, or the path of a file of rules
    on_light : names of the matmuls that go to light
    decided_by : of each matmul: the policy, and the rule where there is one; for policies that need
        costs also the reason, and the seconds (or joules) on light and on the host over all passes
    """

    policy: str
    on_light: frozenset[str]
    decided_by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Placement {self.policy}: {len(self.on_light):,} products on light"


@dataclass
class _Group:
    """Products with equal costs, which are placed together."""

    names: frozenset[str]
    policy: str
    rule: PlacementRule | None
    step: OpticalMatmul
    light: float = 0.0
    host: float = 0.0


def rules_of(policy: str) -> PlacementRules:
    """Return a policy as rules: those of a file, or a default for all products.

    Raises
    ------
    InputError : for an unknown policy, or a file that cannot be used
    """
    if policy in POLICIES:
        return PlacementRules((), policy)
    if policy.lower().endswith(".toml"):
        return read_rules(Path(policy), POLICIES, DEFAULT_POLICY)
    raise InputError(
        f"unknown placement {policy!r}; choose from {', '.join(POLICIES)}, or a file of rules "
        "(.toml)"
    )


def decide(
    program: Program,
    policy: str = DEFAULT_POLICY,
    bench: BenchModel | None = None,
    sizes: Calls = (),
    constants: Constants | None = None,
    whole: Program | None = None,
) -> Placement:
    """Decide where each matmul goes.

    Parameters
    ----------
    bench, sizes : for policies that need costs: the bench, and the sizes of the passes with the
        number of runs of each
    constants : of energy; None takes those of the bench's profile
    whole : the model's program, in which each rule must have an effect; None skips this check

    Raises
    ------
    InputError : for an unknown policy, a file of rules that cannot be used, a rule without effect
    ValueError : for a policy that needs costs, without bench and sizes
    """
    rules = rules_of(policy)
    if whole is not None:
        rules.check(whole.matmuls)
    groups = _groups(program, rules)
    on_light = {
        name
        for group in groups
        if group.policy in FIXED and FIXED[group.policy](group.step)
        for name in group.names
    }
    by_cost = [group for group in groups if group.policy in _COSTS]
    if by_cost:
        if bench is None or not sizes:
            raise ValueError(f"the placement {policy!r} needs a bench and sizes")
        passes = _representative(sizes)
        for group in by_cost:
            if group.policy == "least-energy":
                resolved = resolve(bench.profile) if constants is None else constants
                group.light, group.host = _joules(group.step, passes, bench, resolved)
                on_light |= group.names if group.light < group.host else frozenset()
        by_time = [group for group in by_cost if group.policy == "fastest"]
        marks: dict[str, Hashable] = {
            name: (group.policy, group.rule) for group in groups for name in group.names
        }
        on_light |= _fastest(by_time, on_light, PlacementTimes(program, passes, bench, marks))
    placed = frozenset(on_light)
    reasons = {name: _reason(group, name in placed) for group in groups for name in group.names}
    return Placement(policy, placed, reasons)


def _groups(program: Program, rules: PlacementRules) -> list[_Group]:
    found: dict[tuple[Any, ...], list[OpticalMatmul]] = {}
    for step in program.matmuls:
        found.setdefault((*rules.of(step), step.kind, *signature(step, True)), []).append(step)
    return [
        _Group(frozenset(step.name for step in steps), key[0], key[1], steps[0])
        for key, steps in found.items()
    ]


def _representative(passes: Calls) -> Calls:
    """Return fewer passes: of those that differ in past tokens only, the one in the middle."""

    def size(item: tuple[Mapping[str, int], int]) -> tuple[int, int]:
        return item[0]["batch"], item[0]["new"]

    runs = [list(equal) for _, equal in groupby(passes, key=size)]
    return [(run[len(run) // 2][0], sum(times for _, times in run)) for run in runs]


# ------------------------------------------------------------------------------------ fastest


def _fastest(groups: Sequence[_Group], others: set[str], times: PlacementTimes) -> frozenset[str]:
    """Return the products on light that make the passes shortest, with overlap.

    A local search: it begins with the products that are faster alone on light, or with a fixed
    policy where that is faster, and moves one group at a time, the best one, until no move helps.
    Then it tries two at a time: products that feed each other gain only together.
    """
    if not groups:
        return frozenset()
    for group in groups:
        group.light, group.host = times.light_s(group.step), times.host_s(group.step)
    cached: dict[tuple[bool, ...], float] = {}

    def seconds(choice: tuple[bool, ...]) -> float:
        if choice not in cached:
            cached[choice] = times.seconds(_names(groups, choice) | others)
        return cached[choice]

    starts = [tuple(group.light < group.host for group in groups)]
    starts += [tuple(rule(group.step) for group in groups) for rule in FIXED.values()]
    best, moved = min(starts, key=seconds), 1
    while moved <= min(_MOST_MOVED, len(groups)):
        following = min(_moves(best, moved), key=seconds)
        if seconds(following) < seconds(best) * (1 - 1e-9):
            best, moved = following, 1
        else:
            moved += 1
    return _names(groups, best)


def _moves(choice: tuple[bool, ...], count: int) -> Iterator[tuple[bool, ...]]:
    """Yield every choice that differs in the place of so many groups."""
    for moved in combinations(range(len(choice)), count):
        yield tuple(where != (place in moved) for place, where in enumerate(choice))


def _names(groups: Sequence[_Group], choice: Sequence[bool]) -> frozenset[str]:
    chosen = (group.names for group, on_light in zip(groups, choice, strict=True) if on_light)
    return frozenset().union(*chosen)


# ------------------------------------------------------------------------------- least energy


def _joules(
    step: OpticalMatmul, passes: Calls, bench: BenchModel, constants: Constants
) -> tuple[float, float]:
    """Return the system energy of a product on light, and on the host.

    The account is a sum over steps, so the least energy of each step gives the least in total.
    """
    light, host = (
        sum(
            energy_of(part, constants, bench.profile).get(category, 0.0)
            for part in planned_events([(step, optical)], passes, bench)
            for category in SCOPES["system"]
        )
        for optical in (True, False)
    )
    return light, host


def _reason(group: _Group, on_light: bool) -> dict[str, Any]:
    reason: dict[str, Any] = {"policy": group.policy}
    if group.rule is not None:
        reason["rule"] = group.rule.label
    if group.policy not in _COSTS:
        return reason
    unit, better = ("s", "faster") if group.policy == "fastest" else ("j", "less energy")
    reason |= {f"light_{unit}": group.light, f"host_{unit}": group.host}
    is_better = (group.light < group.host) == on_light
    return reason | {"why": better if is_better else "hidden beside what overlaps"}
