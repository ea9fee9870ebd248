"""`diagnose`: which device is to blame, when repeats of a shot do not help.

A few exposures: darkness with the source off, then light, then one modulator after the other made
dark. Light that stays where it should go, or goes where it should stay, names its device. It takes
a bounded time: each wait has a time-out, and a device that does not answer is the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...instruments import InstrumentError, InterlockOpen, LightloomError, Shot
from .bench import WINDOW_SAMPLES, Bench
from .decoding import Decoder

_FALLS = 0.3  # share of the light that may be left when a modulator is dark
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
        bench, full = self._bench, self._light(self._bright, self._bright)
        bench.source.disable()
        dark_e = self._taken(self._bright, self._bright)
        noise = 6 * float(self._noise().sum()) ** 0.5  # of darkness
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
        lit = self._taken(self._bright, self._bright) / full
        dims = {
            "input": self._taken(self._dark, self._bright) / full,
            "weight": self._taken(self._bright, self._dark) / full,
        }
        return self._judged(lit, dims, noise / full)

    def _judged(self, lit: float, dims: dict[str, float], noise: float) -> Diagnosis:
        """Say what it means.

        Parameters
        ----------
        lit : light of both modulators bright, over what it should be
        dims : with one of them dark, by role
        """
        if max(lit, *dims.values()) < 3 * noise:  # even dark modulators leak more
            return Diagnosis(
                "source",
                "no light arrives although the source says that it is on",
                "check the source's power and shutter, and that nothing stands in the beam",
            )
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
        share = self._decoder.layout.reference_light if role == "input" else 0.5
        return self._level(role, share)

    def _dark(self, role: str) -> np.ndarray:
        return self._level(role, 0.0)

    def _level(self, role: str, share: float) -> np.ndarray:
        layout = self._decoder.layout
        rows = 1 if role == "input" and layout.shares_input else layout.slots
        return self._decoder.curves[role].levels(np.full((rows, layout.length), share))

    def _light(self, x: Callable[[str], np.ndarray], w: Callable[[str], np.ndarray]) -> float:
        return max(float(self._decoder.passed_e(x("input"), w("weight")).sum()), 1.0)

    def _noise(self) -> np.ndarray:
        optics, layout = self._decoder.optics, self._decoder.layout
        return np.asarray(layout.read_pixels() * (optics.read_noise_e**2 + optics.dark_e + 1))

    def _taken(self, x: Callable[[str], np.ndarray], w: Callable[[str], np.ndarray]) -> float:
        """Show levels everywhere, and give the electrons of all slots together."""
        bench, file, layout = self._bench, self._bench.file, self._decoder.layout
        self._count += 1
        for role, levels, modulator in (
            ("input", x("input"), bench.input),
            ("weight", w("weight"), bench.weight),
        ):
            shown = modulator.show(layout.frame(role, levels, self._count))
            modulator.wait_until_settled(shown)
        bench.shots += 1
        shot = Shot(f"diagnosis/{self._count}", bench.shots)
        if file.layout == "block":
            rate_hz, timeout_s = WINDOW_SAMPLES / file.exposure_s, file.limits.timeout_s
            data = bench.daq.read((0,), WINDOW_SAMPLES, rate_hz, timeout_s, shot).volts
        else:
            bench.camera.arm()
            bench.camera.trigger(shot)
            data = bench.camera.read(file.limits.timeout_s).data
        return float(layout.electrons(data).sum())
