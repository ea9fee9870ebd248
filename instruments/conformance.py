"""What every driver must do, as tests that its author inherits, one class per kind of instrument.

    from lightloom.instruments.conformance import CameraConformance

    class TestMyCamera(CameraConformance):
        @pytest.fixture
        def make(self):
            return lambda: create("my-camera", "camera", {"port": "/dev/ttyUSB0"})

    pytest test_my_camera.py

The names of the classes do not begin with Test, so that importing them collects nothing. Hooks that
are not overridden skip their tests with a sentence. Nothing emits light or sets an output unless
`may_act` says that this harms nobody. The only module of the package that needs pytest.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from .base import Finding, Instrument
from .camera import Camera, Region, Shot
from .count_checks import alignment_shift
from .daq import Daq
from .errors import (
    Disconnected,
    InputError,
    InstrumentError,
    InstrumentTimeout,
    InUse,
    LightloomError,
    LimitExceeded,
    NotConnected,
)
from .image_checks import grows_with_exposure, reads_the_part
from .light_source import LightSource, PowerMeter
from .slm import SpatialLightModulator

THREADS = 8

Kind = TypeVar("Kind", bound=Instrument)
Call = Callable[[], Any]


def refused(error: type[LightloomError], call: Call, instrument: Instrument) -> None:
    """Check that a call fails with this error, in one sentence that names the instrument."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert instrument.name in message, f"{message!r} does not name {instrument.name!r}"
    assert "\n" not in message, f"{message!r} is more than one sentence"


