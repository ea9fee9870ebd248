"""`FrameTracker`: encodes frames, shows them, and knows what the modulators may display."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from ...instruments import Shown, StaleFrame, UnexpectedIntensity
from ..base import Stats
from ..device_timeline import ROLES
from ..optics.model import OpticalModel
from ..timing import AHEAD
from .bench import Bench
from .decoding import Decoder, Frame, Taken
from .pending_shot import PendingShot, add_slice, zero_stats
from .queue import Worker
from .shot_plan import PlannedShot


class FrameTracker:
    """Encodes and shows the frames of shots.

    It owns the thread that encodes frames ahead, the frames shown last, and the unconfirmed frames:
    the ids of all frames since the last one that a marker confirmed. A frozen modulator still
    displays one of these, so the id of a new frame must differ from all of them.

    Parameters
    ----------
    bench : open
    decoder : with the optical model of the bench
    settling_s : measured settling time after a frame change, by role; 0 where not measured
    """

    def __init__(self, bench: Bench, decoder: Decoder, settling_s: dict[str, float]) -> None:
        self._bench, self._decoder, self._settling_s = bench, decoder, settling_s
        self._bits = 0 if decoder.is_guessed else decoder.layout.marker_bits
        self._shown: dict[str, tuple[Shown, Frame]] = {}
        self._unconfirmed: dict[str, list[int]] = {role: [] for role in ROLES}
        # frame ids shown minus planned: a retry takes an id, so that those after it move on
        self._ahead = dict.fromkeys(ROLES, 0)
        self._encoder = Worker("lightloom-encode")

    def close(self) -> None:
        """Stop the encoding thread after its current frame."""
        self._encoder.close()

    # --- encoding --------------------------------------------------------------------------------

    def encode_ahead(self, shots: Iterable[PlannedShot]) -> Iterator[PendingShot]:
        """Return the shots of a job; the frames of some shots ahead are encoded in advance.

        Only frames that change are encoded. The frames displayed before the first shot are unknown,
        so both frames of that shot are encoded.
        """
        ready: deque[PendingShot] = deque()
        keys: dict[str, tuple[int, int | str]] = {}
        stats, segment = zero_stats(), -1
        for planned in shots:
            if planned.segment != segment:
                stats, segment = zero_stats(), planned.segment
            pending = PendingShot(planned, stats)
            for role in ROLES:
                key = planned.key(role)
                if keys.get(role) != key:
                    keys[role] = key
                    pending.frames[role] = self._encoder.defer(
                        self._make_expected, role, planned, stats
                    )
            ready.append(pending)
            if len(ready) > AHEAD:
                yield ready.popleft()
        yield from ready

    def _make_expected(self, role: str, planned: PlannedShot, stats: Stats) -> Frame:
        """Return a frame with the frame id that it will probably show."""
        number = planned.counters[role] + self._ahead[role]
        return self._make_frame(role, planned, number, stats)

    def _make_frame(self, role: str, planned: PlannedShot, number: int, stats: Stats) -> Frame:
        start_s, start = self._bench.clock.now_s(), time.perf_counter()
        if role == "weight":
            levels = planned.job.weight(planned.weight)
        else:
            levels = input_levels(planned, self._decoder.model)
        pixels = self._decoder.layout.frame(role, levels, number)
        frame = Frame(role, planned.key(role), levels, number, pixels)
        stats.seconds["encode"] += time.perf_counter() - start
        end_s = self._bench.clock.now_s()
        add_slice(self._bench, "encode", f"{role} frame", start_s, end_s, planned)
        return frame

    # --- showing ---------------------------------------------------------------------------------

    @property
    def frames(self) -> dict[str, Frame]:
        """The frames shown last, by role."""
        return {role: frame for role, (_, frame) in self._shown.items()}

    def show(self, pending: PendingShot) -> None:
        """Show the frames of a shot that are not shown yet."""
        for role in ROLES:
            shown = self._shown.get(role)
            if shown is not None and shown[1].key == pending.planned.key(role):
                continue
            number = self._number(role, pending)
            self._ahead[role] = number - pending.planned.counters[role]
            encoding = pending.frames.get(role)
            frame = None if encoding is None else encoding.result()
            if frame is None or frame.number != number:
                frame = self._make_frame(role, pending.planned, number, pending.stats)
            self._show(frame, pending)

    def show_again(self, pending: PendingShot, expose: Callable[[], Taken]) -> None:
        """Show both frames of a shot, whatever the modulators display.

        Parameters
        ----------
        expose : takes an exposure that checks the displayed frames

        Raises
        ------
        InstrumentError : when that exposure fails
        """
        self._shown.clear()
        pending.depends_on_previous = False
        self._check_displayed(pending, expose)
        self.show(pending)

    def blank(self) -> None:
        """Blank both modulators, so that no earlier frame is mistaken for a later one."""
        for role in ROLES:
            self._bench.modulators[role].blank()
            self._bench.detector.expect_frame(role)
            self._unconfirmed[role].clear()
        self._shown.clear()

    def wait_until_settled(self, decoding: Worker) -> None:
        """Wait until both frames have settled; decode and encode meanwhile."""
        settled_s = max(self._settled_s(role, shown) for role, (shown, _) in self._shown.items())
        for worker in (decoding, self._encoder):
            worker.use_spare_time(settled_s - self._bench.clock.now_s())
        for role, modulator in self._bench.modulators.items():
            shown = self._shown[role][0]
            self._bench.clock.sleep_until(shown.shown_at_s + self._settling_s[role])
            modulator.wait_until_settled(shown)

    def _settled_s(self, role: str, shown: Shown) -> float:
        """Return when the light of a frame has settled."""
        return max(shown.settled_at_s, shown.shown_at_s + self._settling_s[role])

    def _show(self, frame: Frame, pending: PendingShot) -> None:
        start, role, stats = time.perf_counter(), frame.role, pending.stats
        if self._bits:
            self._unconfirmed[role].append(frame.number % (1 << self._bits))
        shown = self._bench.modulators[role].show(frame.pixels)
        self._shown[role] = (shown, frame)
        self._bench.detector.expect_frame(role)
        settled_s = self._settled_s(role, shown)
        add_slice(self._bench, role, "settling", shown.shown_at_s, settled_s, pending.planned)
        if role == "input":
            stats.input_frames += 1
            stats.input_samples += frame.levels.size
        else:
            stats.weight_frames += 1
        stats.seconds["product"] += time.perf_counter() - start

    # --- frame ids -------------------------------------------------------------------------------

    def confirm(self, numbers: Mapping[str, int]) -> None:
        """Drop the unconfirmed frames that are older than those that an accepted shot shows.

        Parameters
        ----------
        numbers : frame ids of its markers, by role
        """
        for role, number in numbers.items():
            unconfirmed = self._unconfirmed[role]
            if number in unconfirmed:
                del unconfirmed[: unconfirmed.index(number)]

    def _number(self, role: str, pending: PendingShot) -> int:
        """Return the frame id to show: the planned number, or the next one that is unique."""
        bits, number = self._bits, pending.planned.counters[role]
        if not bits:
            return number
        count, unconfirmed = 1 << bits, self._unconfirmed[role]
        if number % count not in unconfirmed:
            return number
        if len(set(unconfirmed)) == count:
            pending.depends_on_previous = True
            return number + (number % count == unconfirmed[-1])
        return next(n for n in range(number + 1, number + count) if n % count not in unconfirmed)

    def _check_displayed(self, pending: PendingShot, expose: Callable[[], Taken]) -> None:
        """Check with one more exposure which frames are displayed, if every frame id is possible.

        The frames of the shot are shown as many times as there are frame ids. A modulator that lags
        by at most that many frames then displays no earlier frame.

        Raises
        ------
        InstrumentError : when the exposure fails
        """
        count = 1 << self._bits
        if not self._bits or all(len(set(ids)) < count for ids in self._unconfirmed.values()):
            return
        self.show(pending)
        for _, frame in list(self._shown.values()) * count:
            self._show(frame, pending)
        taken = expose()
        try:
            layout, markers = self._decoder.layout, self._decoder.response.markers
            seen = layout.marks(layout.read(taken.data), None, markers).numbers
        except (StaleFrame, UnexpectedIntensity):
            seen = {}  # no id is readable, so an id that is read later belongs to a later frame
        for role in ROLES:
            displayed = [seen[role]] if role in seen else []
            # the last shown id stays in the list, so that the next one differs from it
            self._unconfirmed[role] = [self._unconfirmed[role][-1], *displayed]
        self._shown.clear()


def input_levels(planned: PlannedShot, model: OpticalModel) -> np.ndarray:
    """Return the input grey levels of a shot: those of its job, or uniform ones of a reference."""
    if isinstance(planned.input, int):
        return planned.job.input(planned.input)
    return model.uniform_levels("input", model.layout.reference_light)
