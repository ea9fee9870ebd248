"""Simulated instruments: the same interfaces as real ones, over one shared light path.

The simulated camera and DAQ see what the simulated modulators show (`light_path`), with realistic
timing on a real or a virtual clock, and with the faults of real devices (`faults`).
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