class InstrumentConformance(Generic[Kind]):
    """What holds for every instrument.

    Attributes
    ----------
    may_act : whether tests may emit light and set outputs; True where that harms nobody
    queries_per_thread : how often each of the 8 threads asks
    cycles : how often the instrument is opened and closed to find what leaks
    notices_unplug_within_s : some devices report a lost cable only after seconds
    lets_go_within_s : threads and files of its library that end only after it is closed
    """

    may_act = False
    queries_per_thread = 5
    cycles = 3
    notices_unplug_within_s = 10.0
    lets_go_within_s = 5.0

    # --- what an author overrides ----------------------------------------------------------------

    @pytest.fixture
    def make(self) -> Callable[[], Kind]:
        """Return function that makes the instrument anew, not connected, always the same device."""
        raise NotImplementedError("override the fixture `make`")

    def unplug(self, instrument: Kind) -> None:
        """Take the device away while it is connected."""
        pytest.skip("unplug() is not overridden: nothing takes this device away in a test")

    def mute(self, instrument: Kind) -> None:
        """Make the device swallow what it is asked, without an answer."""
        pytest.skip("mute() is not overridden: nothing silences this device in a test")

    def sent(self, instrument: Kind) -> int | None:
        """Count what has been sent to the device; None where nobody counts."""
        return None

    # --- what a kind fills in --------------------------------------------------------------------

    def use(self, instrument: Kind) -> None:
        """Make one ordinary exchange that harms nobody."""
        raise NotImplementedError

    def requests(self, instrument: Kind) -> dict[str, Call]:
        """Return every public exchange, by name."""
        raise NotImplementedError

    def excesses(self, instrument: Kind) -> dict[str, tuple[type[LightloomError], Call]]:
        """Return requests beyond the device's limits, and the error that each must meet."""
        return {}

    def query(self, instrument: Kind, thread: int, number: int) -> None:
        """Make one exchange from one of several threads, and check that the reply is its own."""
        self.use(instrument)

    # --- the tests -------------------------------------------------------------------------------

    @pytest.fixture
    def instrument(self, make: Callable[[], Kind]) -> Iterator[Kind]:
        """Return the instrument, connected; closed after the test."""
        instrument = make()
        with instrument:
            yield instrument

    def test_describes_itself(self, make: Callable[[], Kind]) -> None:
        """Else a record of a run could not say what it ran on."""
        instrument = make()
        json.dumps(instrument.describe())
        with instrument:
            described = json.loads(json.dumps(instrument.describe(), allow_nan=False))
        assert described["name"] == instrument.name
        assert described["kind"] == instrument.kind
        assert described["driver"]
        assert set(described["identity"]) == {"maker", "model", "serial", "firmware"}
        assert any(described["identity"].values()), "the device says neither maker nor model"

    def test_is_connected_once(self, make: Callable[[], Kind]) -> None:
        """Else a second `connect` would lose the first handle."""
        instrument = make()
        assert instrument.connect() is instrument
        try:
            refused(InUse, instrument.connect, instrument)
            self.use(instrument)
        finally:
            instrument.close()
        assert not instrument.is_connected

    def test_refuses_what_is_not_connected(self, make: Callable[[], Kind]) -> None:
        """Else a forgotten `connect` would show as a vendor's traceback."""
        instrument = make()
        for call in self.requests(instrument).values():
            refused(NotConnected, call, instrument)
        with instrument:
            pass
        for call in self.requests(instrument).values():
            refused(NotConnected, call, instrument)

    def test_second_open_is_refused(self, make: Callable[[], Kind]) -> None:
        """Else two runs would drive one device at the same time."""
        first, second = make(), make()
        if not first.address:
            pytest.skip(f"{first.name} has no address that could be held twice")
        with first:
            refused(InUse, second.connect, second)
            assert not second.is_connected
            self.use(first)  # the refusal has not disturbed who was there first
        with second:
            self.use(second)

    def test_double_close_is_harmless(self, make: Callable[[], Kind]) -> None:
        """Else an abort that closes everything would fail on what is closed already."""
        instrument = make()
        instrument.close()
        instrument.connect()
        instrument.close()
        instrument.close()
        with instrument:
            self.use(instrument)

    def test_an_error_closes_it(self, make: Callable[[], Kind]) -> None:
        """Else a run that fails would leave the device held."""
        instrument = make()
        with pytest.raises(ZeroDivisionError), instrument:
            self.use(instrument)
            raise ZeroDivisionError
        assert not instrument.is_connected

    def test_open_and_close_leak_nothing(self, make: Callable[[], Kind]) -> None:
        """Else a service that opens its bench for every run would stop after a thousand."""
        self._open_and_close(make)  # libraries keep what they open once
        before = _held()
        for _ in range(self.cycles):
            self._open_and_close(make)
        until_s = time.monotonic() + self.lets_go_within_s
        while _more_than(before) and time.monotonic() < until_s:
            time.sleep(0.02)  # threads need a moment to end
        assert not _more_than(before), f"before {before}, after {_held()} (threads, files)"

    def _open_and_close(self, make: Callable[[], Kind]) -> None:
        with make() as instrument:
            self.use(instrument)

    def test_unplug_is_detected(self, instrument: Kind) -> None:
        """Else a run would go on for hours with a device that is gone."""
        self.use(instrument)
        self.unplug(instrument)
        until_s = time.monotonic() + self.notices_unplug_within_s
        error: InstrumentError | None = None
        while not isinstance(error, Disconnected):
            assert time.monotonic() < until_s, f"nobody noticed; the last answer was {error!r}"
            try:
                self.use(instrument)
                time.sleep(0.02)
            except InstrumentError as answer:
                error = answer
        assert instrument.name in str(error)
        instrument.close()
        instrument.close()
        assert not instrument.is_connected

    def test_a_silent_device_times_out(self, instrument: Kind) -> None:
        """Else one lost reply would hang a run for ever."""
        self.mute(instrument)
        start_s = time.monotonic()
        refused(InstrumentTimeout, lambda: self.use(instrument), instrument)
        assert time.monotonic() - start_s < 15.0

    def test_threads_cannot_mix_replies(self, instrument: Kind) -> None:
        """Else one thread would take another's answer for its own."""
        gate = threading.Barrier(THREADS)

        def hammer(thread: int) -> None:
            gate.wait()
            for number in range(self.queries_per_thread):
                self.query(instrument, thread, number)

        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(hammer, thread) for thread in range(THREADS)]:
                done.result()
        self.use(instrument)

    def test_limits_are_refused_before_anything_is_sent(self, instrument: Kind) -> None:
        """Else a typing error would reach a device that it can harm."""
        for what, (error, call) in self.excesses(instrument).items():
            before = instrument.describe()["settings"], self.sent(instrument)
            refused(error, call, instrument)
            assert (instrument.describe()["settings"], self.sent(instrument)) == before, what
        self.use(instrument)

    def test_self_test_leaves_it_as_found(self, instrument: Kind) -> None:
        """Else `lightloom check` before a run would change the run."""
        before = instrument.describe()
        findings = instrument.self_test()
        assert findings and all(finding.passed for finding in findings), findings
        assert instrument.describe() == before
        json.dumps([vars(finding) for finding in findings])


