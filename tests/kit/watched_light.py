"""Programs whose simulated light leaves a trace in files, so that it is known when they have ended.

They run in a folder: `light` gets a line whenever the light goes on or off, `shots` a dot for each
exposure of the camera.
"""

from pathlib import Path

WATCHED = """
from pathlib import Path
from lightloom.instruments.simulated import LightPath

def note(name, text):
    with Path(name).open("a") as stream:
        stream.write(text)

def set_power(world, power_w):
    vars(world)["power_w"] = power_w
    note("light", "on\\n" if power_w else "off\\n")

def seen(world, *arguments):
    note("shots", ".")
    return on_camera(world, *arguments)

on_camera = LightPath.on_camera
LightPath.on_camera = seen
LightPath.power_w = property(lambda world: vars(world)["power_w"], set_power)
"""
WATCHED_COMMAND = WATCHED + "from lightloom.__main__ import main\nmain()\n"


def shots(folder: Path) -> int:
    """Return the number of exposures so far."""
    path = folder / "shots"
    return path.stat().st_size if path.exists() else 0


def went_off(folder: Path) -> bool:
    """Say whether the light was on, and is off."""
    lines = (folder / "light").read_text(encoding="utf-8").split()
    return "on" in lines and lines[-1] == "off"
