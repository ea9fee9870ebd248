"""`Slots`: shows levels in the slots of a layout and reads their light, before it is calibrated.

A reading holds the counts of every slot above the dark level, divided by the relative brightness of
the shot, which the markers measure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ...instruments import BadFit, Saturated, StaleFrame, UnexpectedIntensity
from ..optics.layouts.base import Layout
from ..optics.parameters import Markers
from .exposure_search import find_exposure
from .probe import Probe

_MARKER_SHOTS = 12  # of each number to calibrate markers; their error enters all gains
_CONTRAST = 0.1  # least contrast of marker cells
_CHANGED = 0.2  # relative change of the light of equal frames from which a shot is repeated
_REFERENCE_EVERY = 8  # readings between references on a bench without markers
_REFERENCES = 4  # that are averaged
_SOURCE_SHOTS = 32  # that measure the noise of the source
_SIGMA, _LEAST_CHANGE = 6.0, 0.02  # change of a reference from which it is repeated


@dataclass(frozen=True)
class SlotReading:
    """Light of all slots per second, at the brightness at which markers were calibrated.

    Parameters
    ----------
    rate : counts above the dark level per second, float64 [slots]
    variance : of the rate, float64 [slots]
    """

    rate: np.ndarray
    variance: np.ndarray


class Slots:
    """Shows levels in slots and reads their light.

    Parameters
    ----------
    probe : of the bench
    layout : with a detector gain of 1 and no dark level, so that its electrons are counts
    dark : returns the counts [h, w] of the detector without light at an exposure
    noise_counts, gain : of one pixel, for variances; gain in electrons per count

    Attributes
    ----------
    markers : calibrated, in counts per second; None until then, and on a bench without markers
    reference_scale : brightness over that at the start, from references, without markers
    scales : (shot number, brightness over that of the marker calibration, its variance) of readings
    """

    def __init__(
        self,
        probe: Probe,
        layout: Layout,
        dark: Callable[[float], np.ndarray],
        noise_counts: float,
        gain: float,
    ) -> None:
        self.probe, self.layout, self.dark = probe, layout, cache(dark)
        self.noise_counts, self.gain = noise_counts, gain
        self._number = {"input": 0, "weight": 0}
        self._shown: dict[str, np.ndarray] = {}
        self.markers: Markers | None = None
        self._reference_exposure_s = self._reference_rate = self.reference_scale = 1.0
        self._source_variance = 0.0  # of the source from shot to shot, without markers
        self._latest: deque[float] = deque(maxlen=_REFERENCES)
        self._until_reference = 0
        self.scales: list[tuple[int, float, float]] = []

    # --- patterns --------------------------------------------------------------------------------

    def pattern(self, role: str, lit: np.ndarray | bool, level: int | None = None) -> np.ndarray:
        """Return grey levels of a pattern: lit elements at a level, the others at the darkest one.

        Parameters
        ----------
        lit : bool, broadcastable to [slots, length]
        level : of lit elements; None is the brightest
        """
        layout = self.layout
        lit = np.broadcast_to(np.asarray(lit), (layout.slots, layout.length))
        chosen = layout.brightest[role] if level is None else level
        kind = np.uint8 if len(layout.optics.tables[role]) <= 256 else np.uint16
        return np.where(lit[: layout.rows_of(role)], chosen, layout.darkest[role]).astype(kind)

    def _show_both(
        self, inputs: np.ndarray, weights: np.ndarray, number: int | None = None
    ) -> None:
        """Show grey levels of slots, unless they are shown already and no number is given."""
        for role, levels in (("weight", weights), ("input", inputs)):
            before = self._shown.get(role)
            if number is None and before is not None and np.array_equal(before, levels):
                continue
            self._number[role] = self._number[role] + 1 if number is None else number
            self._shown[role] = levels
            self.probe.show(role, self.layout.frame(role, levels, self._number[role]))

    # --- light -----------------------------------------------------------------------------------

    def read(
        self, inputs: np.ndarray, weights: np.ndarray, exposure_s: float, count: int = 1
    ) -> SlotReading:
        """Show two patterns and return the mean light of some shots; bad shots are repeated.

        Raises
        ------
        Saturated : when a pixel is full
        UnexpectedIntensity, StaleFrame : when all repeats fail
        """
        readings = [self._read(inputs, weights, exposure_s) for _ in range(count)]
        rates = np.stack([reading.rate for reading in readings])
        variance = np.mean([reading.variance for reading in readings], axis=0) / count
        return SlotReading(rates.mean(axis=0), variance)

    def _read(self, inputs: np.ndarray, weights: np.ndarray, exposure_s: float) -> SlotReading:
        limit = self.probe.bench.file.limits.retries
        for attempt in range(limit + 1):
            if not self.layout.has_markers:
                self._update_reference()
            self._show_both(inputs, weights)
            try:
                if not self.layout.has_markers:
                    one, other = self.probe.pair(exposure_s)
                    return self._reading_of((one + other) / 2, inputs, exposure_s, 2)
                return self._reading_of(self.probe.raw(exposure_s), inputs, exposure_s)
            except (UnexpectedIntensity, StaleFrame) as error:
                reason = type(error).__name__
                self.probe.count_fault(reason)
                if attempt == limit:
                    raise type(error)(
                        f"{limit + 1} shots failed, the last time: {error}"
                    ) from error
                self._shown.clear()
                self.probe.forget_frames()
        raise AssertionError("unreachable")

    def read_once(self, inputs: np.ndarray, weights: np.ndarray, exposure_s: float) -> SlotReading:
        """Return the reading of one shot, without repeats."""
        self._show_both(inputs, weights)
        return self._reading_of(self.probe.raw(exposure_s), inputs, exposure_s)

    def _reading_of(
        self, raw: np.ndarray, inputs: np.ndarray, exposure_s: float, shots: int = 1
    ) -> SlotReading:
        taken = raw - self.dark(exposure_s)
        self._refuse_full(raw)
        scale = self.reference_scale
        scale_variance = self._source_variance * (1 + shots / _REFERENCES)
        if self.layout.has_markers:
            scale, scale_variance = self._read_markers(taken, inputs, exposure_s)
        counts = self.layout.electrons(taken)
        pixels = self.layout.read_pixels()
        variance = np.maximum(counts, 0) / self.gain + pixels * self.noise_counts**2
        variance = (variance + scale_variance * counts**2) / (scale * exposure_s) ** 2 / shots
        # E(1 / measured scale) = (1 + its relative variance) / scale
        unbiased = 1 - scale_variance / scale**2 if self.layout.has_markers else 1.0
        return SlotReading(unbiased * counts / (scale * exposure_s), variance)

    def _read_markers(
        self, taken: np.ndarray, inputs: np.ndarray, exposure_s: float
    ) -> tuple[float, float]:
        bright = inputs == self.layout.brightest["input"]
        lit: float | None = float(bright.mean())
        if not (bright | (inputs == self.layout.darkest["input"])).all():
            lit = None  # the intensity of other levels is not known yet
        expected = None if self.markers is None else self.markers.times(exposure_s)
        marks = self.layout.marks(self.layout.read(taken), lit, expected)
        for role, number in marks.numbers.items():
            if number != self.layout.frame_id(self._number[role]):
                raise StaleFrame(
                    f"the exposure shows {role} frame {number}, not {self._number[role]}: the "
                    f"{role} modulator does not show its frames (a frozen window, a loose cable), "
                    "or the detector returns old exposures"
                )
        if marks.scale is None:
            return 1.0, 0.0
        variance = marks.scale_variance
        self.scales.append((self.probe.bench.shots, marks.scale, variance))
        return marks.scale, variance

    def _refuse_full(self, raw: np.ndarray) -> None:
        bad, top = self.layout.optics.bad, raw.max()
        if top >= self.probe.range and bad is not None:
            top = raw[~bad].max()
        if top >= self.probe.range:
            raise Saturated(
                "the detector is full at an exposure that was chosen for half of its range: let "
                "the source settle, or lower the power"
            )

    def find_exposure(
        self, inputs: np.ndarray, weights: np.ndarray, may_be_dark: bool = False
    ) -> float:
        """Find the exposure at which the brightest pixels of two patterns are half full.

        Parameters
        ----------
        may_be_dark : whether the patterns may pass almost no light
        """
        self._show_both(inputs, weights)
        return find_exposure(self.probe, may_be_dark=may_be_dark)

    # --- brightness ------------------------------------------------------------------------------

    def calibrate_markers(self) -> None:
        """Measure every marker cell bright and dark; later readings are relative to this light.

        The numbers of all zeros and of all ones light each cell once. The light of the slots, whose
        pattern stays the same, measures the brightness of the source in each shot. A second pass
        with dark elements measures the stray light of the cells.
        """
        layout = self.layout
        if not layout.has_markers:
            self._calibrate_reference()
            return
        inputs, weights = self.pattern("input", True), self.pattern("weight", sparse(layout))
        exposure_s = self.find_exposure(inputs, weights)
        lit = self._cells(inputs, weights, exposure_s, True)
        unlit = self._cells(self.pattern("input", False), weights, exposure_s, False)
        marker_e, leak_e, dark_e = {}, {}, {}
        for role, (bright, dark) in lit.items():
            dark_e[role] = unlit[role][1]
            leak_e[role] = dark - dark_e[role]
            marker_e[role] = bright - dark
            if np.median(marker_e[role]) < _CONTRAST * np.median(bright):
                raise BadFit(
                    f"the marker of the {role} frame does not change with its number: the {role} "
                    "modulator does not show its frames (a frozen window, a loose cable), or the "
                    "bench moved since it was aligned"
                )
            if (marker_e[role] < 0.2 * np.median(marker_e[role])).any():
                dim = int(np.argmin(marker_e[role]))
                raise BadFit(
                    f"cell {dim} of the {role} frame's marker has {marker_e[role][dim]:.3g} "
                    f"counts, the others {np.median(marker_e[role]):.3g}: check for a dead row, "
                    "dirt on a modulator, or an object in the beam"
                )
        self.markers = Markers(marker_e, leak_e, dark_e)
        self._shown.clear()

    def _cells(
        self, inputs: np.ndarray, weights: np.ndarray, exposure_s: float, are_lit: bool
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the light of marker cells when bright and when dark, in counts per second."""
        layout, limit = self.layout, self.probe.bench.file.limits.retries
        ones = (1 << layout.marker_bits) - 1
        wanted = [0, ones] * _MARKER_SHOTS
        numbers: list[int] = []
        totals: list[tuple[float, float]] = []  # of slots, and with the cells
        cells: dict[str, list[np.ndarray]] = {"input": [], "weight": []}
        for _ in range(limit + 1):
            for number in wanted:
                self._show_both(inputs, weights, number)
                taken = self.probe.raw(exposure_s) - self.dark(exposure_s)
                marker_light = layout.marker_electrons(taken)
                slots = layout.electrons(taken)
                numbers.append(number)
                own = float(slots.sum())
                of_cells = float(sum(light.sum() for light in marker_light.values()))
                totals.append((own, own + of_cells))
                for role, light in marker_light.items():
                    cells[role].append(light)
            scale = brightness(np.array(numbers), np.array(totals), are_lit)
            kept = (np.abs(scale - 1) < _CHANGED) & _agree_with_median(numbers, cells, scale)
            counts = {n: int((kept & (np.array(numbers) == n)).sum()) for n in (0, ones)}
            wanted = [n for n in (0, ones) for _ in range(_MARKER_SHOTS - counts[n])]
            if not wanted:
                break
            self.probe.count_fault("UnexpectedIntensity", len(wanted))
        else:
            raise BadFit(
                f"the light of equal frames varies by {np.abs(scale - 1).max():.0%} from shot to "
                "shot: check that nothing moves in the beam, and the source"
            )
        result = {}
        for role, seen in cells.items():
            light = np.stack(seen) / scale[:, None] / exposure_s
            by_number = [light[kept & (np.array(numbers) == n)].mean(axis=0) for n in (0, ones)]
            # bits alternate with their complements: number 0 lights the second cell of each pair
            is_first = np.arange(light.shape[1]) % 2 == 0
            result[role] = (
                np.where(is_first, by_number[1], by_number[0]),
                np.where(is_first, by_number[0], by_number[1]),
            )
        return result

    def _calibrate_reference(self) -> None:
        bright = self.pattern("input", True), self.pattern("weight", True)
        self._reference_exposure_s = self.find_exposure(*bright)
        rates = np.array([self._reference_light() for _ in range(_SOURCE_SHOTS)])
        self._reference_rate = float(np.median(rates))
        rates = rates[np.abs(rates / self._reference_rate - 1) < _CHANGED]
        if len(rates) < 0.8 * _SOURCE_SHOTS:
            raise BadFit(
                "the light of equal frames varies from shot to shot: check that nothing moves in "
                "the beam, and the source"
            )
        self._source_variance = float((np.diff(rates / self._reference_rate) ** 2).mean() / 2)
        self._latest.extend(rates[-_REFERENCES:] / self._reference_rate)

    def _reference_light(self) -> float:
        self._show_both(self.pattern("input", True), self.pattern("weight", True))
        exposure_s = self._reference_exposure_s
        taken = self.probe.raw(exposure_s) - self.dark(exposure_s)
        return float(self.layout.electrons(taken)[0]) / exposure_s

    def _update_reference(self) -> None:
        """Update the brightness from a reference every few readings, on a bench without markers."""
        if self._until_reference == 0:
            self._latest.append(self._confirmed_reference())
            self.reference_scale = float(np.mean(self._latest))
            self.scales.append((self.probe.bench.shots, self._latest[-1], self._source_variance))
            self._until_reference = _REFERENCE_EVERY
        self._until_reference -= 1

    def _confirmed_reference(self) -> float:
        """Return the brightness of the source, confirmed by a repeat if it changed."""
        limit = self.probe.bench.file.limits.retries
        most = max(_SIGMA * (2 * self._source_variance) ** 0.5, _LEAST_CHANGE)
        before = float(np.mean(self._latest))
        seen: list[float] = []
        for _ in range(limit + 2):
            now = self._reference_light() / self._reference_rate
            if any(abs(now - other) < most for other in (before, *seen)):
                return now
            seen.append(now)
            self.probe.count_fault("UnexpectedIntensity")
        raise UnexpectedIntensity(
            f"the light of equal frames is {min(seen):.2f} to {max(seen):.2f} times that at the "
            "start: check the source, and that nothing moves in the beam"
        )