class SlmConformance(InstrumentConformance[SpatialLightModulator]):
    """What holds for every modulator."""

    def seen(self, instrument: SpatialLightModulator) -> np.ndarray:
        """Look at the device itself: the frame that it shows, [height, width]; closed ones too."""
        pytest.skip("seen() is not overridden: nobody looks at what this device shows")

    def use(self, instrument: SpatialLightModulator) -> None:
        """Show a dark frame."""
        instrument.blank()

    def requests(self, instrument: SpatialLightModulator) -> dict[str, Call]:
        """Return every public exchange."""
        return {
            "show": lambda: instrument.show(np.zeros((1, 1), np.uint8)),
            "blank": instrument.blank,
            "self_test": instrument.self_test,
        }

    def excesses(
        self, instrument: SpatialLightModulator
    ) -> dict[str, tuple[type[LightloomError], Call]]:
        """Return frames that do not fit."""
        height, width = instrument.shape
        wrong = {
            "too wide": np.zeros((height, width + 1), instrument.dtype),
            "one row": np.zeros(width, instrument.dtype),
            "not whole levels": np.zeros((height, width), np.float32),
            "below 0": np.full((height, width), -1, np.int32),
            "above the highest level": np.full((height, width), 1 << instrument.bit_depth, int),
        }
        return {
            what: (InputError, lambda frame=frame: instrument.show(frame))  # type: ignore[misc]
            for what, frame in wrong.items()
        }

    def query(self, instrument: SpatialLightModulator, thread: int, number: int) -> None:
        """Show a frame of one's own level; frames of one thread count up."""
        first = instrument.show(np.full(instrument.shape, thread % 2, instrument.dtype))
        second = instrument.blank()
        assert second.frame_id > first.frame_id
        assert second.shown_at_s >= first.shown_at_s

    def test_knows_what_it_is(self, instrument: SpatialLightModulator) -> None:
        """Else no frame could be made for it."""
        height, width = instrument.shape
        assert height > 0 and width > 0
        assert 1 <= instrument.bit_depth <= 16
        assert 0 <= instrument.darkest_level < 1 << instrument.bit_depth
        assert min(instrument.refresh_period_s, instrument.latency_s, instrument.settle_time_s) >= 0

    def test_says_when_a_frame_has_settled(self, instrument: SpatialLightModulator) -> None:
        """Else a camera would take the old frame for the new one."""
        called_s = instrument.clock.now_s()
        first, second = instrument.blank(), instrument.blank()
        back_s = instrument.clock.now_s()
        assert second.frame_id == first.frame_id + 1
        period_s = instrument.refresh_period_s
        assert called_s - period_s - 1e-3 <= first.shown_at_s <= second.shown_at_s
        assert second.shown_at_s <= back_s + 2 * period_s + 1e-3  # it may wait for the first
        waits_s = instrument.latency_s + instrument.settle_time_s
        assert second.settled_at_s - second.shown_at_s == pytest.approx(waits_s, abs=1e-9)
        instrument.wait_until_settled(second)
        assert instrument.clock.now_s() >= second.settled_at_s

    def test_fresh_frame_after_show(self, instrument: SpatialLightModulator) -> None:
        """Else the light of a shot would belong to the frame before, or to wrong pixels."""
        draw = np.random.default_rng(4)
        for _ in range(3):
            frame = draw.integers(0, 1 << instrument.bit_depth, instrument.shape)
            wanted = frame.astype(instrument.dtype)
            given = wanted.copy()
            shown = instrument.show(given)
            given[:] = instrument.darkest_level  # its owner makes the next one in the same memory
            instrument.wait_until_settled(shown)
            np.testing.assert_array_equal(self.seen(instrument), wanted)

    def test_self_test_puts_the_frame_back(self, instrument: SpatialLightModulator) -> None:
        """Else a check between two shots would leave the bench dark."""
        frame = np.full(instrument.shape, (1 << instrument.bit_depth) - 1, instrument.dtype)
        instrument.wait_until_settled(instrument.show(frame))
        before = self.seen(instrument)
        instrument.self_test()
        waits_s = instrument.refresh_period_s + instrument.latency_s + instrument.settle_time_s
        instrument.clock.sleep_until(instrument.clock.now_s() + waits_s)
        np.testing.assert_array_equal(self.seen(instrument), before)

    def test_close_leaves_it_dark(self, instrument: SpatialLightModulator) -> None:
        """Else the last frame would stand in the light, and burn in on an OLED."""
        instrument.show(np.full(instrument.shape, 1, instrument.dtype))
        dark = np.full(instrument.shape, instrument.darkest_level, instrument.dtype)
        instrument.close()
        np.testing.assert_array_equal(self.seen(instrument), dark)


