"""`Bench`: the instruments of a bench file, in their roles; safe when it is left.

Not here: what is multiplied (`backend`) and how numbers lie on modulators (`layouts`).
"""

from __future__ import annotations

import atexit
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from ...instruments import (
    Camera,
    Clock,
    Daq,
    DroppedFrame,
    IncompleteFrame,
    InputError,
    Instrument,
    InstrumentError,
    InstrumentTimeout,
    LightSource,
    SpatialLightModulator,
    StaleFrame,
    VirtualClock,
)
from ...instruments.simulated import LightPath
from .file import BenchFile, make_instrument, read_bench_file

LOG = logging.getLogger("lightloom.bench")

WINDOW_SAMPLES = 16  # of a photodiode, in one exposure
REPEATABLE = (StaleFrame, DroppedFrame, IncompleteFrame, InstrumentTimeout)  # an exposure was lost


class Bench:
    """The instruments of one bench.

    Parameters
    ----------
    file : what the bench file says
    path : where it was read, for messages

    Attributes
    ----------
    instruments : by role, not connected until `open`
    world : the light between simulated instruments; None on a real bench
    shots : taken since it was made, by whomever
    """

    def __init__(self, file: BenchFile, path: str = "bench") -> None:
        self.file, self.path = file, path
        self.clock = VirtualClock() if file.clock == "virtual" else Clock()
        self.instruments: dict[str, Instrument] = {
            role: make_instrument(role, table, self.clock)
            for role, table in file.instruments.items()
        }
        self.world: LightPath | None = None
        self.shots = 0
        if any(hasattr(instrument, "join") for instrument in self.instruments.values()):
            self.world = LightPath(file.world.model_copy(update={"layout": file.layout}))
            for role, instrument in self.instruments.items():
                cast(Any, instrument).join(self.world, role)

    @property
    def is_simulated(self) -> bool:
        """Whether its results are those of a simulation."""
        return self.world is not None

    @property
    def is_timing_only(self) -> bool:
        """Whether devices take their time and no light is simulated."""
        return self.world is not None and self.world.options.light == "timing"

    @property
    def input(self) -> SpatialLightModulator:
        """The input modulator."""
        return cast(SpatialLightModulator, self.instruments["input"])

    @property
    def weight(self) -> SpatialLightModulator:
        """The weight modulator."""
        return cast(SpatialLightModulator, self.instruments["weight"])

    @property
    def camera(self) -> Camera:
        """The detector of imaged and line benches."""
        return cast(Camera, self.instruments["detector"])

    @property
    def daq(self) -> Daq:
        """The detector of block benches."""
        return cast(Daq, self.instruments["detector"])

    @property
    def source(self) -> LightSource:
        """The light source."""
        return cast(LightSource, self.instruments["source"])

    def open(self) -> Self:
        """Connect every instrument, set exposure and power; no light yet.

        Raises
        ------
        InstrumentError : naming the instrument; those connected before are closed again
        """
        file = self.file
        atexit.register(self.close)  # a script that forgets to close must not leave light behind
        try:
            for instrument in self.instruments.values():
                instrument.connect(file.limits.timeout_s)
            self.source.narrow_limits(*file.limits.power_w)
            self.source.set_power(file.power_w)
            if file.layout != "block":
                self.camera.configure(exposure_s=file.exposure_s)
            self._check_dither()
        except BaseException:
            self.close()
            raise
        return self

    def _check_dither(self) -> None:
        for role in ("input", "weight"):
            period = getattr(self.instruments[role], "dither_period_s", 0.0)
            whole = round(self.file.exposure_s / period) if period else 1
            if period and abs(whole * period - self.file.exposure_s) > 1e-3 * period:
                raise InputError(
                    f"{self.path}: exposure_s = {self.file.exposure_s:g} is no whole number of "
                    f"dither periods of instruments.{role}, {period:g} s; give "
                    f"{max(whole, 1) * period:.9g}"
                )

    def make_safe(self) -> None:
        """Switch the source off, then show darkness (which is no safety measure)."""
        for act in (self.source.disable, self.input.blank, self.weight.blank):
            try:
                act()
            except InstrumentError as error:  # go on with the others
                LOG.warning("%s", error)

    def close(self) -> None:
        """Make safe and let every instrument go; harmless when it is closed."""
        for role in ("source", *(role for role in self.instruments if role != "source")):
            self.instruments[role].close()
        atexit.unregister(self.close)

    def describe(self) -> dict[str, Any]:
        """Give what a record of a run should hold."""
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


def load_bench(path: str | Path) -> Bench:
    """Read a bench file and make its instruments, not connected.

    Raises
    ------
    InputError : naming file, key and value
    """
    return Bench(read_bench_file(path), str(path))
