"""`ModelOrigin`: where the optical model of a bench comes from.

There are three origins: a calibration (`calibrated_optics`), the ground truth of a simulation, and
nominal values, on which an operator may run an uncalibrated bench. `Uncorrected` uses one of them
to find numbers on the bench, but not to correct them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from ...instruments import InputError
from ..optics.layouts import Layout
from ..optics.model import OpticalModel
from ..optics.parameters import Optics, Response, ResponseCurve
from . import ground_truth
from .bench import Bench, lay_out
from .tracking import ScaleTracker

REFERENCE_EVERY = 500  # shots between two reference shots of a bench with ground truth


class ModelOrigin(ABC):
    """Where the optical model of a bench comes from.

    Attributes
    ----------
    is_guessed, is_exact, tolerance : see `OpticalModel`
    is_calibrated : whether it was measured, so that the bench can be measured again during a run
    """

    is_guessed: ClassVar[bool] = False
    is_exact: ClassVar[bool] = False
    is_calibrated: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.002

    def model(self, bench: Bench) -> OpticalModel:
        """Return the optical model of a connected bench.

        Raises
        ------
        InputError : when elements pass no light, or the bench is not the calibrated one
        """
        optics = self.optics(bench)
        layout = lay_out(bench, optics)
        curves = {role: ResponseCurve(table) for role, table in optics.tables.items()}
        if not self.is_guessed:
            bench.know_darkest(curves)
        response = self.response(bench, layout)
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
    def optics(self, bench: Bench) -> Optics:
        """Return registration, response curves and detector."""

    @abstractmethod
    def response(self, bench: Bench, layout: Layout) -> Response:
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


class GroundTruth(ModelOrigin):
    """The true parameters of a simulated bench."""

    is_exact = True

    def optics(self, bench: Bench) -> Optics:
        """Return the true parameters."""
        return ground_truth.true_optics(bench)

    def response(self, bench: Bench, layout: Layout) -> Response:
        """Return the true response of the slots."""
        return ground_truth.true_response(bench, layout)

    def tracker(self, bench: Bench, model: OpticalModel) -> ScaleTracker:
        """Return the brightness filter, from the true noise and drift of the source."""
        measured = model.layout.marker_variance(model.response)
        if measured is None:  # without markers: shot noise and read noise of a reference
            light_e = float(model.response.pairs_e.sum()) * model.layout.reference_light
            noise = light_e + float(model.dark_variance.sum())
            measured = noise / max(light_e, 1.0) ** 2
        assert bench.world is not None
        return ground_truth.true_tracker(bench.world.options, measured)

    def reference_every(self, layout: Layout) -> int:
        """Return the number of shots between two reference shots."""
        return REFERENCE_EVERY


class NominalValues(ModelOrigin):
    """Nominal parameters, whose products cannot be trusted."""

    is_guessed = True

    def optics(self, bench: Bench) -> Optics:
        """Return nominal parameters."""
        return ground_truth.nominal_optics(bench)

    def response(self, bench: Bench, layout: Layout) -> Response:
        """Return the response of equal elements, whose brightness is guessed later, by light."""
        return ground_truth.response_of(layout, np.ones(bench.weight.shape))

    def tracker(self, bench: Bench, model: OpticalModel) -> None:
        """Return None: no brightness is expected."""

    def reference_every(self, layout: Layout) -> int:
        """Return 0: no reference can be predicted."""
        return 0


class Uncorrected(ModelOrigin):
    """Another origin, without its corrections: `corrections = "off"` in the bench file.

    Frames are still identified by their markers. Brightness, dark level and checksums are not
    checked, since nothing predicts them.
    """

    def __init__(self, origin: ModelOrigin) -> None:
        self.origin = origin

    def model(self, bench: Bench) -> OpticalModel:
        """Return the model of an ideal bench with the registration of the other origin."""
        return self.origin.model(bench).uncorrected()

    def optics(self, bench: Bench) -> Optics:
        """Return the optics of the other origin."""
        return self.origin.optics(bench)

    def response(self, bench: Bench, layout: Layout) -> Response:
        """Return the response of the other origin."""
        return self.origin.response(bench, layout)

    def tracker(self, bench: Bench, model: OpticalModel) -> None:
        """Return None: the brightness is not corrected."""

    def reference_every(self, layout: Layout) -> int:
        """Return 0: no reference can be predicted."""
        return 0

    def settling_s(self, role: str) -> float:
        """Return the settling time of the other origin."""
        return self.origin.settling_s(role)
