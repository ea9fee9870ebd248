"""`WorldOptions`: the properties of a simulated bench, as a bench file states them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..file_keys import Items
from ..toml_file import TomlTable

Layout = Literal["imaged", "line", "single-pixel"]


class Registration(TomlTable):
    """The map of one plane onto the next, about the centre, in pixels of the second plane."""

    scale: float = Field(default=1.0, gt=0)
    """Magnification."""
    rotation_deg: float = 0.0
    """Rotation about the centre."""
    shift_px: Annotated[tuple[float, float], Items(("down", "right"))] = (0.0, 0.0)
    """Shift down and to the right."""


class WorldOptions(TomlTable):
    """The properties of a simulated bench; the table `[world]` of a bench file."""

    layout: Layout = "imaged"
    """Leave it out: the layout of the bench file holds, and another one is refused."""
    light: Literal["pixels", "timing"] = "pixels"
    """Under "timing" the devices take their time, but no light is computed.

    Products are then exact up to grey levels. Use it for schedulers and long runs.
    """
    seed: int = Field(default=0, ge=0)
    """Seed of the imperfections and of the noise of the bench."""
    electrons_per_pixel_j: float = Field(default=4e9, gt=0)
    """Photoelectrons per weight pixel at full transmission and per joule of the source."""
    input_registration: Registration = Registration()
    """Map of the input modulator onto the weight modulator."""
    camera_registration: Registration = Registration()
    """Map of the weight modulator onto the camera.

    Its scale multiplies the magnification that just fits. In a line layout a rotation only moves
    the rows closer together.
    """
    extinction_ratio: float = Field(default=500.0, gt=1)
    """Brightest light of each modulator over its darkest light."""
    lut_rms: float = Field(default=0.0, ge=0, lt=0.2)
    """Smooth deviation of the response curves from a straight line, rms, over full scale."""
    gain_rms: float = Field(default=0.0, ge=0, lt=0.3)
    """Deviation of the gains of single weight pixels from 1, rms."""
    unevenness: float = Field(default=0.0, ge=0, lt=0.3)
    """Smooth unevenness of the illumination, rms, over its mean."""
    blur_px: float = Field(default=0.0, ge=0, le=10)
    """Width of the Gaussian point-spread function on the camera (imaged layout)."""
    crosstalk: float = Field(default=0.0, ge=0, lt=0.3)
    """Fraction of the light of a pixel row that falls on each neighbour (line layout)."""
    source_rms: float = Field(default=0.0, ge=0, lt=0.5)
    """Relative fluctuation of the source from shot to shot, rms."""
    drift_rms: float = Field(default=0.0, ge=0, lt=0.2)
    """Relative slow drift of the source, rms."""
    drift_shots: float = Field(default=1e4, gt=0)
    """Shots of the slow drift: after about half of them the drift has another value."""
    stray_e_per_s: float = Field(default=0.0, ge=0)
    """Light on each detector pixel that passed no modulator, while the source is on."""
    settling: float = Field(default=1.0, gt=0, le=1000)
    """True settling time of the modulators over the time that they state."""
    spot_px: int = Field(default=5, ge=1, le=1000)
    """Width of a spot in camera columns (line layout).

    A wider spot holds more light before its pixels are full.
    """
    distortion: float = Field(default=0.0, gt=-0.3, lt=0.3)
    """Distortion of the camera image (imaged layout).

    A point moves by `distortion` r^2 times its offset from the centre of the sensor. In the corners
    r is 1.
    """
    hot_pixels: float = Field(default=0.0, ge=0, le=1)
    """Fraction of camera pixels that are hot.

    A hot pixel has 1e3 to 1e5 dark electrons per second, whether the source is on or off.
    """
    dead_rows: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Rows of weight pixels, from 0, that stay at their darkest level."""
    fringes: float = Field(default=0.0, ge=0, le=1)
    """Fraction v of the light of each weight pixel that interferes with its right neighbour.

    Light a beside light b becomes `(1 - v) a + v [(a + b) / 2 + sqrt(a b) cos(phase)]`. This stands
    for a coherent bench, which calibration must refuse.
    """
    swapped: bool = False
    """Exchanged video cables: each modulator shows the frames of the other.

    Both modulators must be alike.
    """
    covered: bool = False
    """Whether the beam is covered, so that no light reaches the detector."""
