"""`Bench`: the instruments of a bench file, by role; closing it makes the bench safe.

See `backend` for products, `optics.layouts` for the arrangement of numbers on modulators, and
`safety` for lock, latch and heartbeat.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self, cast

from ...instruments import (
    Camera,
    Clock,
    DroppedFrame,
    IncompleteFrame,
    InputError,
    Instrument,
    InstrumentError,
    InstrumentTimeout,
    LightSource,
    SpatialLightModulator,
    StaleFrame,
    Timeline,
    VirtualClock,
)
from ...instruments.safety import signals
from ...instruments.safety.lock import beside
from ...instruments.safety.watchdog import BY_HAND, Watchdog
from ...instruments.simulated import LightPath
from ..optics.layouts import LAYOUTS, Layout
from ..optics.parameters import Optics, ResponseCurve
from . import safety
from .checkpoint import Recorder
from .checksum import ChecksumStats
from .config import BenchFile, make_instrument, read_bench_file
from .darkness import DarknessMeter
from .detector import DETECTORS
from .stop_signal import StopSignal

LOG = logging.getLogger("lightloom.bench")

_POLL_S = 0.05  # between checks whether a light that is held off may go on
REPEATABLE = (StaleFrame, DroppedFrame, IncompleteFrame, InstrumentTimeout)  # an exposure was lost


@dataclass
class BenchCounts:
    """The counts of a bench over all times that it is open.

    Parameters
    ----------
    faults : number of retries, by kind of fault
    recoveries : number of recoveries, by name
    checked : results of the checksums, by name of the matmul
    lost_s : bench time spent on failed exposures and on recoveries
    """

    faults: dict[str, int] = field(default_factory=dict)
    recoveries: dict[str, int] = field(default_factory=dict)
    checked: dict[str, ChecksumStats] = field(default_factory=dict)
    lost_s: float = 0.0


class Bench:
    """The instruments of one bench.

    Parameters
    ----------
    file : content of the bench file
    path : of the bench file, for messages

    Attributes
    ----------
    instruments : by role, not connected until `open`
    input, weight, modulators : the modulators, and both by role, the input modulator first
    camera : the detector of imaged and line benches
    source : of the light
    world : the light between simulated instruments; None on a real bench
    detector : the camera or the photodiode, with what differs between them
    timeline : records the activities of its devices; None for none
    recorder : records finished segments and faults; None for none
    counts : of faults, recoveries and checksums
    stop : ends its shots, and all waits between them
    left_lit : message, if the source may still emit although the bench was closed; else ""
    darkness_meter : checks that it is dark once the source reports that it is off
    darkness : number of calls of `hold_light`; a shot during which it changes is invalid
    """

    def __init__(self, file: BenchFile, path: str = "bench") -> None:
        self.file, self.path = file, path
        self.clock = VirtualClock() if file.clock == "virtual" else Clock()
        self.instruments: dict[str, Instrument] = {
            role: make_instrument(role, table, self.clock)
            for role, table in file.instruments.items()
        }
        self.input = cast(SpatialLightModulator, self.instruments["input"])
        self.weight = cast(SpatialLightModulator, self.instruments["weight"])
        self.modulators = {"input": self.input, "weight": self.weight}
        self.camera = cast(Camera, self.instruments["detector"])
        self.source = cast(LightSource, self.instruments["source"])
        self.world: LightPath | None = None
        self.source.narrow_limits(*file.limits.power_w)
        self._shots = 0
        self._changing = Lock()  # guards what `open` starts and `close` ends
        self._is_held = False
        self._watchdog: Watchdog | None = None
        self._heart: safety.Heart | None = None
        self._watchdog_error = ""
        self.darkness_meter = DarknessMeter(self.instruments, file.limits.timeout_s, self.clock)
        self.left_lit = ""
        self.counts, self.stop = BenchCounts(), StopSignal(path, self.clock, self.beat)
        self._is_light_held = False  # see `hold_light`
        self._must_relight = False
        self.darkness = 0
        if any(hasattr(instrument, "join") for instrument in self.instruments.values()):
            self.world = LightPath(file.world.model_copy(update={"layout": file.layout}))
            for role, instrument in self.instruments.items():
                cast(Any, instrument).join(self.world, role)
        self.timeline: Timeline | None = None
        self.recorder: Recorder | None = None
        self.detector = DETECTORS[LAYOUTS[file.layout].detector_kind](
            file, path, self.instruments, self.clock, self.is_timing_only
        )

    @property
    def is_simulated(self) -> bool:
        """Whether the instruments are simulated."""
        return self.world is not None

    @property
    def is_timing_only(self) -> bool:
        """Whether only the timing of the devices is simulated, without light."""
        return self.world is not None and self.world.options.light == "timing"

    @property
    def shots(self) -> int:
        """The number of shots since the bench was made; each counts as progress, see `beat`."""
        return self._shots

    @shots.setter
    def shots(self, count: int) -> None:
        self._shots = count
        self.beat()

    def open(self) -> Self:
        """Lock the bench, connect every instrument, set exposure and power; no light yet.

        A source that another process can switch off gets a watchdog.

        Raises
        ------
        InUse : when another process holds the bench
        InterlockOpen : when it is latched off
        InputError : when its light is hazardous, and neither a person nor hardware guards it
        InstrumentError : naming the instrument; the others are closed again
        """
        file = self.file
        safety.refuse_unattended(file, self.path)
        # a script that does not close the bench must not leave light on
        atexit.register(self.close)
        try:
            self._hold()
            self._start_watchdog()
            for instrument in self.instruments.values():
                instrument.connect(file.limits.timeout_s)
            self.light_off()  # an earlier program may have left it on
            self.darkness_meter.see_dark()
            self.source.set_power(file.power_w)
            self.detector.set_up()
            _check_dither(self)
            self._heart = safety.start_heart(file, self.path, self.instruments)
            if self._watchdog is not None:
                self._watchdog.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    # --- lock, watchdog and heartbeat ------------------------------------------------------------

    def _hold(self) -> None:
        """Lock the bench file for this process; refuse a latched bench."""
        signals.add(self)
        if not Path(self.path).is_file():  # made without a file
            return
        with self._changing:
            if not self._is_held:
                left = safety.hold(self.path, not self.is_simulated)
                self._is_held = True
                if not self.is_simulated:
                    safety.latch_after_restart(self.path, left, self.latches)
        safety.refuse_latched(self.path, self.latches)

    @property
    def latches(self) -> str:
        """The device of the source, for latches of all users; "" for a simulated bench.

        It is "-" for a source without an address, which only the bench file identifies.
        """
        return "" if self.is_simulated else self.source.device or "-"

    def _start_watchdog(self) -> None:
        if not self.source.can_be_reopened:
            return
        options = dict(self.file.instruments["source"])
        driver, name = options.pop("driver"), self.source.name
        log = beside(Path(self.path), "watchdog.log")
        self._watchdog_error = ""
        watchdog = Watchdog(driver, name, options, log, self._handle_lost_watchdog)
        with self._changing:
            self._watchdog = watchdog

    def _handle_lost_watchdog(self, why: str) -> None:
        """Switch the light off when the watchdog has ended; the next shot of the run reports it."""
        self._watchdog_error = f"{self.path}: {why}, so the light was switched off; run it again"
        LOG.error("%s", self._watchdog_error)
        try:
            self.source.disable_now()
        except InstrumentError as error:
            LOG.error("%s", error)

    def beat(self) -> None:
        """Report progress, as each shot does; without it the heartbeat stops.

        Raises
        ------
        InstrumentError : when the watchdog has ended
        """
        if self._heart is not None:
            self._heart.beat()
        if self._watchdog_error:
            raise InstrumentError(self._watchdog_error)

    def know_darkest(self, curves: Mapping[str, ResponseCurve]) -> None:
        """Use the darkest grey levels of calibrated response curves to darken the modulators."""
        for role, curve in curves.items():
            self.modulators[role].safe_level = curve.darkest

    @property
    def exposing_s(self) -> float:
        """The duration of an exposure; 0 on a virtual clock."""
        return 0.0 if self.clock.is_virtual else self.detector.exposure_s

    # --- the safe state --------------------------------------------------------------------------

    def make_safe(self) -> None:
        """Switch the source off, then darken the modulators, which is not a safety measure."""
        try:
            self.light_off()
        except InstrumentError as error:  # continue with the modulators
            LOG.warning("%s", error)
        self.darken()

    def hold_light(self) -> None:
        """Switch the light off until `free_light`, while shots wait; from any thread.

        Raises
        ------
        InstrumentError : when the source does not report that it is off
        """
        self._is_light_held = self._must_relight = True
        self.darkness += 1
        self.light_off()

    def free_light(self) -> None:
        """Let shots continue; the first of them switches the light on (`wait_for_light`)."""
        self._is_light_held = False

    def wait_for_light(self) -> int:
        """Wait while the light is held off, then switch it on; return `darkness` at that time.

        Raises
        ------
        NotConnected : when the bench is closed meanwhile
        InstrumentError : when the source may no longer emit
        """
        if not self._must_relight:
            return self.darkness
        while True:
            while self._is_light_held:
                self.stop.wait_for_light(_POLL_S)
            darkness = self.darkness
            self.source.enable()
            if darkness == self.darkness:
                self._must_relight = False
                return darkness
            self.source.disable()  # another thread held the light off again

    def light_off(self) -> None:
        """Switch the source off, from any thread; harmless when it is closed.

        Raises
        ------
        InstrumentError : when the source does not report that it is off
        """
        self.source.disable_now()

    def darken(self) -> None:
        """Show the darkest known grey level on both modulators."""
        for modulator in self.modulators.values():
            try:
                if modulator.is_connected:
                    modulator.darken()
            except InstrumentError as error:  # continue with the other modulator
                LOG.warning("%s", error)

    def close(self) -> None:
        """Make the bench safe, source first, and close every instrument; harmless when closed."""
        with self._changing:
            heart, self._heart = self._heart, None
            watchdog, self._watchdog = self._watchdog, None
            is_held, self._is_held = self._is_held, False
        why = ""
        try:
            self.light_off()
            why = self.darkness_meter.still_shines()
        except InstrumentError as error:
            why = str(error)
            LOG.warning("%s", error)
        if heart is not None:
            heart.stop()
        first = ("source", "input", "weight")
        for role in (*first, *(role for role in self.instruments if role not in first)):
            self.instruments[role].close()
        if why or self.source.may_emit:
            self._end_lit(why, watchdog)
        elif watchdog is not None:
            watchdog.dismiss()
        if is_held:
            safety.let_go(self.path)
        signals.remove(self)
        atexit.unregister(self.close)

    def _end_lit(self, why: str, watchdog: Watchdog | None) -> None:
        """Report that the source may still emit, and the outcome of the watchdog."""
        if watchdog is None:
            reason = why or "it does not report that it is off"
            outcome = f"{self.source.name} may still emit ({reason}); {BY_HAND}"
        else:
            LOG.error("%s: %s; the watchdog tries to switch it off", self.path, why)
            outcome = watchdog.outcome()
        self.left_lit = f"{self.path}: {outcome}"
        LOG.error("%s", self.left_lit)
        signals.note_light_left_on(self.left_lit)
        if BY_HAND in outcome:
            safety.latch(self.path, f"its source could not be switched off: {why}", self.latches)

    def describe(self) -> dict[str, Any]:
        """Return bench file and instruments, for the record of a run."""
        return {
            "file": self.file.model_dump(mode="json", by_alias=True),
            "instruments": {role: item.describe() for role, item in self.instruments.items()},
        }

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_dither(bench: Bench) -> None:
    """Refuse an exposure that is not a whole number of dither periods of a modulator."""
    exposure_s = bench.file.exposure_s
    for role, modulator in bench.modulators.items():
        period = getattr(modulator, "dither_period_s", 0.0)
        whole = round(exposure_s / period) if period else 1
        if period and abs(whole * period - exposure_s) > 1e-3 * period:
            raise InputError(
                f"{bench.path}: exposure_s = {exposure_s:g} is not a whole number of dither "
                f"periods of instruments.{role}, {period:g} s; give {max(whole, 1) * period:.9g}"
            )


def load_bench(path: str | Path) -> Bench:
    """Return the bench of a bench file, with its instruments not connected.

    Raises
    ------
    InputError : naming file, key and value
    """
    return Bench(read_bench_file(path), str(path))


def lay_out(bench: Bench, optics: Optics) -> Layout:
    """Return the layout of a connected bench with the given optical parameters.

    Raises
    ------
    InputError : naming the bench file, when its encoding does not fit
    """
    shapes = {role: modulator.shape for role, modulator in bench.modulators.items()}
    dtypes = {role: modulator.dtype for role, modulator in bench.modulators.items()}
    try:
        return LAYOUTS[bench.file.layout](bench.file.encoding, shapes, dtypes, optics)
    except InputError as error:
        raise InputError(f"{bench.path}: encoding: {error}") from None
