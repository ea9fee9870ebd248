"""Simulated instruments: the same interfaces as real ones, over one shared light path.

The simulated camera and DAQ see what the simulated modulators show (`light_path`), with realistic
timing on a real or a virtual clock, and with the faults of real devices (`faults`).
"""

from .devices import SimulatedCamera, SimulatedDaq, SimulatedSLM, SimulatedSource
from .faults import Fault
from .light_path import LightPath
from .monitors import SimulatedPowerMeter, SimulatedThermometer
from .optics import bend
from .profiles import CAMERAS, DAQS, MODULATORS
from .world_options import WorldOptions

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
