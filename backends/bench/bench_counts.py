"""`BenchCounts`: what a bench counts over all times that it is open."""

from __future__ import annotations

from dataclasses import dataclass, field

from .checksum import ChecksumStats


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
