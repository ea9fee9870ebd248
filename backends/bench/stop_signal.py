"""`StopSignal`: ends the shots of a bench and all waits between them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

from ...instruments import Clock, NotConnected


class StopSignal(Event):
    """An event that any thread may set, so that the bench takes no more shots.

    Parameters
    ----------
    path : of the bench file, for messages
    clock : of the bench
    beat : reports progress of the bench
    """

    def __init__(self, path: str, clock: Clock, beat: Callable[[], None]) -> None:
        super().__init__()
        self._path, self._clock, self._beat = path, clock, beat

    def check(self, when: str) -> None:
        """Check that it is not set.

        Parameters
        ----------
        when : end of the message, such as "while it waited"

        Raises
        ------
        NotConnected : when it is
        """
        if self.is_set():
            raise NotConnected(f"{self._path}: the bench was closed {when}")

    def sleep(self, seconds: float) -> None:
        """Wait on the clock of the bench, whose heartbeat continues: this wait is intended.

        Raises
        ------
        NotConnected : when it is set
        """
        clock = self._clock
        if clock.is_virtual:
            clock.sleep_until(clock.now_s() + seconds)
        ends_s = clock.now_s() + (0.0 if clock.is_virtual else seconds)
        while not self.is_set() and (left_s := ends_s - clock.now_s()) > 0:
            self._beat()
            self.wait(min(left_s, 1.0))
        self.check("while it waited")

    def wait_for_light(self, seconds: float) -> None:
        """Wait on the real clock while the light is held off; the heartbeat continues.

        Raises
        ------
        NotConnected : when it is set
        """
        self._beat()
        self.wait(seconds)
        self.check("while it waited for light")
