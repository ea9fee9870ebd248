"""The account of energy and time: counted events times constants, compared with digital machines.

Constants (`constants`) convert events (`events`) into joules. There are always three figures: the
system, the optical products alone ("compute"), the light alone; docs/explanation/energy.md defines
each. Time is that of `costs`, one step after another.

The formula is that of the published accounts, with the terms that they leave out:
E = inputs (memory + DAC + modulator) + outputs (light + amplifier + ADC + memory)
    + weights (memory + DAC + modulator) / reuse + hold power x time + host + idle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...backends import OpticsProfile
from ...instruments.formatting import format_quantity
from ...instruments.text import short_lines
from .constants import KINDS, Baseline, Constant, Constants
from .events import DigitalWork, Events, PartEvents

INFLUENTIAL = 8  # constants whose sensitivity a document lists
PLANCK_LIGHT = 6.62607015e-34 * 299_792_458.0  # J m: energy of a photon times its wavelength

LIGHT = ("light",)
COMPUTE = (
    *LIGHT,
    "modulators",
    "DAC",
    "detector",
    "amplifier",
    "ADC",
    "memory",
    "weight loading",
)
CATEGORIES = (*COMPUTE, "hold power", "host arithmetic", "host memory", "idle")
SCOPES: Mapping[str, tuple[str, ...]] = {
    "system": CATEGORIES,
    "compute": COMPUTE,
    "light": LIGHT,
}


# ------------------------------------------------------------------------- joules and seconds


def energy_of(part: PartEvents, constants: Constants, profile: OpticsProfile) -> dict[str, float]:
    """Return the joules of a part, by category."""
    events, c = part.events, constants
    if part.where != "optical":
        moved = events.host_values * c["host_value_bytes"] * c["host_byte_j"]
        arithmetic = events.host_operations * c["host_operation_j"]
        powered = c["hold_power_w"] + c["detector_power_w"]
        return {
            "host arithmetic": arithmetic + events.host_macs * c["host_mac_j"],
            "host memory": moved,
            "idle": powered * events.host_s,
        }
    sample_j = c["dac_j"] + c["modulator_j"]
    weight_j = c.get("weight_access_j") or c["memory_access_j"]
    loading = events.weight_samples * sample_j + events.weight_values * weight_j
    seconds = events.light_s + events.convert_s
    operations = (
        events.input_samples * c["encode_operations"] + events.conversions * c["decode_operations"]
    )
    shown_j = events.input_samples * c["modulator_j"]
    return {
        "light": light_of(events, constants, profile),
        "modulators": shown_j + events.macs * (c.get("optical_mac_j") or 0.0),
        "DAC": events.input_samples * c["dac_j"],
        "detector": c["detector_power_w"] * seconds,
        "amplifier": events.conversions * c["amplifier_j"],
        "ADC": events.conversions * c["adc_j"],
        "memory": (events.input_values + events.output_values) * c["memory_access_j"],
        "weight loading": loading / (1 if part.is_dynamic else c["weight_reuse"]),
        "hold power": c["hold_power_w"] * seconds,
        "host arithmetic": operations * c["host_operation_j"],
        "idle": c["host_idle_power_w"] * seconds,
    }


def light_of(events: Events, constants: Constants, profile: OpticsProfile) -> float:
    """Return the joules of light, as electrical energy of the source.

    The source illuminates every element pair fully, and modulators absorb the light that they do
    not pass. Where the profile fixes the light of a full pair, or the light that enters the
    weights, that is counted. Where it fixes the detected light, it is divided by
    `pair_transmission`.
    """
    c = constants
    chosen = c.get("photons_per_output")
    if chosen is not None and not c.values["photons_per_output"].is_assumed:
        sent = chosen * events.sums / c["pair_transmission"]
    elif profile.photons_full_scale is not None:
        sent = profile.photons_full_scale * events.pairs
    elif profile.photons_entering_per_mac is not None:
        sent = profile.photons_entering_per_mac * events.macs * profile.rails
    elif events.photons is not None:
        sent = events.photons / c["pair_transmission"]
    else:
        sent = c["photons_per_output"] * events.sums / c["pair_transmission"]
    loss = c["quantum_efficiency"] * c["optical_throughput"] * c["source_efficiency"]
    return sent * PLANCK_LIGHT / c["wavelength_m"] / loss


@dataclass(frozen=True)
class PartEnergy:
    """One row of the account: the events of a part, and its joules by category."""

    part: PartEvents
    joules: Mapping[str, float]

    def total(self, scope: str = "system") -> float:
        """Return the joules within a scope."""
        return sum(self.joules.get(category, 0.0) for category in SCOPES[scope])


@dataclass(frozen=True)
class DigitalEnergy:
    """Energy and time of a baseline for the same passes.

    Parameters
    ----------
    system : joules of all steps; None where its power is unknown
    compute : joules of the products that the bench runs on light
    seconds : of all steps; None for a baseline without rates
    """

    baseline: Baseline
    system: float | None
    compute: float | None
    seconds: float | None


@dataclass(eq=False)
class Account:
    """Energy and time of some passes on one bench, with all events and constants.

    Parameters
    ----------
    tokens : number of tokens that the passes process, for figures per token
    unit : "token" or "image"
    """

    parts: Sequence[PartEvents]
    constants: Constants
    profile: OpticsProfile
    tokens: int
    unit: str = "token"

    @cached_property
    def events(self) -> Events:
        """The events of all parts."""
        return _sum_of_events(self.parts)

    @cached_property
    def _merged(self) -> list[PartEvents]:
        """The parts; those with the same formula are one, since joules are linear in events."""
        same: dict[tuple[str, bool, bool], list[PartEvents]] = {}
        for part in self.parts:
            key = (part.where, part.is_dynamic, part.events.host_macs > 0)
            same.setdefault(key, []).append(part)
        return [
            PartEvents("", "", where, is_dynamic, events=_sum_of_events(parts))
            for (where, is_dynamic, _), parts in same.items()
        ]

    def __repr__(self) -> str:
        each = {scope: format_quantity(self.total(scope) / self.tokens, "J") for scope in SCOPES}
        return short_lines(
            f"Energy account on the bench profile {self.profile.name}, for {self.tokens:,} "
            f"{self.unit}s",
            f"  for each {self.unit}: "
            + ", ".join(f"{joules} ({scope})" for scope, joules in each.items()),
        )

    def rows(self) -> list[PartEnergy]:
        """Return the account step by step, layers together."""
        return [
            PartEnergy(part, energy_of(part, self.constants, self.profile)) for part in self.parts
        ]

    def joules(self, constants: Constants | None = None) -> dict[str, float]:
        """Return the joules of each category, over all steps."""
        total = dict.fromkeys(CATEGORIES, 0.0)
        for part in self._merged:
            for category, value in energy_of(
                part, constants or self.constants, self.profile
            ).items():
                total[category] += value
        return total

    def total(self, scope: str = "system", constants: Constants | None = None) -> float:
        """Return the joules within "system", "compute" or "light"."""
        joules = self.joules(constants)
        return sum(joules[category] for category in SCOPES[scope])

    @property
    def seconds(self) -> float:
        """Seconds of all steps, one after another."""
        return self.events.seconds

    # ---------------------------------------------------------------------- digital baselines

    def digital(self) -> list[DigitalEnergy]:
        """Return energy and time of each baseline for the same passes."""
        return [self._digital(baseline) for baseline in self.constants.baselines.values()]

    def _digital(self, baseline: Baseline) -> DigitalEnergy:
        optical = [part for part in self.parts if part.where == "optical"]
        if baseline.is_roofline:
            seconds, on_light = (
                sum(_roofline_seconds(baseline, part.workload) for part in parts)
                for parts in (self.parts, optical)
            )
            power = baseline.value("power_w") if "power_w" in baseline.constants else None
            joules = None if power is None else power * seconds
            compute = None if power is None else power * on_light
            return DigitalEnergy(baseline, joules, compute, seconds)
        products, on_light = (
            sum(_product_joules(baseline, part.workload) for part in parts)
            for parts in (self.parts, optical)
        )
        return DigitalEnergy(baseline, products + self._host_steps(self.constants), on_light, None)

    def _host_steps(self, constants: Constants) -> float:
        """Return the joules of host steps, the same for a digital multiplier as for light."""
        total = 0.0
        for part in self._merged:
            if part.where != "optical" and not part.events.host_macs:
                joules = energy_of(part, constants, self.profile)
                total += joules["host arithmetic"] + joules["host memory"]
        return total

    def advantages(self) -> dict[str, dict[str, float | None]]:
        """Return baseline -> scope -> digital energy over the bench's; above 1 the bench wins.

        The light and the optical products are compared with the same products done digitally.
        """
        totals = {scope: self.total(scope) for scope in SCOPES}
        return {
            item.baseline.name: {
                scope: _ratio(item.system if scope == "system" else item.compute, totals[scope])
                for scope in SCOPES
            }
            for item in self.digital()
        }

    # ---------------------------------------------------------------------- sensitivity

    def powers(self) -> dict[str, float]:
        """Return d ln(energy of the system) / d ln(constant) for each constant; 0 if no effect."""
        powers = {}
        for name in self.constants.values:
            more, less = (self.total(constants=self.constants.times(name, f)) for f in (1.01, 0.99))
            powers[name] = math.log(more / less) / math.log(1.01 / 0.99) if less > 0 else 0.0
        return powers

    def sensitivity(self, count: int | None = None) -> list[Sensitivity]:
        """Return the influence of each constant on the system's energy, the largest first.

        Parameters
        ----------
        count : number of constants; None gives all that have an influence
        """
        goals = {item.baseline.name: item for item in self.digital() if item.system is not None}
        powers = self.powers()
        names = sorted(powers, key=lambda name: -abs(powers[name]))
        found = []
        for name in [name for name in names if abs(powers[name]) > 1e-9][:count]:
            constant = self.constants.values[name]
            factors = {label: self._break_even(name, goal) for label, goal in goals.items()}
            item = Sensitivity(name, constant.value, constant.unit, powers[name], factors)
            found.append(item)
        return found

    def _break_even(self, name: str, goal: DigitalEnergy) -> float | None:
        """Return the factor on a constant at which the energies are equal; None without one."""
        assert goal.system is not None
        here = self._host_steps(self.constants)

        def over(exponent: float) -> float:
            changed = self.constants.times(name, 10.0**exponent)
            digital = goal.system or 0.0
            if not goal.baseline.is_roofline:
                digital += self._host_steps(changed) - here
            return self.total(constants=changed) - digital

        low, high = -9.0, 9.0
        if name in _FRACTIONS:
            high = -math.log10(self.constants[name])
        if over(low) * over(high) > 0:
            return None
        rising = over(high) > 0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if (over(middle) > 0) == rising else (middle, high)
        return float(10.0 ** ((low + high) / 2))

    def converters(self, tokens_per_s: float) -> list[ConverterNeed]:
        """Return the converters that a throughput needs: number, rate and power."""
        c, events = self.constants, self.events
        weights = sum(
            part.events.weight_samples / (1 if part.is_dynamic else c["weight_reuse"])
            for part in self.parts
        )
        needs = []
        for name, samples, joule, rate in (
            ("DAC", events.input_samples + weights, "dac_j", "dac_rate_hz"),
            ("ADC", float(events.conversions), "adc_j", "adc_rate_hz"),
        ):
            per_second = samples / self.tokens * tokens_per_s
            count = math.ceil(per_second / c[rate] - 1e-9)
            needs.append(ConverterNeed(name, per_second, count, c[rate], per_second * c[joule]))
        return needs

    def benches(self, tokens_per_s: float) -> float:
        """Return the number of such benches that a throughput needs, without overlap of steps."""
        return self.seconds / self.tokens * tokens_per_s


def _sum_of_events(parts: Iterable[PartEvents]) -> Events:
    total = Events()
    for part in parts:
        total.add(part.events)
    return total


_FRACTIONS = (
    "quantum_efficiency",
    "optical_throughput",
    "source_efficiency",
    "pair_transmission",
)


@dataclass(frozen=True)
class Sensitivity:
    """The influence of one constant on the comparison with digital machines.

    Parameters
    ----------
    power : d ln(energy) / d ln(constant): with 0.5, 10 % more costs 5 % more
    factors : baseline -> factor on this constant alone that breaks even; None where no value does
    """

    name: str
    value: float
    unit: str
    power: float
    factors: Mapping[str, float | None]


@dataclass(frozen=True)
class ConverterNeed:
    """Converters of one kind: samples per second, number, rate and power."""

    kind: str
    samples_per_s: float
    count: int
    rate_hz: float
    power_w: float


def _ratio(digital: float | None, optical: float) -> float | None:
    return None if digital is None or optical <= 0 else digital / optical


def _product_joules(baseline: Baseline, workload: Sequence[DigitalWork]) -> float:
    """Return the joules of products, from the energy of a MAC and of an access."""
    mac_j, access_j, weight_j = map(baseline.value, ("mac_j", "access_j", "weight_access_j"))
    return sum(
        item.times
        * (item.macs * mac_j + item.product_values * access_j + item.weight_values * weight_j)
        for item in workload
    )


def _roofline_seconds(baseline: Baseline, workload: Sequence[DigitalWork]) -> float:
    """Return the seconds of calls: arithmetic or memory, whichever takes longer."""
    macs, others, moved, operand, value = (
        baseline.value(name)
        for name in (
            "macs_per_s",
            "operations_per_s",
            "bytes_per_s",
            "operand_bytes",
            "value_bytes",
        )
    )
    return sum(
        item.times
        * max(
            item.macs / macs + item.operations / others,
            ((item.product_values + item.weight_values) * operand + item.values * value) / moved,
        )
        for item in workload
    )


# ------------------------------------------------------------------------- the document


def account_document(account: Account, tokens_per_s: float | None = None) -> dict[str, Any]:
    """Return an account as a JSON document, with totals and values per token.

    Parameters
    ----------
    tokens_per_s : throughput for the number of converters; None takes that of the bench, one step
        after another
    """
    tokens = account.tokens
    reached = tokens / account.seconds if account.seconds else None
    wanted = reached if tokens_per_s is None else tokens_per_s
    powers = account.powers()
    document: dict[str, Any] = {
        "profile": account.profile.name,
        "constant_sets": list(account.constants.names),
        "unit": account.unit,
        "tokens": tokens,
        "joules": {scope: account.total(scope) for scope in SCOPES},
        "joules_per_token": {scope: account.total(scope) / tokens for scope in SCOPES},
        "femtojoules_per_mac": {
            scope: 1e15 * account.total(scope) / max(account.events.macs, 1) for scope in SCOPES
        },
        "categories": account.joules(),
        "seconds": {
            "all": account.seconds,
            "light": account.events.light_s,
            "converters": account.events.convert_s,
            "host": account.events.host_s,
        },
        "steps": [_step(row) for row in account.rows()],
        "events": {key: value for key, value in vars(account.events).items() if value is not None},
        "baselines": [_baseline(item) for item in account.digital()],
        "advantages": account.advantages(),
        "sensitivity": [vars(item) for item in account.sensitivity(INFLUENTIAL)],
        "tokens_per_s": {"one_bench": reached, "wanted": tokens_per_s},
        "constants": {
            name: {**_constant(item), "influence": powers[name]}
            for name, item in account.constants.values.items()
        },
        "assumed": [item.name for item in account.constants.assumed],
    }
    if wanted:
        document["converters"] = [vars(need) for need in account.converters(wanted)]
        document["benches"] = account.benches(wanted)
    return document


def _step(row: PartEnergy) -> dict[str, Any]:
    part = row.part
    return {
        "step": part.name,
        "kind": part.kind,
        "where": part.where,
        "count": part.steps,
        "macs": part.events.macs,
        "joules": {key: value for key, value in row.joules.items() if value},
        "seconds": part.events.seconds,
    }


def _baseline(item: DigitalEnergy) -> dict[str, Any]:
    return {
        "name": item.baseline.name,
        "title": item.baseline.title,
        "joules": item.system,
        "joules_of_products_on_light": item.compute,
        "seconds": item.seconds,
    }


def _constant(constant: Constant) -> Mapping[str, Any]:
    return {
        "value": constant.value,
        "unit": constant.unit,
        "meaning": KINDS[constant.name].meaning,
        "source": constant.source,
        "year": constant.year,
        "recalled": constant.recalled,
        "origin": constant.origin,
    }
