"""`bench_remarks`: sentences for the report of a run on a bench.

They tell about calibration, brightness, drift and recoveries.
"""

from __future__ import annotations

from collections.abc import Iterator

from .bench_counts import BenchCounts
from .bench_setup import BenchSetup
from .calibrated_optics import WANTED, Calibrated
from .open_bench import OpenBench


def bench_remarks(opened: OpenBench) -> Iterator[str]:
    """Return the sentences about a bench that has an expected brightness."""
    setup, counts = opened.setup, opened.counts
    remarks = _calibration_remarks(setup)
    tracker = setup.tracker
    if tracker is not None and tracker.judged and not setup.bench.is_timing_only:
        if tracker.is_consistent:
            remarks[-1] += f"; {tracker.verdict}"
        else:
            remarks.append(
                f"LIGHT NOT AS CALIBRATED: {tracker.verdict}; products may be off in gain: check "
                "the source and the light of the markers, then run `lightloom calibrate` again"
            )
    yield from remarks
    yield from _recovery_remarks(counts)


def _calibration_remarks(setup: BenchSetup) -> list[str]:
    """Return the sentences about the origin of the optical model."""
    full_e = setup.model.typical_full_e
    light = f"{full_e:,.0f} photoelectrons per full-scale product of two elements"
    if not isinstance(setup.origin, Calibrated):
        return [f"calibrated by the simulation's own truth; {light}"]
    calibration = setup.origin.calibration
    ended = 1.0 if setup.tracker is None else setup.tracker.slow
    return [
        f"calibration {calibration.path}, {calibration.age_s(WANTED) / 3600:.1f} hours "
        f"old; {light}",
        f"{setup.references:,} reference shots were taken; the light ended at {ended:.3f} "
        "times that of calibration",
    ]


def _recovery_remarks(counts: BenchCounts) -> Iterator[str]:
    """Return the sentences about recoveries from faults."""
    recoveries = counts.recoveries
    host, skip = recoveries.get("host", 0), recoveries.get("skip", 0)
    if host or skip:
        yield (
            f"MARKED: the light gave no numbers after {host + skip:,} faults: {host:,} were "
            f"computed by the host, {skip:,} were skipped, with the numbers of a dark tile"
        )
    if recoveries:
        tried = ", ".join(f"{name} {count:,}" for name, count in sorted(recoveries.items()))
        yield f"recoveries from faults: {tried}; {counts.lost_s:.3g} s of bench time were lost"
