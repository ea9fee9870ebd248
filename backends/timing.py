"""`ShotTiming`: the times of a bench's devices, and of the host's work for each shot."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .profile import OpticsProfile

AHEAD = 2  # shots whose frames are encoded in advance


@dataclass(frozen=True)
class ModulatorTiming:
    """The timing of a modulator.

    Parameters
    ----------
    refresh_s : period of the frames; 0 if a frame is shown at once
    latency_s : from the flip to the first change of light
    settle_s : the slowest change between two grey levels
    transfer_s : of a frame, before it can be shown
    trusted_s : measured settling time, from the flip
    """

    refresh_s: float = 0.0
    latency_s: float = 0.0
    settle_s: float = 0.0
    trusted_s: float = 0.0
    transfer_s: float = 0.0


@dataclass(frozen=True)
class ShotTiming:
    """The timing of a bench's devices, and of the host's work for each shot.

    Parameters
    ----------
    input, weight : timing of the two modulators
    exposure_s : of one shot
    readout_s : from the end of the exposure to the arrival of the frame
    rolling_s : from the first row's exposure to the last row's
    trigger_latency_s : from the trigger to the exposure
    window_s : of a photodiode's samples; 0 with a camera
    shows_early : whether the next frames are sent before the detector is read
    reference_every : shots between two reference shots; 0 for none
    references_tiles : whether each weight frame has a reference shot, and each job one at its end
    encode_s : of an input frame and of a weight frame, in its own thread
    show_s, shot_s : of sending a frame, and of the rest of a shot
    decode_s : of a shot, in its own thread
    late_s : how late the thread that takes shots wakes up from each wait, in turn; see `late_after`
    """

    input: ModulatorTiming
    weight: ModulatorTiming
    exposure_s: float
    readout_s: float = 0.0
    rolling_s: float = 0.0
    trigger_latency_s: float = 0.0
    window_s: float = 0.0
    shows_early: bool = True
    reference_every: int = 0
    references_tiles: bool = False
    encode_s: tuple[float, float] = (0.0, 0.0)
    show_s: float = 0.0
    shot_s: float = 0.0
    decode_s: float = 0.0
    late_s: tuple[float, ...] = ()

    def late_after(self, wait: int) -> float:
        """Return how late the thread wakes up from a wait, by the number of the wait."""
        return self.late_s[wait % len(self.late_s)] if self.late_s else 0.0

    @classmethod
    def of(cls, profile: OpticsProfile) -> ShotTiming:
        """Return the timing of a profile: a camera, or converters that keep up."""
        return cls(
            ModulatorTiming(profile.input_refresh_s, 0.0, profile.input_settle_s),
            ModulatorTiming(profile.weight_refresh_s, 0.0, profile.weight_settle_s),
            profile.exposure_s,
            profile.readout_s,
        )

    @property
    def devices(self) -> ShotTiming:
        """The same without the host's times."""
        return replace(self, encode_s=(0.0, 0.0), show_s=0.0, shot_s=0.0, decode_s=0.0, late_s=())

    @property
    def period_s(self) -> float:
        """The settling, exposure and read-out, rounded up to refresh periods of the input.

        It is the period of a bench without overlap.
        """
        whole = self.input.latency_s + max(self.input.settle_s, self.input.trusted_s)
        whole += self.exposure_s + self.rolling_s + self.readout_s
        period_s = self.input.refresh_s
        return max(1, math.ceil(whole / period_s - 1e-9)) * period_s if period_s else whole
