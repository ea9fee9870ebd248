"""`ScaleTracker`: follows how bright a bench is, from shot to shot."""

from __future__ import annotations

from dataclasses import dataclass

_SURPRISED, _MEMORY = 3.0, 10.0  # surprise that chance exceeds seldom; measurements averaged
_TREND = 3.0  # measurements over which the trend is averaged
_START_VARIANCE = 0.01  # of the scale before the first measurement: it may have moved by 10 %
_SIGMAS, _SLACK = 6.0, 0.02  # beyond which a measurement is no drift: chance and what is not known


@dataclass
class ScaleTracker:
    """A Kalman filter of a bench's light over that of its calibration.

    The light is slow drift, a random walk, plus noise that is new in every shot. Markers and
    reference shots measure their sum. Where measurements surprise the filter time after time, the
    light walks faster than it did while it was calibrated, and the filter follows faster.

    Parameters
    ----------
    shot_rms : of the source from shot to shot, relative
    walk_variance : that drift gains in one shot

    Attributes
    ----------
    slow : the drift's estimate
    variance : of that estimate
    trend : that the drift gains in one shot, averaged over some measurements
    surprise : squared error of predictions over what they should be, averaged over some of them
    """

    shot_rms: float
    walk_variance: float
    slow: float = 1.0
    variance: float = _START_VARIANCE
    surprise: float = 1.0
    trend: float = 0.0
    _is_started: bool = False

    def state(self) -> dict[str, float]:
        """Give all that it knows, to go on from there later."""
        return {name: float(value) for name, value in vars(self).items()}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        vars(self).update(state)

    @property
    def _haste(self) -> float:
        """Give how much faster the light walks than it did."""
        return self.surprise if self.surprise > _SURPRISED and self.walk_variance else 1.0

    def ahead(self, shots: int) -> float:
        """Give the drift that is to be expected so many shots after the last measurement.

        A trend is believed while the light walks faster than it should; else it is noise.
        """
        return self.slow + self.trend * shots * (self.surprise > _SURPRISED)

    def jump(self, measured: float, variance: float) -> float:
        """Give by how much a measurement of the next shot is off, beyond drift and chance; else 0.

        Parameters
        ----------
        measured, variance : as of `update`
        """
        off, walked = measured - self.slow, self.walk_variance * self._haste
        sigma = (self.variance + walked + self.shot_rms**2 + variance) ** 0.5
        return off if abs(off) > _SIGMAS * sigma + _SLACK else 0.0

    def doubt(self, jump: float) -> None:
        """Believe that the light may have jumped: then the next measurement tells."""
        self.variance += jump**2

    def update(self, measured: float, variance: float, shots: int = 1) -> float:
        """Take a measurement in; give the estimate of the light in that very shot.

        Parameters
        ----------
        measured : light over that of calibration
        variance : of the measurement alone
        shots : since the last one
        """
        faster = self._haste
        self.variance += self.walk_variance * shots * faster
        off, fresh = measured - self.slow, self.shot_rms**2
        total = self.variance + fresh + variance
        if total <= 0:
            return self.slow
        self.surprise += (off**2 / total * faster - self.surprise) / _MEMORY
        now = self.slow + (self.variance + fresh) / total * off
        gain = self.variance / total
        self.slow += gain * off
        if self._is_started:  # the first one also holds what happened since calibration
            self.trend += (gain * off / shots - self.trend) / _TREND
        self._is_started = True
        self.variance *= 1 - gain
        return now
