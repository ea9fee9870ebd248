"""`WorldOptions`: the properties of a simulated bench, as a bench file states them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..toml_file import TomlTable

Layout = Literal["imaged", "line", "single-pixel"]


class Registration(TomlTable):
    """The map of one plane onto the next, about the centre, in pixels of the second plane."""

    scale: float = Field(default=1.0, gt=0)
    rotation_deg: float = 0.0
    shift_px: tuple[float, float] = (0.0, 0.0)


class WorldOptions(TomlTable):
    """The properties of a simulated bench; the table `[world]` of a bench file.

    Parameters
    ----------
    layout : "imaged", "line" or "single-pixel"
    light : "pixels", or "timing": devices have their timing, but no light is computed (for
        schedulers and long runs)
    seed : seed of the imperfections and the noise of the bench
    electrons_per_pixel_j : photoelectrons per weight pixel at full transmission and joule of source
    input_registration : map of the input modulator onto the weight modulator
    camera_registration : map of the weight modulator onto the camera; its scale multiplies the
        magnification that just fits
    extinction_ratio : ratio of brightest to darkest light of each modulator
    lut_rms : rms of the smooth deviation of the response curves from a straight line
    gain_rms : rms of the gains of single weight pixels
    unevenness : rms of the smooth unevenness of the illumination
    blur_px : Gaussian point-spread function on the camera (imaged layout)
    crosstalk : fraction of the light of a row that falls on each of its neighbours (line layout)
    source_rms : rms fluctuation of the source from shot to shot
    drift_rms, drift_shots : rms of its slow drift, uncorrelated after half of `drift_shots`
    stray_e_per_s : stray light on each detector pixel that passed no modulator, with the source on
    settling : ratio of the true settling time of the modulators to the stated one
    spot_px : width of a spot in camera columns (line layout)
    distortion : of the image on the camera (imaged layout): a point moves by distortion * r^2 * its
        offset from the centre of the sensor, r = 1 in the corners
    hot_pixels : fraction of camera pixels with 1e3 to 1e5 dark electrons per second, source on
        or off
    dead_rows : rows of weight pixels that always stay at their darkest level
    fringes : fraction of the light of a weight pixel that interferes with its right neighbour, so
        that powers do not add; a model of a coherent bench, which calibration must refuse
    swapped : whether each modulator shows the frames of the other, as with swapped video cables
    covered : whether no light reaches the detector
    """

    layout: Layout = "imaged"
    light: Literal["pixels", "timing"] = "pixels"
    seed: int = Field(default=0, ge=0)
    electrons_per_pixel_j: float = Field(default=4e9, gt=0)
    input_registration: Registration = Registration()
    camera_registration: Registration = Registration()
    extinction_ratio: float = Field(default=500.0, gt=1)
    lut_rms: float = Field(default=0.0, ge=0, lt=0.2)
    gain_rms: float = Field(default=0.0, ge=0, lt=0.3)
    unevenness: float = Field(default=0.0, ge=0, lt=0.3)
    blur_px: float = Field(default=0.0, ge=0, le=10)
    crosstalk: float = Field(default=0.0, ge=0, lt=0.3)
    source_rms: float = Field(default=0.0, ge=0, lt=0.5)
    drift_rms: float = Field(default=0.0, ge=0, lt=0.2)
    drift_shots: float = Field(default=1e4, gt=0)
    stray_e_per_s: float = Field(default=0.0, ge=0)
    settling: float = Field(default=1.0, gt=0, le=1000)
    spot_px: int = Field(default=5, ge=1, le=1000)
    distortion: float = Field(default=0.0, gt=-0.3, lt=0.3)
    hot_pixels: float = Field(default=0.0, ge=0, le=1)
    dead_rows: tuple[Annotated[int, Field(ge=0)], ...] = ()
    fringes: float = Field(default=0.0, ge=0, le=1)
    swapped: bool = False
    covered: bool = False
