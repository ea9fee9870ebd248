"""`MockParameters`: the constants of a mock bench in the form that products use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..address import HEAD_BITS, POSITION_BITS
from ..profile import OpticsProfile
from ..tiling import Geometry
from .detection import Detector
from .noise import device_gaussian

_WAVES = 24  # cosines in the drift


@dataclass(frozen=True)
class Drift:
    """The slow drift of a bench's source, equal for all outputs, slightly different per row.

    A mock has no clock. A row's time is its sequence plus its position, since each sequence and
    each new token is shown after the one before. All products of a pass see the same drift, because
    a pass is short compared with it. The drift belongs to the device, not to the run, so that
    calibration and reference shots can measure it.

    It is a sum of cosines whose variance over long times is `drift_rms` squared.
    With frequencies drawn from a Gaussian of spread 1 / `drift_rows`, the correlation over t rows
    is about exp(-2 (pi t / drift_rows)^2): the drift is uncorrelated after half of `drift_rows`.
    """

    frequencies: np.ndarray
    phases: np.ndarray
    amplitude: float

    @classmethod
    def of(cls, profile: OpticsProfile) -> Drift | None:
        """Return the drift of a device; None if the profile has none."""
        if not profile.drift_rms:
            return None
        seed = profile.device_seed
        frequencies = device_gaussian(seed, "drift frequencies", (_WAVES,)) / profile.drift_rows
        phases = 2 * np.pi * device_gaussian(seed, "drift phases", (_WAVES,))
        return cls(frequencies, phases, profile.drift_rms * (2 / _WAVES) ** 0.5)

    def factors(self, rows: np.ndarray) -> np.ndarray:
        """Return the light over its set-point for row ids [n]: float64 [n]."""
        position = rows & np.uint64((1 << POSITION_BITS) - 1)
        time = (rows >> np.uint64(POSITION_BITS + HEAD_BITS)) + position
        angles = 2 * np.pi * np.outer(time.astype(np.float64), self.frequencies) + self.phases
        return np.asarray(1 + self.amplitude * np.cos(angles).sum(axis=1))


@dataclass(frozen=True)
class MockParameters:
    """A profile, and the constants derived from it.

    Parameters
    ----------
    drift : of the source; None without drift
    """

    profile: OpticsProfile
    geometry: Geometry
    detector: Detector
    drift: Drift | None

    @classmethod
    def of(cls, profile: OpticsProfile) -> MockParameters:
        """Return the parameters of a profile."""
        return cls(profile, Geometry.of(profile), Detector.of(profile), Drift.of(profile))
