"""`ScaleTracker`: estimates the brightness of a bench from shot to shot."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 10.0  # measurements over which the pace of the drift is learnt
_TREND_PACE = 3.0  # pace above which the trend is used
_TREND = 3.0  # measurements over which the trend is averaged
_MOST_PACE = 1e6
_START_VARIANCE = 0.01  # of the scale before the first measurement: a change of 10 % rms
_SIGMAS, _SLACK = 6.0, 0.02  # a larger deviation is a step change: noise and unknown errors
MILLION = 4.75  # sigma of a normal distribution, exceeded by chance once in a million
TEN_THOUSAND = 3.72  # the same, exceeded by chance once in ten thousand
_MODEL_ERROR = 0.5  # accepted relative error of the variances from calibration
_FEWEST_MEASUREMENTS = 20  # with fewer of them, consistency is not tested


@dataclass
class ScaleTracker:
    """A Kalman filter of the brightness of a bench over that of its calibration.

    The brightness is slow drift, a random walk, plus independent noise in every shot. Markers and
    reference shots measure their sum. If the light drifts faster than during calibration,
    measurements deviate by more than predicted, and the filter follows faster.

    The brightness of a shot is estimated by its mean given all measurements so far. Dividing by it
    has no bias, E(light / estimate) = 1. Dividing by the measurement of the shot alone would add
    its relative variance.

    Parameters
    ----------
    shot_rms : of the source from shot to shot, relative
    walk_variance : variance of the drift per shot

    Attributes
    ----------
    slow : estimate of the drift
    variance : of that estimate
    trend : change of the drift per shot, averaged over some measurements
    pace : variance of the walk over that of calibration; at least 1
    judged, innovations : number of measurements, and the sum of their squared prediction errors,
        each over its expected value
    """

    shot_rms: float
    walk_variance: float
    slow: float = 1.0
    variance: float = _START_VARIANCE
    trend: float = 0.0
    pace: float = 1.0
    judged: float = 0.0
    innovations: float = 0.0
    _is_started: bool = False

    def state(self) -> dict[str, float]:
        """Return the state of the filter, for `restore`."""
        return {name: float(value) for name, value in vars(self).items()}

    def restore(self, state: dict[str, float]) -> None:
        """Continue from a state that `state` returned."""
        vars(self).update({name: state[name] for name in vars(self) if name in state})

    @property
    def consistency(self) -> float:
        """The mean of the squared normalised innovations: 1 if light and model agree."""
        return self.innovations / self.judged if self.judged else 1.0

    @property
    def most_consistency(self) -> float:
        """The limit that `consistency` exceeds by chance in one run of ten thousand.

        The innovations are independent, so their sum is chi-square distributed. Calibration
        measures the variances themselves only to some tens of per cent.
        """
        freedom = max(int(self.judged), 1)
        return chi_square_limit(freedom, TEN_THOUSAND) / freedom * (1 + _MODEL_ERROR)

    @property
    def is_consistent(self) -> bool:
        """Whether the light agrees with the model, within statistics."""
        return self.judged < _FEWEST_MEASUREMENTS or self.consistency <= self.most_consistency

    @property
    def verdict(self) -> str:
        """A sentence on the agreement of the measurements of a run with the model."""
        return (
            f"the light differed from its prediction by {self.consistency:,.2f} times the expected "
            f"mean square in {self.judged:,.0f} measurements; chance exceeds "
            f"{self.most_consistency:.2f} once in 10,000 runs"
        )

    def ahead(self, shots: int) -> float:
        """Return the expected drift, a number of shots after the last measurement.

        The trend is used only while the light drifts faster than calibrated; otherwise it is noise.
        """
        return self.slow + self.trend * shots * (self.pace > _TREND_PACE)

    def step_change(self, measured: float, variance: float) -> float:
        """Return the step change of a measurement of the next shot; 0 within drift and noise.

        Parameters
        ----------
        measured, variance : as of `update`
        """
        off, walked = measured - self.slow, self.walk_variance * self.pace
        sigma = (self.variance + walked + self.shot_rms**2 + variance) ** 0.5
        return off if abs(off) > _SIGMAS * sigma + _SLACK else 0.0

    def allow_step_change(self, change: float) -> None:
        """Allow for a possible step change, which the next measurement confirms or not."""
        self.variance += change**2

    def update(self, measured: float, variance: float, shots: int = 1) -> float:
        """Update with a measurement, and return the estimated brightness of the same shot.

        Parameters
        ----------
        measured : brightness over that of calibration
        variance : of the measurement alone
        shots : since the last one
        """
        self.variance += self.walk_variance * shots * self.pace
        off, fresh = measured - self.slow, self.shot_rms**2
        total = self.variance + fresh + variance
        if total <= 0:
            return self.slow
        if self._is_started:  # the first one includes the drift since calibration
            self._count_innovation(off**2 / total, self.variance / total)
        now = self.slow + (self.variance + fresh) / total * off
        gain = self.variance / total
        self.slow += gain * off
        if self._is_started:
            self.trend += (gain * off / shots - self.trend) / _TREND
        self._is_started = True
        self.variance *= 1 - gain
        return now

    def _count_innovation(self, squared: float, fraction: float) -> None:
        """Count a squared normalised innovation, and update the pace of the walk.

        The walk contributes to an innovation in proportion to its fraction of the predicted
        variance. If noise dominates, a large innovation contains no information about the pace.
        """
        self.judged += 1
        self.innovations += squared
        if self.walk_variance:
            faster = 1 + (squared - 1) * fraction / _MEMORY
            self.pace = min(max(self.pace * faster, 1.0), _MOST_PACE)

    def light_variance(self, measured: float | None, shots: int) -> float:
        """Return the long-term relative variance of the estimated brightness of a shot.

        Parameters
        ----------
        measured : variance of the measurement of each shot; None if only references measure
        shots : between two references
        """
        fresh = self.shot_rms**2
        if measured is None:
            return fresh + self.walk_variance * shots / 2
        noise, walk = fresh + measured, self.walk_variance * self.pace
        prior = fresh + (walk + (walk**2 + 4 * walk * noise) ** 0.5) / 2  # of the steady filter
        return prior * measured / (prior + measured) if measured else 0.0


def chi_square_limit(freedom: int, sigmas: float = MILLION) -> float:
    """Return the chi-square that is as unlikely as a normal deviate of `sigmas`.

    By the approximation of Wilson and Hilferty.
    """
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + sigmas * part**0.5) ** 3)