class CameraConformance(InstrumentConformance[Camera]):
    """What holds for every camera; with a software trigger.

    Attributes
    ----------
    sees_light : whether steady light falls on it while the suite runs, brighter in some places
        than in others; False where it is covered, or shows a picture of its own
    """

    sees_light = True

    def wait_s(self, instrument: Camera) -> float:
        """Return a generous time-out for one frame."""
        return instrument.exposure_s + instrument.readout_s + 5.0

    def use(self, instrument: Camera) -> None:
        """Take a frame."""
        instrument.take(self.wait_s(instrument))

    def requests(self, instrument: Camera) -> dict[str, Call]:
        """Return every public exchange."""
        return {
            "configure": lambda: instrument.configure(exposure_s=1e-3),
            "arm": instrument.arm,
            "trigger": instrument.trigger,
            "read": lambda: instrument.read(1.0),
            "take": lambda: instrument.take(1.0),
            "disarm": instrument.disarm,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: Camera) -> dict[str, tuple[type[LightloomError], Call]]:
        """Return exposures, regions and time-outs that cannot be."""
        height, width = instrument.sensor_shape
        _, longest_s = instrument.exposure_limits_s

        def impatient() -> None:
            instrument.arm()
            try:
                instrument.read(-1.0)
            finally:
                instrument.disarm()

        wrong: dict[str, tuple[type[LightloomError], Call]] = {
            "exposure below 0": (LimitExceeded, lambda: instrument.configure(exposure_s=-1.0)),
            "region outside the sensor": (
                InputError,
                lambda: instrument.configure(region=Region(1, 0, height, width)),
            ),
            "empty region": (InputError, lambda: instrument.configure(region=Region(0, 0, 0, 1))),
            "unknown trigger": (
                InputError,
                lambda: instrument.configure(trigger_mode="whenever"),  # type: ignore[arg-type]
            ),
        }
        if np.isfinite(longest_s):
            wrong["exposure too long"] = (
                LimitExceeded,
                lambda: instrument.configure(exposure_s=2 * longest_s + 1),
            )
        if self.sent(instrument) is None:  # arming is sent, the reading is not
            wrong["exposure longer than the time-out"] = (LimitExceeded, impatient)
        return wrong

    def query(self, instrument: Camera, thread: int, number: int) -> None:
        """Take a frame under one's own name."""
        shot = Shot(f"thread {thread}", number)
        frame = instrument.take(self.wait_s(instrument), shot)
        assert frame.shot == shot

    def test_knows_what_it_is(self, instrument: Camera) -> None:
        """Else no region and no exposure could be chosen."""
        assert min(instrument.sensor_shape) > 0
        assert 1 <= instrument.bit_depth <= 16
        shortest_s, longest_s = instrument.exposure_limits_s
        assert 0 <= shortest_s <= longest_s
        assert shortest_s <= instrument.exposure_s <= longest_s

    def test_a_frame_is_what_was_asked_for(self, instrument: Camera) -> None:
        """Else regions of spots would be read at wrong pixels, and full well at wrong counts."""
        frame = instrument.take(self.wait_s(instrument))
        assert frame.data.shape == (instrument.region.height, instrument.region.width)
        assert frame.data.dtype == (np.uint8 if instrument.bit_depth <= 8 else np.uint16)
        assert int(frame.data.max()) < 1 << instrument.bit_depth
        assert frame.exposure_s == instrument.exposure_s

    def test_a_region_is_read_alone(self, instrument: Camera) -> None:
        """Else a smaller region would bring the wrong part, or the whole sensor's time."""
        height, width = (max(side // 2 // 16 * 16, 1) for side in instrument.sensor_shape)
        instrument.configure(region=Region(0, 0, height, width))
        assert instrument.take(self.wait_s(instrument)).data.shape == (height, width)

    def test_counts_are_those_of_its_depth(self, instrument: Camera) -> None:
        """Else left-aligned counts would be light that never was, and full wells never found."""
        frame = instrument.take(self.wait_s(instrument))
        shift = alignment_shift(frame.data, instrument.bit_depth)
        assert not shift, f"all counts are multiples of {1 << shift}: set count_shift = {shift}"

    def test_an_exposure_is_taken_or_refused(self, instrument: Camera) -> None:
        """Else a record would name an exposure that the camera never had."""
        shortest_s, longest_s = instrument.exposure_limits_s
        before_s = instrument.exposure_s
        for asked_s in (2 * before_s, before_s / 2):
            if not shortest_s <= asked_s <= min(longest_s, 1.0):
                continue
            try:
                instrument.configure(exposure_s=asked_s)
            except InputError:
                assert instrument.exposure_s == before_s
            else:
                assert instrument.exposure_s == pytest.approx(asked_s, rel=0.01, abs=1e-6)
            before_s = instrument.exposure_s

    def test_the_picture_grows_with_exposure(self, instrument: Camera) -> None:
        """Else an exposure that never reaches the camera would scale every number."""
        self._found(grows_with_exposure(instrument, self.wait_s(instrument)))

    def test_a_region_shows_its_part_of_the_sensor(self, instrument: Camera) -> None:
        """Else an offset that is ignored, or a flip, would read spots at wrong pixels."""
        self._found(reads_the_part(instrument, self.wait_s(instrument)))

    def _found(self, finding: Finding) -> None:
        if not self.sees_light:
            pytest.skip("sees_light is False: no steady light falls on this camera")
        if finding.detail.startswith("cannot be determined"):
            pytest.skip(finding.detail)
        assert finding.passed, finding.detail

    def test_fresh_frame_after_arm(self, instrument: Camera) -> None:
        """Else a frame that was waiting in a buffer would be taken for the shot's own."""
        instrument.arm()
        instrument.trigger(Shot("old", 0))
        waits_s = instrument.exposure_s + instrument.readout_s
        instrument.clock.sleep_until(instrument.clock.now_s() + waits_s)  # it lies in a buffer now
        instrument.arm()
        armed_s = instrument.clock.now_s()
        instrument.trigger(Shot("new", 1))
        frame = instrument.read(self.wait_s(instrument))
        assert frame.shot == Shot("new", 1)
        assert frame.taken_at_s >= armed_s - 1e-3
        refused(InstrumentTimeout, lambda: instrument.read(waits_s + 0.2), instrument)

    def test_frames_come_in_the_order_of_triggers(self, instrument: Camera) -> None:
        """Else a pipelined run would swap two shots."""
        instrument.arm()
        taken = []
        for number in range(3):
            instrument.trigger(Shot("pipeline", number))
            taken.append(instrument.read(self.wait_s(instrument)))
        assert [frame.shot for frame in taken] == [Shot("pipeline", n) for n in range(3)]
        assert taken[0].frame_id + 2 == taken[1].frame_id + 1 == taken[2].frame_id
        assert taken[0].taken_at_s < taken[1].taken_at_s < taken[2].taken_at_s

    def test_no_trigger_times_out(self, instrument: Camera) -> None:
        """Else a lost trigger would hang a run for ever."""
        timeout_s = instrument.exposure_s + instrument.readout_s + 0.3
        instrument.arm()
        start_s, clock_s = time.monotonic(), instrument.clock.now_s()
        refused(InstrumentTimeout, lambda: instrument.read(timeout_s), instrument)
        assert time.monotonic() - start_s < timeout_s + 5.0
        assert instrument.clock.now_s() - clock_s >= 0.9 * timeout_s
        instrument.arm()
        self.use(instrument)

    def test_refuses_to_read_what_is_not_armed(self, instrument: Camera) -> None:
        """Else an old frame would come."""
        refused(NotConnected, lambda: instrument.read(5.0), instrument)
        refused(NotConnected, instrument.trigger, instrument)

    def test_self_test_leaves_it_armed(self, instrument: Camera) -> None:
        """Else a check would stop a run."""
        instrument.arm()
        instrument.self_test()
        assert instrument.is_armed
        self.use(instrument)

    def test_close_disarms(self, instrument: Camera) -> None:
        """Else it would go on exposing with nobody there."""
        instrument.arm()
        instrument.close()
        assert not instrument.is_armed
        with instrument:
            assert not instrument.is_armed


class DaqConformance(InstrumentConformance[Daq]):
    """What holds for every DAQ.

    Attributes
    ----------
    volts : what is known to lie on an input, by channel; replies are compared with it
    tolerance_v : how far it may be off
    """

    volts: dict[int, float] = {}  # noqa: RUF012 (a subclass replaces it)
    tolerance_v = 0.05

    def use(self, instrument: Daq) -> None:
        """Read a sample."""
        if instrument.input_count:
            instrument.read(timeout_s=2.0)
        elif instrument.line_count:
            instrument.read_line(0)
        else:
            instrument.count(0)

    def requests(self, instrument: Daq) -> dict[str, Call]:
        """Return every public exchange."""
        return {
            "read": instrument.read,
            "write": lambda: instrument.write(0, 0.0),
            "set_line": lambda: instrument.set_line(0, False),
            "read_line": lambda: instrument.read_line(0),
            "count": instrument.count,
            "reset_count": instrument.reset_count,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: Daq) -> dict[str, tuple[type[LightloomError], Call]]:
        """Return channels that it lacks, and rates and voltages beyond it."""
        slowest_hz, fastest_hz = instrument.rate_limits_hz
        _, high_v = instrument.output_range_v
        wrong: dict[str, tuple[type[LightloomError], Call]] = {
            "no such input": (LimitExceeded, lambda: instrument.read((instrument.input_count,))),
            "input below 0": (LimitExceeded, lambda: instrument.read((-1,))),
            "no such output": (
                LimitExceeded,
                lambda: instrument.write(instrument.output_count, 0.0),
            ),
            "no such line": (
                LimitExceeded,
                lambda: instrument.set_line(instrument.line_count, False),
            ),
            "no such counter": (LimitExceeded, lambda: instrument.count(instrument.counter_count)),
        }
        if instrument.input_count:
            wrong["no channel"] = (InputError, lambda: instrument.read(()))
            wrong["no sample"] = (InputError, lambda: instrument.read((0,), 0))
            wrong["longer than the time-out"] = (
                LimitExceeded,
                lambda: instrument.read((0,), 1, max(slowest_hz, 1e-3), timeout_s=1e-9),
            )
            if np.isfinite(fastest_hz):
                wrong["too fast"] = (
                    LimitExceeded,
                    lambda: instrument.read((0,), 1, 2 * fastest_hz),
                )
        if instrument.output_count:
            wrong["too high"] = (LimitExceeded, lambda: instrument.write(0, high_v + 1.0))
            wrong["not a number"] = (LimitExceeded, lambda: instrument.write(0, float("nan")))
        return wrong

    def query(self, instrument: Daq, thread: int, number: int) -> None:
        """Read a channel and a number of samples of one's own."""
        if not instrument.input_count:
            self.use(instrument)
            return
        channel, shot = thread % instrument.input_count, Shot(f"thread {thread}", number)
        taken = instrument.read((channel,), thread + 1, timeout_s=30.0, shot=shot)
        assert taken.volts.shape == (1, thread + 1)
        assert taken.shot == shot
        self._check_volts(channel, taken.volts[0])

    def _check_volts(self, channel: int, volts: np.ndarray) -> None:
        if channel in self.volts:
            assert volts == pytest.approx(self.volts[channel], abs=self.tolerance_v)

    def test_knows_what_it_is(self, instrument: Daq) -> None:
        """Else no channel could be chosen."""
        counts = (instrument.input_count, instrument.output_count)
        assert min(*counts, instrument.line_count, instrument.counter_count) >= 0
        assert max(*counts, instrument.line_count, instrument.counter_count) > 0
        assert 0 <= instrument.rate_limits_hz[0] <= instrument.rate_limits_hz[1]
        assert instrument.input_range_v[0] < instrument.input_range_v[1]
        assert instrument.output_range_v[0] < instrument.output_range_v[1]

    def test_fresh_samples_of_every_channel(self, instrument: Daq) -> None:
        """Else a reading would belong to another channel, or to the shot before."""
        if not instrument.input_count:
            pytest.skip(f"{instrument.name} has no analogue input")
        channels = tuple(reversed(range(instrument.input_count)))
        called_s = instrument.clock.now_s()
        taken = instrument.read(channels, 3, timeout_s=30.0)
        assert taken.volts.shape == (len(channels), 3)
        assert taken.volts.dtype == np.float64
        assert taken.rate_hz > 0
        assert taken.started_at_s >= called_s - 1e-3
        for channel, volts in zip(channels, taken.volts, strict=True):
            self._check_volts(channel, volts)

    def test_lines_and_outputs_can_be_set(self, instrument: Daq) -> None:
        """Else shutter and trigger lines would not follow."""
        if not self.may_act:
            pytest.skip("may_act is False: something may hang on this device's outputs")
        for line in range(instrument.line_count):
            for high in (True, False):
                instrument.set_line(line, high)
                assert instrument.read_line(line) is high
        for channel in range(instrument.output_count):
            instrument.write(channel, min(max(0.0, instrument.output_range_v[0]), 1.0))
        for counter in range(instrument.counter_count):
            instrument.reset_count(counter)
            assert instrument.count(counter) >= 0


class LightSourceConformance(InstrumentConformance[LightSource]):
    """What holds for every light source."""

    def is_dark(self, instrument: LightSource) -> bool:
        """Look at the device itself, closed as it is; by default it is connected and asked."""
        with instrument:
            return not instrument.is_emitting()

    def open_interlock(self, instrument: LightSource) -> None:
        """Open the interlock, as a door does."""
        pytest.skip("open_interlock() is not overridden: nothing opens it in a test")

    def use(self, instrument: LightSource) -> None:
        """Ask whether it emits."""
        instrument.is_emitting()

    def requests(self, instrument: LightSource) -> dict[str, Call]:
        """Return every public exchange."""
        return {
            "set_power": lambda: instrument.set_power(0.0),
            "enable": instrument.enable,
            "disable": instrument.disable,
            "is_emitting": instrument.is_emitting,
            "interlock_closed": instrument.interlock_closed,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: LightSource) -> dict[str, tuple[type[LightloomError], Call]]:
        """Return set-points beyond the limits."""
        low_w, high_w = instrument.power_limits_w
        return {
            "too much": (LimitExceeded, lambda: instrument.set_power(2 * high_w + 1e-9)),
            "below 0": (LimitExceeded, lambda: instrument.set_power(-low_w - 1e-9)),
            "not a number": (LimitExceeded, lambda: instrument.set_power(float("nan"))),
        }

    def query(self, instrument: LightSource, thread: int, number: int) -> None:
        """Ask two different questions in turn; it is dark all the while."""
        assert instrument.is_emitting() is False
        assert instrument.interlock_closed() in (True, False)

    def test_knows_what_it_is(self, instrument: LightSource) -> None:
        """Else no limit could protect a sample, or an eye."""
        low_w, high_w = instrument.power_limits_w
        assert 0 <= low_w <= high_w < float("inf")
        assert not instrument.is_emitting(), "connecting must not switch it on"

    def test_limits_only_become_narrower(self, instrument: LightSource) -> None:
        """Else a bench file could allow more than the device's own limit."""
        low_w, high_w = instrument.power_limits_w
        instrument.narrow_limits(0.0, 10 * high_w + 1)
        assert instrument.power_limits_w == (low_w, high_w)
        middle_w = (low_w + high_w) / 2
        instrument.narrow_limits(None, middle_w)
        before = self.sent(instrument)
        refused(LimitExceeded, lambda: instrument.set_power(high_w + 1e-9), instrument)
        assert self.sent(instrument) == before

    def test_emits_only_when_enabled(self, instrument: LightSource) -> None:
        """Else choosing a power would already light it."""
        self._may_emit(instrument)
        instrument.set_power(instrument.power_limits_w[0])
        assert not instrument.is_emitting()
        instrument.enable()
        assert instrument.is_emitting()
        instrument.disable()
        assert not instrument.is_emitting()

    def test_close_leaves_it_dark(self, instrument: LightSource) -> None:
        """Else light would go on with nobody there."""
        self._may_emit(instrument)
        instrument.enable()
        instrument.close()
        assert self.is_dark(instrument)

    def test_it_goes_dark_while_another_thread_has_it(self, instrument: LightSource) -> None:
        """Else a thread that waits for an answer would keep the light on."""
        self._may_emit(instrument)
        instrument.set_power(instrument.power_limits_w[0])
        instrument.enable()
        has_it, is_over = threading.Event(), threading.Event()

        def have_it() -> None:
            with instrument._lock:
                has_it.set()
                is_over.wait(10)

        thread = threading.Thread(target=have_it)
        thread.start()
        try:
            assert has_it.wait(10)
            with pytest.raises(InstrumentTimeout):  # it was told, and could not be asked
                instrument.disable_now(wait_s=0.05)
        finally:
            is_over.set()
            thread.join()
        assert not instrument.is_emitting()

    def test_an_error_leaves_it_dark(self, make: Callable[[], LightSource]) -> None:
        """Else a run that fails would leave the light on."""
        instrument = make()
        with pytest.raises(ZeroDivisionError), instrument:
            self._may_emit(instrument)
            instrument.enable()
            raise ZeroDivisionError
        assert self.is_dark(instrument)

    def test_an_open_interlock_refuses_emission(self, instrument: LightSource) -> None:
        """Else an open door would show as light that does not come."""
        self.open_interlock(instrument)
        assert not instrument.interlock_closed()
        refused(InstrumentError, instrument.enable, instrument)
        assert not instrument.is_emitting()

    def _may_emit(self, instrument: LightSource) -> None:
        if not self.may_act:
            pytest.skip("may_act is False: this device's light may meet an eye or a sample")
        if not instrument.interlock_closed():
            pytest.skip(f"the interlock of {instrument.name} is open")


class PowerMeterConformance(InstrumentConformance[PowerMeter]):
    """What holds for every power meter.

    Attributes
    ----------
    power_w : what is known to fall on it; None where nobody knows
    """

    power_w: float | None = None

    def use(self, instrument: PowerMeter) -> None:
        """Measure once."""
        instrument.read_power(timeout_s=2.0)

    def requests(self, instrument: PowerMeter) -> dict[str, Call]:
        """Return every public exchange."""
        return {"read_power": instrument.read_power, "self_test": instrument.self_test}

    def query(self, instrument: PowerMeter, thread: int, number: int) -> None:
        """Measure, and check what came."""
        self._check_power(instrument.read_power(timeout_s=30.0))

    def _check_power(self, power_w: float) -> None:
        assert isinstance(power_w, float)
        if self.power_w is not None:
            assert power_w == pytest.approx(self.power_w, rel=0.1)

    def test_measures_watts(self, instrument: PowerMeter) -> None:
        """Else a milliwatt would be taken for a watt."""
        self._check_power(instrument.read_power())


CONFORMANCE: dict[str, type[InstrumentConformance[Any]]] = {
    "slm": SlmConformance,
    "camera": CameraConformance,
    "daq": DaqConformance,
    "light source": LightSourceConformance,
    "power meter": PowerMeterConformance,
}


def _held() -> tuple[int, int]:
    """Count the threads and open files of this process; no files where the system tells none."""
    try:
        files = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        files = 0
    return threading.active_count(), files


def _more_than(before: tuple[int, int]) -> bool:
    return any(now > then for now, then in zip(_held(), before, strict=True))
