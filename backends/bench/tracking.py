"""`ScaleTracker`: follows how bright a bench is, from shot to shot."""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 10.0  # measurements over which the pace of the light is learnt
_HASTY = 3.0  # pace from which on a trend is believed
_TREND = 3.0  # measurements over which the trend is averaged
_FASTEST = 1e6  # pace at most
_START_VARIANCE = 0.01  # of the scale before the first measurement: it may have moved by 10 %
_SIGMAS, _SLACK = 6.0, 0.02  # beyond which a measurement is no drift: chance and what is not known
MILLION = 4.75  # sigma of a normal distribution, exceeded by chance once in a million
_SURE = 3.72  # sigma of a normal distribution: exceeded by chance once in ten thousand runs
_MODEL_OFF = 0.5  # share by which variances that calibration measured may be off
_FEWEST = 20  # measurements below which no run is judged


@dataclass
class ScaleTracker:
    """A Kalman filter of a bench's light over that of its calibration.

    The light is slow drift, a random walk, plus noise that is new in every shot. Markers and
    reference shots measure their sum. Where measurements are farther off than predicted, because
    the light walks faster than it did while it was calibrated, the filter follows faster.

    The light of a shot is estimated by its mean given all measurements so far. Dividing by that is
    without bias, E(light / estimate) = 1; dividing by the measurement of the shot alone would add
    its relative variance.

    Parameters
    ----------
    shot_rms : of the source from shot to shot, relative
    walk_variance : that drift gains in one shot

    Attributes
    ----------
    slow : the drift's estimate
    variance : of that estimate
    trend : that the drift gains in one shot, averaged over some measurements
    pace : how many times faster than calibrated the variance of the walk grows; at least 1
    judged, innovations : measurements so far, and the sum of their squared errors of prediction,
        each over what it should be
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
        """Return all that it knows, to go on from there later."""
        return {name: float(value) for name, value in vars(self).items()}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""
        vars(self).update({name: state[name] for name in vars(self) if name in state})

    @property
    def consistency(self) -> float:
        """The mean of normalised innovations squared: 1 where light and model agree."""
        return self.innovations / self.judged if self.judged else 1.0

    @property
    def most_consistency(self) -> float:
        """What `consistency` exceeds by chance in one run of ten thousand.

        The innovations are independent, so their sum is chi-square distributed. Calibration knows
        the variances themselves to some tens of per cent only.
        """
        freedom = max(int(self.judged), 1)
        return chi_square_limit(freedom, _SURE) / freedom * (1 + _MODEL_OFF)

    @property
    def is_consistent(self) -> bool:
        """Whether the light was as the model says, as far as chance allows to tell."""
        return self.judged < _FEWEST or self.consistency <= self.most_consistency

    @property
    def verdict(self) -> str:
        """What the measurements of a run say of the model, in words."""
        return (
            f"{self.judged:,.0f} measurements of the light were {self.consistency:,.2f} times as "
            f"far off (squared, in the mean) as predicted, at most {self.most_consistency:.2f} by "
            "chance once in 10,000 runs"
        )

    def ahead(self, shots: int) -> float:
        """Return the drift that is expected so many shots after the last measurement.

        A trend is believed while the light walks faster than it should; else it is noise.
        """
        return self.slow + self.trend * shots * (self.pace > _HASTY)

    def jump(self, measured: float, variance: float) -> float:
        """Return by how much a measurement of the next shot is off, beyond drift and chance; or 0.

        Parameters
        ----------
        measured, variance : as of `update`
        """
        off, walked = measured - self.slow, self.walk_variance * self.pace
        sigma = (self.variance + walked + self.shot_rms**2 + variance) ** 0.5
        return off if abs(off) > _SIGMAS * sigma + _SLACK else 0.0

    def doubt(self, jump: float) -> None:
        """Believe that the light may have jumped: then the next measurement tells."""
        self.variance += jump**2

    def update(self, measured: float, variance: float, shots: int = 1) -> float:
        """Take a measurement in; return the estimate of the light in that very shot.

        Parameters
        ----------
        measured : light over that of calibration
        variance : of the measurement alone
        shots : since the last one
        """
        self.variance += self.walk_variance * shots * self.pace
        off, fresh = measured - self.slow, self.shot_rms**2
        total = self.variance + fresh + variance
        if total <= 0:
            return self.slow
        if self._is_started:  # the first one also holds what happened since calibration
            self._judge(off**2 / total, self.variance / total)
        now = self.slow + (self.variance + fresh) / total * off
        gain = self.variance / total
        self.slow += gain * off
        if self._is_started:
            self.trend += (gain * off / shots - self.trend) / _TREND
        self._is_started = True
        self.variance *= 1 - gain
        return now

    def _judge(self, squared: float, share: float) -> None:
        """Count a normalised innovation squared, and learn the pace of the walk from it.

        The walk is to blame for what is off in proportion to its share of the prediction's
        variance: where noise outweighs it, a large innovation says nothing of the pace.
        """
        self.judged += 1
        self.innovations += squared
        if self.walk_variance:
            faster = 1 + (squared - 1) * share / _MEMORY
            self.pace = min(max(self.pace * faster, 1.0), _FASTEST)

    def light_variance(self, measured: float | None, shots: int) -> float:
        """Return the variance of the light's estimate in a shot, relative, in the long run.

        Parameters
        ----------
        measured : variance of the measurement of each shot; None where references alone measure
        shots : between two references
        """
        fresh = self.shot_rms**2
        if measured is None:
            return fresh + self.walk_variance * shots / 2
        noise, walk = fresh + measured, self.walk_variance * self.pace
        prior = fresh + (walk + (walk**2 + 4 * walk * noise) ** 0.5) / 2  # of the steady filter
        return prior * measured / (prior + measured) if measured else 0.0


def chi_square_limit(freedom: int, sigmas: float = MILLION) -> float:
    """Return what a sum of squares exceeds by chance as seldom as a normal deviate `sigmas`.

    Wilson's and Hilferty's approximation.
    """
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + sigmas * part**0.5) ** 3)
