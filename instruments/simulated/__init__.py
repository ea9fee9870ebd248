"""Simulated instruments: the same interfaces as real ones, over one world of light.

What the simulated modulators show is what the simulated camera and DAQ see (`light_path`), with
real timing on a real or a virtual clock, and with the faults that real devices have (`faults`).
"""

from .devices import SimulatedCamera, SimulatedDaq, SimulatedSLM, SimulatedSource
from .faults import Fault
from .light_path import LightPath, WorldOptions
from .monitors import SimulatedPowerMeter, SimulatedThermometer
from .optics import bend
from .profiles import CAMERAS, DAQS, MODULATORS

__all__ = [
    "CAMERAS",
    "DAQS",
    "MODULATORS",
    "Fault",
    "LightPath",
    "SimulatedCamera",
    "SimulatedDaq",
    "SimulatedPowerMeter",
    "SimulatedSLM",
    "SimulatedSource",
    "SimulatedThermometer",
    "WorldOptions",
    "bend",
]
