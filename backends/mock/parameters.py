"""`MockParameters`: the constants of a mock bench in the forms in which products use them."""

from __future__ import annotations

from dataclasses import dataclass

from ..profile import OpticsProfile
from ..tiling import Geometry
from .detection import Detector
from .drift import Drift


@dataclass(frozen=True)
class MockParameters:
    """A profile, and what follows from it.

    Parameters
    ----------
    drift : of the source; None where it does not drift
    """

    profile: OpticsProfile
    geometry: Geometry
    detector: Detector
    drift: Drift | None

    @classmethod
    def of(cls, profile: OpticsProfile) -> MockParameters:
        """Derive them from a profile."""
        return cls(profile, Geometry.of(profile), Detector.of(profile), Drift.of(profile))
