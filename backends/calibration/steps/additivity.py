"""Additivity: checks that light powers add, I(A + B) = I(A) + I(B) for two sets of columns.

Coherent light fails, because fields add: where the light of two pixels overlaps, fringes appear
that no inverse removes. I(A + B) + I(dark) is compared with I(A) + I(B), in small areas of the
detector.
"""

from __future__ import annotations

import numpy as np

from ....instruments import BadFit, UnexpectedIntensity
from ...optics.calibration_file import Figure, Plot
from ..exposure_search import find_exposure
from ..probe import area_sums
from ..session import CalibrationSession, Measured

_ROUNDS = 6
_AREA_PX = 4  # side of an area of camera pixels
_LIMIT = 0.02  # of the light; a source with 1 % of noise stays far below
_LEAST_MODULATION = 0.3  # of the light that the weight modulator's frames must change
_SURE = 5.0  # standard errors


def additivity(session: CalibrationSession) -> Measured:
    """Compare the light of even and odd weight columns with that of both.

    Raises
    ------
    BadFit : when powers do not add
    UnexpectedIntensity : when no light comes through the modulators
    """
    light, exposure_s = _measure(session)
    off = light["both"] + light["dark"] - light["even"] - light["odd"]  # of each round
    bright = light["both"].mean(axis=0) - light["dark"].mean(axis=0)
    total = off.sum(axis=(1, 2)) / bright.sum()
    mean, error = float(total.mean()), float(total.std(ddof=1) / np.sqrt(_ROUNDS))
    # areas: the residual beyond the mean departure and beyond the noise between rounds
    lit = bright > 0.2 * np.median(bright[bright > 0.05 * bright.max()])
    local = off - total[:, None, None] * bright
    pattern = (local.mean(axis=0) / np.maximum(bright, 1e-30))[lit]
    noise = (local.std(axis=0, ddof=1) / np.sqrt(_ROUNDS) / np.maximum(bright, 1e-30))[lit]
    excess = float(np.mean(pattern**2) - np.mean(noise**2))
    spread = float(np.sqrt(2 / max(lit.sum(), 2) * (1 + 1 / (_ROUNDS - 1))) * np.mean(noise**2))
    fringes = float(np.sqrt(max(excess, 0)))
    figures = (
        Figure("departure", mean, error, "", "of I(A + B) + I(dark) from I(A) + I(B), over I(A+B)"),
        Figure("fringes", fringes, float(np.sqrt(spread)), "", "rms of it in small areas"),
    )
    _check_modulation(session, exposure_s, bright, float(light["both"].mean(axis=0).sum()))
    if error > _LIMIT / 2:
        raise BadFit(
            f"the light changes too much to measure whether powers add (by {error:.1%}): check "
            "that nothing moves in the beam, and the source"
        )
    is_off = abs(mean) > max(_LIMIT / 2, _SURE * error)
    has_fringes = fringes > _LIMIT and excess > _SURE * spread
    if is_off or has_fringes:
        raise BadFit(
            f"light powers do not add: I(A + B) differs from I(A) + I(B) by {mean:+.1%} in total "
            f"and by {fringes:.1%} locally; the source is coherent (use an incoherent one, or a "
            "moving diffuser), or the detector is not linear"
        )
    plots = (Plot("I(A + B) - I(A) - I(B) over I(A + B)", "histogram", "pattern"),)
    return Measured(figures, {"pattern": pattern[:20_000].astype(np.float32)}, plots)


def _measure(session: CalibrationSession) -> tuple[dict[str, np.ndarray], float]:
    """Return the light of areas with both, no, even and odd columns [rounds, ...]; the exposure."""
    probe, shape = session.probe, session.bench.weight.shape
    probe.light(True)
    probe.fill("input")
    columns = np.arange(shape[1]) % 2
    masks = {
        "both": np.ones(shape, bool),
        "dark": np.zeros(shape, bool),
        "even": np.broadcast_to(columns == 0, shape),
        "odd": np.broadcast_to(columns == 1, shape),
    }
    probe.draw("weight", masks["both"])
    exposure_s = find_exposure(probe)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in masks}
    for number in range(_ROUNDS):
        for name, mask in masks.items():
            probe.draw("weight", mask)
            seen[name].append(area_sums(probe.pair_mean(exposure_s), _AREA_PX))
        session.progress((number + 1) / _ROUNDS)
    return {name: np.stack(frames) for name, frames in seen.items()}, exposure_s


def _check_modulation(
    session: CalibrationSession, exposure_s: float, bright: np.ndarray, total: float
) -> None:
    """Check that the frames change the light.

    Parameters
    ----------
    bright : light of areas above that of dark weights
    total : all light with bright weights
    """
    if not bright.sum() < _LEAST_MODULATION * total:
        return
    probe = session.probe
    probe.fill()
    probe.blank("input")
    if probe.pair_mean(exposure_s).sum() > (1 - _LEAST_MODULATION) * total:
        raise UnexpectedIntensity(
            "no light reaches the detector through the modulators: their frames do not change its "
            "light; check the source and the beam, and shield the detector from other light"
        )
    raise BadFit(
        "the weight modulator's frames hardly change the light (dark frames keep "
        f"{1 - bright.sum() / total:.0%}): it shows no new frames, is on another monitor, or is "
        "not in the beam"
    )
