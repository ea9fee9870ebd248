"""Maps the rooms at the root onto the package `lightloom`; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

ROOMS = ("models", "scheduler", "backends", "instruments", "benchmarks")

package_dir = {"lightloom": "lightloom"}
packages = ["lightloom", *(f"lightloom.{name}" for name in find_packages("lightloom"))]
for room in ROOMS:
    package_dir[f"lightloom.{room}"] = room
    packages += [f"lightloom.{room}", *(f"lightloom.{room}.{name}" for name in find_packages(room))]

setup(package_dir=package_dir, packages=packages)
