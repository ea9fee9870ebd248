"""The serial DAQ's own firmware, compiled for this computer, at the end of a pseudo-terminal."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

KIT = Path(__file__).parent
SKETCH = KIT.parents[1] / "examples" / "serial_daq" / "serial_daq.ino"


def compile_firmware(folder: Path) -> Path:
    """Return the firmware as a program; skip where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not hasattr(os, "openpty"):
        pytest.skip("needs a C++ compiler (apt-get install g++) and pseudo-terminals")
    program = folder / "serial_daq"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{KIT / 'arduino'}", "-x", "c++"]
    subprocess.run([compiler, *flags, SKETCH, "-o", program], check=True)
    return program


class Board:
    """The firmware in a process of its own."""

    def __init__(self, program: Path) -> None:
        import tty

        ours, self.theirs = os.openpty()
        tty.setraw(self.theirs)
        self.port = os.ttyname(self.theirs)
        self.process = subprocess.Popen([program], stdin=ours, stdout=ours)
        os.close(ours)

    def unplug(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.unplug()
        os.close(self.theirs)
