"""`diagnose`: find the faulty device when retries of a shot do not help.

The diagnosis takes a few exposures: with the source off, with light, and with each modulator dark.
Light that does not change as expected identifies the device. The time is bounded, because each wait
has a time-out. If a device does not respond, it is reported as the cause.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...instruments import InstrumentError, InterlockOpen, LightloomError, Shot
from .bench import Bench
from .decoding import Decoder

_FALLS = 0.3  # fraction of the light that may remain when a modulator is dark
_LONG = 100.0  # factor of the long exposure that measures the leakage of dark modulators
_DIM, _BRIGHT = 0.7, 1.4  # accepted range of the light over the expected light


@dataclass(frozen=True)
class Diagnosis:
    """The result of a diagnosis.

    Parameters
    ----------
    role : of the faulty device; "" if no device is faulty
    sentence : a clause, such as "the light does not follow the input modulator"
    advice : what the operator should do
    """

    role: str
    sentence: str
    advice: str


def diagnose(bench: Bench, decoder: Decoder) -> Diagnosis:
    """Find the faulty device; errors of devices become part of the diagnosis."""
    if bench.is_timing_only:
        return _NOTHING
    try:
        return _Bisection(bench, decoder).run()
    except InterlockOpen as error:
        return Diagnosis("source", str(error), "make the beam path safe, re-arm the source on site")
    except LightloomError as error:
        instrument = error.instrument if isinstance(error, InstrumentError) else None
        for role, item in bench.instruments.items():
            if item is instrument:
                why = f"it does not follow its commands ({without_advice(error)})"
                return Diagnosis(role, why, _CABLES)
        why = f"it could not be narrowed down ({without_advice(error)})"
        return Diagnosis("", why, _CABLES)


def without_advice(error: Exception) -> str:
    """Return the message of an error without its own advice, where other advice follows."""
    return _OWN_ADVICE.sub("", str(error))


_OWN_ADVICE = re.compile(r"; (?:check|close|connect|make|re-arm) [^;]*$")
_CABLES = "check its cable and power"
_NOTHING = Diagnosis(
    "",
    "no device is faulty now, so the fault was transient",
    "resume the run; if it happens again, look for loose cables and for other programs that run "
    "at the same time",
)


class _Bisection:
    def __init__(self, bench: Bench, decoder: Decoder) -> None:
        self._bench, self._decoder = bench, decoder
        self._count = 0

    def run(self) -> Diagnosis:
        bench, model = self._bench, self._decoder.model
        passed_e = model.passed_e(self._bright("input"), self._bright("weight"))
        full = max(float(passed_e.sum()), 1.0)
        self._exposed_e()  # discarded: a detector that is late would return it again
        bench.source.disable()
        dark_e = self._exposed_e()
        noise = self._noise_e(1.0)
        if dark_e > 0.1 * full + noise:
            return Diagnosis(
                "detector",
                f"with the source off the detector still sees {dark_e / full:.0%} of the light",
                "check for stray light, and whether the detector returns old exposures",
            )
        if dark_e < -0.1 * full - noise:
            return Diagnosis(
                "detector",
                "with the source off the detector is darker than its dark level",
                "check its offset, and calibrate again",
            )
        offset = 0.0
        # a long exposure tells a dark modulator, which leaks a little, from a dark source
        for times in (1.0, _LONG):
            if times == _LONG:
                bench.source.disable()
                offset = self._exposed_e(times)
            bench.source.enable()
            dims = {role: self._exposed_e(times, role) - offset for role in ("input", "weight")}
            lit, noise = self._exposed_e(times) - offset, self._noise_e(times)
            if max(lit, *dims.values()) > 3 * noise:
                dims = {role: dim / full for role, dim in dims.items()}
                return self._interpret(lit / full, dims, noise / full)
        return Diagnosis(
            "source",
            "no light arrives although the source reports that it is on",
            "check the source's power and shutter, and that nothing blocks the beam",
        )

    def _interpret(self, lit: float, dims: dict[str, float], noise: float) -> Diagnosis:
        """Return the diagnosis of the measured light.

        Parameters
        ----------
        lit : light with both modulators bright, over the expected light
        dims : the same with one of them dark, by role
        noise : 6 sigma, over the expected light
        """
        responds = {role: dim < _FALLS * lit + noise for role, dim in dims.items()}
        for role in ("input", "weight"):
            other = "weight" if role == "input" else "input"
            if not responds[role] and responds[other]:
                return Diagnosis(
                    role,
                    f"the light does not follow the {role} modulator: {dims[role]:.0%} of it "
                    "remains when the modulator is dark",
                    "check whether it shows the frames that it is sent: cable, window and power",
                )
        if not any(responds.values()):
            return Diagnosis(
                "detector",
                "the light follows neither modulator",
                "check whether the detector returns old exposures, and both modulators' cables",
            )
        if not _DIM <= lit <= _BRIGHT:
            return Diagnosis(
                "source",
                f"both modulators respond, but the light is {lit:.2f} times the expected light",
                "check the source's power, and that nothing blocks the beam",
            )
        return _NOTHING

    # --- exposures -------------------------------------------------------------------------------

    def _bright(self, role: str) -> np.ndarray:
        light = self._decoder.layout.reference_light if role == "input" else 0.5
        return self._decoder.model.uniform_levels(role, light)

    def _frame(self, role: str, is_bright: bool) -> np.ndarray:
        """Return a frame of bright elements, or a frame that is dark everywhere, markers too."""
        layout = self._decoder.layout
        if is_bright:
            return layout.frame(role, self._bright(role), self._count)
        modulator = self._bench.modulators[role]
        return np.full(modulator.shape, layout.darkest[role], dtype=modulator.dtype)

    def _noise_e(self, times: float) -> float:
        """Return 6 sigma of the dark level, summed over all slots."""
        optics, layout = self._decoder.optics, self._decoder.layout
        each = optics.read_noise_e**2 + optics.dark_e * times + layout.converter_step_e**2 / 12
        return 6 * float((layout.read_pixels() * each).sum()) ** 0.5

    def _exposed_e(self, times: float = 1.0, dark: str = "") -> float:
        """Show bright frames, and return the electrons of all slots together.

        Parameters
        ----------
        times : exposure over that of a shot, as far as the bench file allows
        dark : role of the modulator that is dark instead
        """
        bench, file, layout = self._bench, self._bench.file, self._decoder.layout
        self._count += 1
        for role, modulator in bench.modulators.items():
            shown = modulator.show(self._frame(role, role != dark))
            modulator.wait_until_settled(shown)
        bench.shots += 1
        shot = Shot(f"diagnosis/{self._count}", bench.shots)
        timeout_s = file.limits.timeout_s
        exposure_s = min(file.exposure_s * times, file.limits.exposure_s[1], 0.4 * timeout_s)
        exposure_s = max(exposure_s, file.exposure_s)
        data = bench.detector.take_fresh(exposure_s, timeout_s, shot)
        return float(layout.electrons(data).sum())
