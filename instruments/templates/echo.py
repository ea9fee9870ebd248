"""`EchoDevice`: what the templates drive instead of a device; a real driver has no such file.

It stands for a vendor's library: it remembers what it is told, and fails as real ones do, with
OSError when it is unplugged and TimeoutError when it does not answer.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any


class EchoDevice:
    """A device in memory.

    Attributes
    ----------
    memory : what it was told last, by name
    requests : how many it has been sent
    is_plugged, is_silent : set by a test that takes it away, or the answers
    """

    def __init__(self) -> None:
        self.memory: dict[str, Any] = {}
        self.requests = 0
        self.is_plugged = True
        self.is_silent = False

    def put(self, name: str, value: Any) -> None:
        """Tell it something."""
        self._answer()
        self.memory[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        """Ask for what it was told."""
        self._answer()
        return self.memory.get(name, default)

    def _answer(self) -> None:
        self.requests += 1
        if not self.is_plugged:
            raise OSError("no such device")
        if self.is_silent:
            time.sleep(0.01)
            raise TimeoutError("no answer within 0.01 s")


DEVICES: dict[str, EchoDevice] = defaultdict(EchoDevice)  # by address: what is plugged in
