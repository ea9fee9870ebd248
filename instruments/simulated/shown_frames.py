"""The frames of simulated modulators over time, and what an exposure sees of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

_NEGLIGIBLE = 1e-4  # fraction of a frame's light that is ignored: 1/40 of an 8-bit step
_SETTLED = 9.3  # time constants after which earlier frames contribute less than that
_FRAMES = 6  # number of frames that may still be settling


@dataclass
class ShownFrame:
    """A frame of a modulator.

    Parameters
    ----------
    number : distinguishes all frames of a world
    levels : grey levels [h, w]
    from_s : start of the approach to it
    light : its transmission on the grid of weight pixels, float32 [h, w], once it was computed
    """

    number: int
    levels: np.ndarray
    from_s: float
    light: np.ndarray | None = None


@dataclass
class Modulator:
    """The state of one modulator in the world.

    Parameters
    ----------
    table : transmission of each grey level, float32 [levels]
    time_constant_s : time constant of its exponential approach to a new frame
    frames : latest frames, with the start of the approach to each
    flips : number of frames shown, except those in `upcoming`
    upcoming : times of later flips
    """

    shape: tuple[int, int]
    table: np.ndarray
    time_constant_s: float
    frames: deque[ShownFrame] = field(default_factory=lambda: deque(maxlen=_FRAMES))
    flips: int = 0
    upcoming: deque[float] = field(default_factory=deque)
    spare: np.ndarray | None = None  # memory of a frame that is no longer visible

    def show(self, number: int, levels: np.ndarray, from_s: float) -> None:
        """Approach a new frame from a moment on."""
        frames = self.frames
        from_s = max(from_s, frames[-1].from_s)  # frames do not overtake each other
        if frames[-1].from_s == from_s:
            frames.pop()  # the replaced frame was never visible
        if len(frames) == _FRAMES and frames[0].light is not None:
            self.spare = frames[0].light
        frames.append(ShownFrame(number, levels.copy(), from_s))
        self.upcoming.append(from_s)

    def flips_until(self, now_s: float) -> int:
        """Return the number of flips so far, as counted by its synchronisation output."""
        while self.upcoming and self.upcoming[0] <= now_s:
            self.upcoming.popleft()
            self.flips += 1
        return self.flips

    def frame_weights(self, start_s: float, exposure_s: float) -> list[tuple[ShownFrame, float]]:
        """Return the frames visible in an exposure, each with its fraction of the light.

        The state s follows ds/dt = (frame - s) / time_constant. It is averaged over the exposure.
        """
        frames = list(self.frames)
        end_s = start_s + exposure_s
        tau = max(self.time_constant_s, 1e-12)
        if start_s - frames[-1].from_s > _SETTLED * tau:
            return [(frames[-1], 1.0)]  # the other frames are negligible
        state = np.zeros(len(frames))  # fraction of each frame in the present state
        state[0] = 1.0
        mean = np.zeros(len(frames))
        for number, frame in enumerate(frames):
            begins = frame.from_s if number else -np.inf
            stops = frames[number + 1].from_s if number + 1 < len(frames) else np.inf
            target = np.eye(len(frames))[number]
            quiet = min(max(start_s, begins), stops)  # start of the exposure of this frame
            if number and quiet > begins:
                state = target + (state - target) * np.exp(-(quiet - begins) / tau)
            lit = min(stops, end_s) - quiet
            if lit > 0:
                left = tau * -np.expm1(-lit / tau)
                mean += target * (lit - left) + state * left
            elif exposure_s == 0 and begins <= start_s < stops:
                mean += state
            rest = min(stops, max(end_s, quiet)) - quiet
            if rest > 0:
                state = target + (state - target) * np.exp(-rest / tau)
            if np.isfinite(stops) and stops > quiet + rest:
                state = target + (state - target) * np.exp(-(stops - quiet - rest) / tau)
        mean /= exposure_s or 1.0
        kept = [(f, float(m)) for f, m in zip(frames, mean, strict=True) if m > _NEGLIGIBLE]
        total = sum(share for _, share in kept) or 1.0
        return [(frame, share / total) for frame, share in kept]


def visible_pairs(
    inputs: Modulator, weights: Modulator, starts_s: np.ndarray, exposure_s: float
) -> list[tuple[ShownFrame, ShownFrame, np.ndarray]]:
    """Return the pairs of frames visible in exposures, each with its weight in each exposure.

    Parameters
    ----------
    starts_s : of the exposure of each row

    Returns
    -------
    input frame, weight frame, float32 [rows]
    """
    found: dict[tuple[int, int], tuple[ShownFrame, ShownFrame, np.ndarray]] = {}
    for row, start_s in enumerate(starts_s):
        for one, a in inputs.frame_weights(start_s, exposure_s):
            for other, b in weights.frame_weights(start_s, exposure_s):
                new = (one, other, np.zeros(len(starts_s), dtype=np.float32))
                found.setdefault((one.number, other.number), new)[2][row] = a * b
    return list(found.values())
