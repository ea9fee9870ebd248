"""Maps the rooms at the root onto the package `lightloom`; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

ROOMS = ("models", "scheduler", "backends", "instruments", "benchmarks")

package_dir = {"lightloom": "lightloom"}
packages = ["lightloom"]
for room in ROOMS:
    package_dir[f"lightloom.{room}"] = room
    parts = find_namespace_packages(room, exclude=["*__pycache__*"])  # folders of data too
    packages += [f"lightloom.{room}", *(f"lightloom.{room}.{part}" for part in parts)]

setup(package_dir=package_dir, packages=packages)
