"""`MockParameters`: the constants of a mock bench in the form that products use."""

from __future__ import annotations

from dataclasses import dataclass

from ..profile import OpticsProfile
from ..tiling import Geometry
from .detection import Detector
from .drift import Drift


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