def brightness(numbers: np.ndarray, totals: np.ndarray, are_lit: bool) -> np.ndarray:
    """Return the brightness of the source in each shot over its mean.

    Within the shots of one number, all light measures it. Between numbers, only the slots do: each
    number lights other cells, and their difference is unknown.

    Parameters
    ----------
    numbers : that markers showed, [n]
    totals : light of the slots, and of slots and cells, [n, 2]
    are_lit : whether the slots are lit; without them, numbers are not compared
    """
    own = totals[:, 0] / max(float(np.median(totals[:, 0])), 1e-30)
    scale = np.empty(len(numbers))
    for number in np.unique(numbers):
        of = numbers == number
        everything = totals[of, 1]
        scale[of] = everything / np.median(everything)
        if are_lit:
            scale[of] *= np.median(own[of])
    return scale


def _agree_with_median(
    numbers: list[int], cells: dict[str, list[np.ndarray]], scale: np.ndarray
) -> np.ndarray:
    """Return which shots agree with the median of their number: bool [n]."""
    agree = np.ones(len(numbers), dtype=bool)
    for seen in cells.values():
        light = np.stack(seen) / scale[:, None]
        for number in set(numbers):
            of = np.array(numbers) == number
            middle = np.median(light[of], axis=0)
            off = np.sqrt(np.mean((light[of] - middle) ** 2, axis=1))
            agree[of] &= off < _CHANGED * np.abs(middle).max()
    return agree


def sparse(layout: Layout) -> np.ndarray:
    """Choose elements that light a slot about as brightly as a marker cell: bool [slots, length].

    Long rows would fill the detector before markers are bright enough, so only a few elements are
    lit: different ones in each slot, so that all slots together cover the modulator.
    """
    if not layout.shares_input:
        return np.ones((layout.slots, layout.length), dtype=bool)
    count = max(2, layout.length // 128)
    lit = np.zeros((layout.slots, layout.length), dtype=bool)
    first = (np.arange(layout.slots) * 0.6180339887 % 1 * layout.length).astype(int)
    for step in range(count):
        lit[np.arange(layout.slots), (first + step * layout.length // count) % layout.length] = True
    return lit
