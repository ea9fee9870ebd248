"""`EchoDevice`: the device that the templates control; a real driver has no such file.

It represents a vendor library: it stores the values that it receives, and fails like real
libraries, with OSError when it is unplugged and TimeoutError when it does not reply.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any


class EchoDevice:
    """A device in memory.

    Attributes
    ----------
    memory : latest values, by name
    requests : number of requests received
    is_plugged, is_silent : set by tests that unplug or silence the device
    """

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}
        self.requests = 0
        self.is_plugged = True
        self.is_silent = False

    def put(self, name: str, value: Any) -> None:
        """Store a value."""
        self._check_connection()
        self.memory[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        """Return a stored value."""
        self._check_connection()
        return self.memory.get(name, default)

    def _check_connection(self) -> None:
        self.requests += 1
        if not self.is_plugged:
            raise OSError("no such device")
        if self.is_silent:
            time.sleep(0.01)
            raise TimeoutError("no reply within 0.01 s")


DEVICES: dict[str, EchoDevice] = defaultdict(EchoDevice)  # attached devices, by address
