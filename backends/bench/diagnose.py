"""`diagnose`: which device is to blame, when repeats of a shot do not help.

A few exposures: darkness with the source off, then light, then one modulator after the other made
dark. Light that stays where it should go, or goes where it should stay, names its device. It takes
a bounded time: each wait has a time-out, and a device that does not answer is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...instruments import InstrumentError, InterlockOpen, LightloomError, Shot
from .bench import WINDOW_SAMPLES, Bench
from .decoding import Decoder

_FALLS = 0.3  # share of the light that may be left when a modulator is dark
_LONG = 100.0  # exposures in one, to see what dark modulators leak
_DIM, _BRIGHT = 0.7, 1.4  # share of the light that there should be


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Parameters
    ----------
    role : of the device to blame; "" where all is as it should be
    sentence : a clause, such as "the light does not follow the input modulator"
    advice : what the operator should do
    """

    role: str
    sentence: str
    advice: str


def diagnose(bench: Bench, decoder: Decoder, was_lit: bool = True) -> Diagnosis:
    """Find the device to blame; it never raises for what a device does.

    Parameters
    ----------
    was_lit : the source may be switched on again after it was switched off for a dark exposure
    """
    if bench.is_timing_only:
        return _NOTHING
    try:
        return _Bisection(bench, decoder).found(was_lit)
    except InterlockOpen as error:
        return Diagnosis("source", str(error), "make the beam path safe, re-arm the source on site")
    except LightloomError as error:
        instrument = error.instrument if isinstance(error, InstrumentError) else None
        for role, item in bench.instruments.items():
            if item is instrument:
                return Diagnosis(role, f"it does not do what it is asked ({error})", _CABLES)
        return Diagnosis("", f"it could not be narrowed down ({error})", _CABLES)


_CABLES = "check its cable and power"
_NOTHING = Diagnosis(
    "",
    "nothing is wrong with any device now, so it was transient",
    "resume the run; if it happens again, look for loose cables and for what else runs then",
)


class _Bisection:
    def __init__(self, bench: Bench, decoder: Decoder) -> None:
        self._bench, self._decoder = bench, decoder
        self._count = 0

    def found(self, was_lit: bool) -> Diagnosis:
        bench, full = self._bench, self._light()
        self._taken()  # which a detector that is late would give again
        bench.source.disable()
        dark_e = self._taken()
        noise = self._noise_e(1.0)
        if dark_e > 0.1 * full + noise:
            return Diagnosis(
                "detector",
                f"with the source off the detector still sees {dark_e / full:.0%} of the light",
                "check for light from elsewhere, and whether the detector gives old exposures",
            )
        if dark_e < -0.1 * full - noise:
            return Diagnosis(
                "detector",
                "with the source off the detector is darker than its dark level",
                "check its offset, and calibrate again",
            )
        if not was_lit:
            return _NOTHING
        bench.source.enable()
        lit, dims = self._followed(1.0, 0.0)
        if max(lit, *dims.values()) > 3 * noise:
            return self._judged(lit / full, _over(dims, full), noise / full)
        # a dark modulator leaks a little, and a dark source nothing: a long exposure tells them
        bench.source.disable()
        offset = self._taken(_LONG)
        bench.source.enable()
        lit, dims = self._followed(_LONG, offset)
        noise = self._noise_e(_LONG)
        if max(lit, *dims.values()) > 3 * noise:
            return self._judged(lit / full, _over(dims, full), noise / full)
        return Diagnosis(
            "source",
            "no light arrives although the source says that it is on",
            "check the source's power and shutter, and that nothing stands in the beam",
        )

    def _followed(self, times: float, offset: float) -> tuple[float, dict[str, float]]:
        """Return the electrons of both modulators bright, and those with either of them dark."""
        dims = {role: self._taken(times, role) - offset for role in ("input", "weight")}
        return self._taken(times) - offset, dims

    def _judged(self, lit: float, dims: dict[str, float], noise: float) -> Diagnosis:
        """Say what it means.

        Parameters
        ----------
        lit : light of both modulators bright, over what it should be
        dims : with one of them dark, by role
        """
        follows = {role: dim < _FALLS * lit + noise for role, dim in dims.items()}
        for role in ("input", "weight"):
            other = "weight" if role == "input" else "input"
            if not follows[role] and follows[other]:
                return Diagnosis(
                    role,
                    f"the light does not follow the {role} modulator: {dims[role]:.0%} of it "
                    "stays when that is dark",
                    "check whether it shows what it is sent: cable, window and power",
                )
        if not any(follows.values()):
            return Diagnosis(
                "detector",
                "the light follows neither modulator",
                "check whether the detector gives old exposures, and both modulators' cables",
            )
        if not _DIM <= lit <= _BRIGHT:
            return Diagnosis(
                "source",
                f"both modulators answer, and the light is {lit:.2f} times what it should be",
                "check the source's power, and that nothing stands in the beam",
            )
        return _NOTHING

    # --- exposures -------------------------------------------------------------------------------

    def _bright(self, role: str) -> np.ndarray:
        layout = self._decoder.layout
        share = layout.reference_light if role == "input" else 0.5
        rows = 1 if role == "input" and layout.shares_input else layout.slots
        return self._decoder.curves[role].levels(np.full((rows, layout.length), share))

    def _frame(self, role: str, is_bright: bool) -> np.ndarray:
        """Return a frame of bright elements, or one that is dark all over, markers too."""
        layout = self._decoder.layout
        if is_bright:
            return layout.frame(role, self._bright(role), self._count)
        modulator = self._bench.input if role == "input" else self._bench.weight
        return np.full(modulator.shape, layout.darkest[role], dtype=modulator.dtype)

    def _light(self) -> float:
        passed = self._decoder.model.passed_e(self._bright("input"), self._bright("weight"))
        return max(float(passed.sum()), 1.0)

    def _noise_e(self, times: float) -> float:
        """Return 6 sigma of darkness, over all slots."""
        optics, layout = self._decoder.optics, self._decoder.layout
        each = optics.read_noise_e**2 + optics.dark_e * times + optics.gain_e_per_count**2 / 12
        if self._bench.file.layout == "single-pixel":
            each = optics.read_noise_e**2 + optics.dark_e * times
        return 6 * float((layout.read_pixels() * each).sum()) ** 0.5

    def _taken(self, times: float = 1.0, dark: str = "") -> float:
        """Show bright frames, and give the electrons of all slots together.

        Parameters
        ----------
        dark : role of the modulator that is dark instead
        times : the exposure of a shot, as far as the bench file allows
        """
        bench, file, layout = self._bench, self._bench.file, self._decoder.layout
        self._count += 1
        for role, modulator in (("input", bench.input), ("weight", bench.weight)):
            shown = modulator.show(self._frame(role, role != dark))
            modulator.wait_until_settled(shown)
        bench.shots += 1
        shot = Shot(f"diagnosis/{self._count}", bench.shots)
        timeout_s = file.limits.timeout_s
        exposure_s = min(file.exposure_s * times, file.limits.exposure_s[1], 0.4 * timeout_s)
        exposure_s = max(exposure_s, file.exposure_s)
        if file.layout == "single-pixel":
            rate_hz = WINDOW_SAMPLES / exposure_s
            data = bench.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, shot).volts
        else:
            bench.camera.configure(exposure_s=exposure_s)
            bench.camera.arm()
            bench.camera.trigger(shot)
            data = bench.camera.read(timeout_s).data
        return float(layout.electrons(data).sum())


def _over(values: dict[str, float], whole: float) -> dict[str, float]:
    return {name: value / whole for name, value in values.items()}
