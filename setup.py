"""Maps the rooms at the root onto the package `lightloom`; everything else is in pyproject.toml."""

import shutil

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOMS = ("models", "scheduler", "backends", "instruments", "benchmarks")


def inside(folder: str, package: str) -> list[str]:
    """Return a package and all in it, folders of data too."""
    parts = find_namespace_packages(folder, exclude=["*__pycache__*"])
    return [package, *(f"{package}.{part}" for part in parts)]


class FreshBuild(build_py):
    """Build from nothing: setuptools would also pack modules of an earlier build that are gone."""

    def run(self) -> None:
        """Remove what an earlier build left, then build."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


package_dir = {"lightloom": "lightloom"}
packages = inside("lightloom", "lightloom")
for room in ROOMS:
    package_dir[f"lightloom.{room}"] = room
    packages += inside(room, f"lightloom.{room}")

setup(package_dir=package_dir, packages=packages, cmdclass={"build_py": FreshBuild})
