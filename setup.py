"""Maps the rooms at the root onto the package `lightloom`; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

ROOMS = ("models", "scheduler", "backends", "instruments", "benchmarks")


def inside(folder: str, package: str) -> list[str]:
    """Return a package and all in it, folders of data too."""
    parts = find_namespace_packages(folder, exclude=["*__pycache__*"])
    return [package, *(f"{package}.{part}" for part in parts)]


package_dir = {"lightloom": "lightloom"}
packages = inside("lightloom", "lightloom")
for room in ROOMS:
    package_dir[f"lightloom.{room}"] = room
    packages += inside(room, f"lightloom.{room}")

setup(package_dir=package_dir, packages=packages)
