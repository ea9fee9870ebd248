"""`ModelOrigin`: where the optical model of a bench comes from, and how it is checked by light.

There are three origins: a calibration, the ground truth of a simulation, and nominal values, on
which an operator may run an uncalibrated bench.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import numpy as np

from ...instruments import InputError
from ..optics.layouts import Layout
from ..optics.model import OpticalModel
from ..optics.parameters import Optics, Response
from ..optics.response_curve import ResponseCurve
from . import ground_truth
from .bench import Bench, lay_out
from .binding import check_calibration
from .calibrated_optics import WANTED, Calibrated, read_calibrated
from .shots import ShotRunner
from .startup_check import check_startup
from .tracking import ScaleTracker

REFERENCE_EVERY = 500  # shots between two reference shots of a bench with ground truth


class ModelOrigin(ABC):
    """Where the optical model of a bench comes from.

    Attributes
    ----------
    is_guessed, is_exact, tolerance : see `OpticalModel`
    may_restart : whether the bench may be measured again during a run
    """

    is_guessed: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.002
    may_restart: ClassVar[bool] = False

    @staticmethod
    def of(bench: Bench, uncalibrated: bool) -> ModelOrigin:
        """Return the origin that the bench file names.

        Raises
        ------
        InputError : when there is none
        """
        if bench.file.calibration == "ground-truth":
            ground_truth.only_simulated(bench)
            return GroundTruth()
        return NominalValues() if uncalibrated else MeasuredModel(read_calibrated(bench))

    def model(self, bench: Bench) -> OpticalModel:
        """Return the optical model of a connected bench.

        Raises
        ------
        InputError : when elements pass no light, or the bench differs from its calibration
        """
        optics = self._optics(bench)
        layout = lay_out(bench, optics)
        curves = {role: ResponseCurve(table) for role, table in optics.tables.items()}
        if not self.is_guessed:
            bench.know_darkest(curves)
        response = self._response(bench, layout)
        dark = int((response.pairs_e <= 0).sum())
        if dark:
            raise InputError(
                f"{bench.path}: {dark} elements pass no light, so they cannot show a number; "
                "change the encoding in the bench file, or calibrate once light arrives"
            )
        return OpticalModel(
            layout, optics, response, curves, self.is_guessed, self.tolerance, self.is_exact
        )

    @abstractmethod
    def _optics(self, bench: Bench) -> Optics:
        """Return registration, response curves and detector."""

    @abstractmethod
    def _response(self, bench: Bench, layout: Layout) -> Response:
        """Return the response of the slots."""

    @abstractmethod
    def tracker(self, bench: Bench, model: OpticalModel) -> ScaleTracker | None:
        """Return a new brightness filter; None where no brightness is expected."""

    @abstractmethod
    def reference_every(self, layout: Layout) -> int:
        """Return the number of shots between two reference shots; 0 for none."""

    def settling_s(self, role: str) -> float:
        """Return the measured settling time after a frame change; 0 where not measured."""
        return 0.0

    def check_light(self, runner: ShotRunner) -> OpticalModel:
        """Check the model of a runner by light, and return it, corrected where it was guessed.

        Raises
        ------
        UnexpectedIntensity : when the bench differs from its model
        Paused : when a shot fails
        """
        return runner.decoder.model


class GroundTruth(ModelOrigin):
    """The true parameters of a simulated bench."""

    is_exact = True

    def _optics(self, bench: Bench) -> Optics:
        return ground_truth.true_optics(bench)

    def _response(self, bench: Bench, layout: Layout) -> Response:
        return ground_truth.true_response(bench, layout)

    def tracker(self, bench: Bench, model: OpticalModel) -> ScaleTracker:
        """Return the brightness filter, from the true noise and drift of the source."""
        measured = model.layout.marker_variance(model.response)
        if measured is None:  # without markers: shot noise and read noise of a reference
            light_e = float(model.response.pairs_e.sum()) * model.layout.reference_light
            noise = light_e + float(model.dark_variance.sum())
            measured = noise / max(light_e, 1.0) ** 2
        return ground_truth.true_tracker(bench, measured)

    def reference_every(self, layout: Layout) -> int:
        """Return the number of shots between two reference shots."""
        return REFERENCE_EVERY


class NominalValues(ModelOrigin):
    """Nominal parameters, whose products cannot be trusted; the brightness is guessed by light."""

    is_guessed = True

    def _optics(self, bench: Bench) -> Optics:
        return ground_truth.nominal_optics(bench)

    def _response(self, bench: Bench, layout: Layout) -> Response:
        return ground_truth.response_of(layout, np.ones(bench.weight.shape))

    def tracker(self, bench: Bench, model: OpticalModel) -> None:
        """Return None: no brightness is expected."""

    def reference_every(self, layout: Layout) -> int:
        """Return 0: no reference can be predicted."""
        return 0

    def check_light(self, runner: ShotRunner) -> OpticalModel:
        """Take one shot of a uniform frame pair, and assume that all slots are equally bright."""
        model, layout = runner.decoder.model, runner.decoder.layout
        light = layout.reference_light / 2  # the brightness is unknown yet
        inputs, weights = (model.uniform_levels(role, light) for role in ("input", "weight"))
        found = runner.take_one("guess", inputs, weights)
        per_pair = max(float(found.mean()) / (layout.length * light**2), 1e-3)
        pairs = np.full((layout.slots, layout.length), per_pair)
        return replace(model, response=replace(model.response, pairs_e=pairs))


class MeasuredModel(ModelOrigin):
    """The calibration of a bench.

    Parameters
    ----------
    calibrated : its steps
    """

    tolerance = 0.01
    may_restart = True

    def __init__(self, calibrated: Calibrated) -> None:
        self.calibrated = calibrated

    def _optics(self, bench: Bench) -> Optics:
        calibration = self.calibrated.calibration
        check_calibration(bench, calibration, WANTED, bench.file.calibration_lasts_s)
        return self.calibrated.optics(bench)

    def _response(self, bench: Bench, layout: Layout) -> Response:
        return self.calibrated.response(layout)

    def tracker(self, bench: Bench, model: OpticalModel) -> ScaleTracker:
        """Return the brightness filter, from the measured noise and drift."""
        return self.calibrated.tracker()

    def reference_every(self, layout: Layout) -> int:
        """Return the number of shots between two reference shots.

        Without markers, only references measure the brightness, so there are three times as many.
        """
        every = self.calibrated.reference_every
        return every if layout.has_markers else max(every // 3, 1)

    def settling_s(self, role: str) -> float:
        """Return the measured settling time after a frame change."""
        return self.calibrated.settling_s(role)

    def check_light(self, runner: ShotRunner) -> OpticalModel:
        """Check by a few shots that the bench is still as it was calibrated."""
        model = runner.decoder.model
        if not runner.bench.is_timing_only:
            check_startup(runner.bench.path, model, runner.decoder.tracker, runner.take_one)
        return model
