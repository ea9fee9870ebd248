"""Backends with one interface: the digital reference, the mock of a bench, the bench."""

if __name__ != "lightloom.backends":
    raise ImportError("import lightloom.backends, not backends")

from pathlib import Path

from ..instruments import InputError
from .address import Address, row_ids
from .base import Backend, MatmulResult, PreparedWeights, Ranges, Stats
from .device_timeline import DeviceTimeline, JobShape, best_order, frames_of
from .digital import DigitalBackend
from .mock.backend import MockBackend, Twin, mock_path
from .profile import DEFAULT, OpticsProfile, load_profile, parse_setting, profile_names
from .tiling import ORDERS, Geometry, cuts, pack, tile_count, tiles, visits
from .timing import ShotTiming

__all__ = [
    "DEFAULT",
    "ORDERS",
    "Address",
    "Backend",
    "DeviceTimeline",
    "DigitalBackend",
    "Geometry",
    "JobShape",
    "MatmulResult",
    "MockBackend",
    "OpticsProfile",
    "PreparedWeights",
    "Ranges",
    "ShotTiming",
    "Stats",
    "best_order",
    "cuts",
    "frames_of",
    "load_profile",
    "mock_path",
    "open_backend",
    "pack",
    "parse_setting",
    "profile_names",
    "row_ids",
    "tile_count",
    "tiles",
    "twin",
    "visits",
]


def _twin_products(profile: OpticsProfile, seed: int) -> Twin:
    from .bench_twin.products import TwinProducts  # it needs all of the bench

    return TwinProducts(profile, seed)


def twin(calibration: str | Path, output: str | Path | None = None) -> OpticsProfile:
    """Make the profile of a mock that multiplies like a calibrated bench: its twin.

    The bench is not needed. The mock has its slots and elements with their gains, its response
    curves, leaks, crosstalk, noise and brightness. Its products are corrected as on the bench; with
    `corrections = "off"` they have the errors that the calibration measured.

    Parameters
    ----------
    calibration : file that `lightloom calibrate` wrote
    output : profile to write (.toml), with its arrays beside it; None keeps the arrays in memory,
        and runs cannot be recorded then

    Raises
    ------
    InputError : when the calibration is incomplete, cannot be used, or the output exists
    """
    from .bench_twin.calibration import made_twin  # it needs all of the bench

    return made_twin(calibration, output)


MockBackend.twin_products = staticmethod(_twin_products)


def open_backend(name: str = "mock", seed: int = 0) -> Backend:
    """Open a backend by name: "digital", "mock", "mock:PROFILE", or the path of a bench file.

    PROFILE is one of `profile_names()` or the path of a TOML file of the same form.

    Raises
    ------
    InputError : for an unknown backend or profile
    """
    kind, _, profile = str(name).partition(":")
    if kind == "digital" and not profile:
        return DigitalBackend()
    if kind == "mock":
        return MockBackend(load_profile(profile or DEFAULT), seed)
    if str(name).lower().endswith(".toml"):
        from .bench import BenchBackend, load_bench

        return BenchBackend(load_bench(name))
    raise InputError(
        f"unknown backend {name!r}; choose 'digital', 'mock', 'mock:PROFILE' or the path of a "
        "bench file (.toml)"
    )
