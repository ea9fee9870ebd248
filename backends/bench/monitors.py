"""`Monitors`: suspend a run while power or temperature is out of bounds, and check the interlock.

Monitors are read between two segments, never while a shot is pending. A reading out of bounds
suspends the run. The segment before it is taken again, once the reading has been within bounds for
`back_for`. An open interlock, or a source that has stopped, does not suspend the run but ends it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from ...instruments import Daq, InterlockOpen, LightSource, Paused, PowerMeter
from .bench import Bench
from .config import SuspendTable
from .fault_policy import SUSPENDED

_SAMPLES, _RATE_HZ = 16, 1000.0  # of one reading of a monitor's channel


@dataclass(frozen=True)
class _Reading:
    """One reading of a monitor, with its bounds."""

    table: SuspendTable
    value: float

    @property
    def is_good(self) -> bool:
        low, high = self.table.low, self.table.high
        return (low is None or self.value >= low) and (high is None or self.value <= high)

    def __str__(self) -> str:
        low, high = self.table.low, self.table.high
        bounds = f"{'-' if low is None else f'{low:g}'} to {'-' if high is None else f'{high:g}'}"
        return f"{self.table.what} read {self.value:.4g}, outside {bounds}"


class Monitors:
    """The monitors of an open bench.

    Parameters
    ----------
    bench : open
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._read_s = [-math.inf] * len(bench.file.suspend)

    def complaint(self) -> str:
        """Read the monitors that are due; return the first that is out of bounds, "" for none.

        Raises
        ------
        InterlockOpen : when the source does not emit, or its interlock is open
        InstrumentError : when a monitor does not answer
        """
        now_s = self._bench.clock.now_s()
        for number, table in enumerate(self._bench.file.suspend):
            if now_s - self._read_s[number] < table.every:
                continue
            self._read_s[number] = now_s
            reading = self._read(table)
            if reading is not None and not reading.is_good:
                return str(reading)
        return ""

    def wait(self, complaint: str, since_s: float) -> None:
        """Wait until all monitors have been within bounds for the longest `back_for`.

        Parameters
        ----------
        complaint : the reading out of bounds
        since_s : when the first suspension of this segment began; limits repeated suspensions

        Raises
        ------
        Paused : when a monitor does not return within `at_most`
        """
        clock, tables = self._bench.clock, self._bench.file.suspend
        step_s = max(min(table.every for table in tables), 1e-3)
        back_for_s = max(table.back_for for table in tables)
        at_most_s = max(table.at_most for table in tables)
        back_s = math.nan  # time of the return within bounds
        while not clock.now_s() - back_s >= back_for_s:
            if clock.now_s() - since_s > at_most_s:
                raise Paused(
                    f"{self._bench.path}: {complaint}, and did not stay within its bounds for "
                    f"{back_for_s:g} s before at_most = {at_most_s:g} s had passed; bring it back "
                    "within its bounds, then resume the run; the bench is safe",
                    SUSPENDED,
                    complaint.split(" ", 1)[0],
                    "bring it back within its bounds, then resume the run",
                )
            self._bench.stop.sleep(step_s)
            bad = [r for r in map(self._read, tables) if r is not None and not r.is_good]
            if bad:
                back_s, complaint = math.nan, str(bad[0])
            elif math.isnan(back_s):
                back_s = clock.now_s()
        self._read_s = [clock.now_s()] * len(tables)

    def _read(self, table: SuspendTable) -> _Reading | None:
        bench, timeout_s = self._bench, self._bench.file.limits.timeout_s
        if table.what == "interlock":
            check_emission(bench)
            return None
        if table.what == "power_meter":
            meter = cast(PowerMeter, bench.instruments["power_meter"])
            return _Reading(table, meter.read_power(timeout_s))
        daq = cast(Daq, bench.instruments["monitor"])
        volts = daq.read((table.channel,), _SAMPLES, _RATE_HZ, timeout_s).volts
        return _Reading(table, float(volts.mean()) * table.scale + table.offset)


def check_emission(bench: Bench) -> None:
    """Check that the source emits.

    Raises
    ------
    InterlockOpen : when the source does not emit, or its interlock is open
    """
    source = bench.source
    if not source.interlock_closed():
        error = interlock_error(source, "the interlock is open")
    elif not source.is_emitting():
        error = interlock_error(source, "it has stopped emitting")
    else:
        return
    error.instrument = source
    raise error


def interlock_error(source: LightSource, why: str) -> InterlockOpen:
    """Return the error of a source that may not emit, with the way out."""
    return InterlockOpen(
        f"{source.name}: {why}; make the beam path safe and re-arm the source on site"
    )
