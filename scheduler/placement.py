"""Which products go to light: a policy, or a file of rules, and why.

"paper" follows the published experiment; "projections" keeps the products without a stationary
operand on the host as well. "fastest" and "least-energy" ask what each kind of product costs on a
bench, and leave on the host what is better off there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ..instruments import InputError
from .costs import BenchModel
from .energy.account import SCOPES, energy_of, planned_events
from .energy.constants import Constants, resolve
from .graph import Calls, signature
from .overlap import Overlap
from .placement_rules import PlacementRule, PlacementRules, read_rules
from .program import OpticalMatmul, Program

_HEADS = ("LM head", "classifier")

_FIXED: Mapping[str, Callable[[OpticalMatmul], bool]] = {
    "paper": lambda step: step.kind not in _HEADS,
    "projections": lambda step: step.kind not in _HEADS and not step.dynamic,
    "all-optical": lambda step: True,
    "host": lambda step: False,
}
_COSTS = ("fastest", "least-energy")
POLICIES = (*_FIXED, *_COSTS)
DEFAULT_POLICY = "paper"


@dataclass(frozen=True)
class Placement:
    """What a policy decided for one program.

    Parameters
    ----------
    policy : its name, or the path of a file of rules
    on_light : names of the matmuls that go to light
    decided_by : of each matmul: the policy, the rule where there is one, and for policies that ask
        for costs the seconds (or joules) on light and on the host, over all passes, and why
    """

    policy: str
    on_light: frozenset[str]
    decided_by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)


@dataclass
class _Group:
    """Products that are alike: they go the same way."""

    names: frozenset[str]
    policy: str
    rule: PlacementRule | None
    step: OpticalMatmul
    light: float = 0.0
    host: float = 0.0


def is_fixed(policy: str) -> bool:
    """Say whether a policy is one of those by name that ask for no cost, and read no file."""
    return policy in _FIXED


def rules_of(policy: str) -> PlacementRules:
    """Return a policy as rules: those of a file, or none but what it does with all.

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


def place(
    program: Program,
    policy: str = DEFAULT_POLICY,
    bench: BenchModel | None = None,
    sizes: Calls = (),
    constants: Constants | None = None,
) -> frozenset[str]:
    """Return the names of the matmuls that go to light; see `decide`."""
    return decide(program, policy, bench, sizes, constants).on_light


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
    bench, sizes : of policies that ask for costs: what it would run on, and the sizes of the passes
        with how often each runs
    constants : of energy; None is what the bench's profile says
    whole : the model's program, in which each rule must decide something; None lets rules be idle

    Raises
    ------
    InputError : for an unknown policy, a file of rules that cannot be used, a rule without effect
    ValueError : for a policy that asks for costs, without bench and sizes
    """
    rules = rules_of(policy)
    if whole is not None:
        rules.check(whole.matmuls)
    groups = _groups(program, rules)
    on_light = {
        name
        for group in groups
        if group.policy in _FIXED and _FIXED[group.policy](group.step)
        for name in group.names
    }
    asking = [group for group in groups if group.policy in _COSTS]
    if asking:
        if bench is None or not sizes:
            raise ValueError(f"the placement {policy!r} needs a bench and sizes")
        passes = _telling(sizes)
        for group in asking:
            if group.policy == "least-energy":
                known = resolve(bench.profile) if constants is None else constants
                group.light, group.host = _joules(group.step, passes, bench, known)
                on_light |= group.names if group.light < group.host else frozenset()
        by_time = [group for group in asking if group.policy == "fastest"]
        marks: dict[str, Hashable] = {
            name: (group.policy, group.rule) for group in groups for name in group.names
        }
        on_light |= _fastest(by_time, on_light, Overlap(program, passes, bench, marks))
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


def _telling(passes: Calls) -> Calls:
    """Return few passes for many: of those differ in past tokens only, the one in the middle."""

    def size(item: tuple[Mapping[str, int], int]) -> tuple[int, int]:
        return item[0]["batch"], item[0]["new"]

    runs = [list(alike) for _, alike in groupby(passes, key=size)]
    return [(run[len(run) // 2][0], sum(times for _, times in run)) for run in runs]


# ------------------------------------------------------------------------------------ fastest


def _fastest(groups: Sequence[_Group], others: set[str], overlap: Overlap) -> frozenset[str]:
    """Choose what makes the passes shortest, light and host overlapped.

    It begins with what is faster alone, or with a policy by name where that is faster yet, and
    moves one group at a time, whichever helps most, until nothing helps.
    """
    if not groups:
        return frozenset()
    for group in groups:
        group.light, group.host = overlap.light_s(group.step), overlap.host_s(group.step)
    known: dict[tuple[bool, ...], float] = {}

    def seconds(choice: tuple[bool, ...]) -> float:
        if choice not in known:
            known[choice] = overlap.seconds(_names(groups, choice) | others)
        return known[choice]

    starts = [tuple(group.light < group.host for group in groups)]
    starts += [tuple(rule(group.step) for group in groups) for rule in _FIXED.values()]
    best = min(starts, key=seconds)
    while True:
        moves = [
            tuple(where != (place == index) for place, where in enumerate(best))
            for index in range(len(groups))
        ]
        following = min(moves, key=seconds)
        if seconds(following) >= seconds(best) * (1 - 1e-9):
            return _names(groups, best)
        best = following


def _names(groups: Sequence[_Group], choice: Sequence[bool]) -> frozenset[str]:
    chosen = (group.names for group, on_light in zip(groups, choice, strict=True) if on_light)
    return frozenset().union(*chosen)


# ------------------------------------------------------------------------------- least energy


def _joules(
    step: OpticalMatmul, passes: Calls, bench: BenchModel, constants: Constants
) -> tuple[float, float]:
    """Return what a product takes of the system's energy on light, and on the host.

    The account adds up step by step, so what is least for each is least for all.
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
