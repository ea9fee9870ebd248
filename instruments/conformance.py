"""Requirements on every driver, as tests that its author inherits, one class per instrument kind.

    from lightloom.instruments.conformance import CameraConformance

    class TestMyCamera(CameraConformance):
        @pytest.fixture
        def make(self):
            return lambda: create("my-camera", "camera", {"port": "/dev/ttyUSB0"})

    pytest test_my_camera.py

The class names do not begin with Test, so that importing them collects no tests. A hook that is not
overridden skips its tests and says why. No test emits light or sets an output unless `may_act` is
True. This is the only module of the package that needs pytest.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

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
from .image_checks import grows_with_exposure, reads_region
from .light_source import LightSource, PowerMeter
from .slm import SpatialLightModulator

THREADS = 8

Kind = TypeVar("Kind", bound=Instrument)
Call = Callable[[], Any]
Refusals = dict[str, tuple[type[LightloomError], Call]]


def refused(error: type[LightloomError], call: Call, instrument: Instrument) -> None:
    """Check that a call raises this error, with one sentence that names the instrument."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert instrument.name in message, f"{message!r} does not name {instrument.name!r}"
    assert "\n" not in message, f"{message!r} is more than one sentence"


class InstrumentConformance(Generic[Kind]):
    """Requirements on every instrument.

    Attributes
    ----------
    may_act : whether tests may emit light and set outputs; True only where that is safe
    queries_per_thread : number of queries of each of the 8 threads
    cycles : number of times the instrument is opened and closed to find leaks
    notices_unplug_within_s : time within which a lost cable is reported; seconds for some devices
    lets_go_within_s : time within which threads and files of its library end after closing
    """

    may_act = False
    queries_per_thread = 5
    cycles = 3
    notices_unplug_within_s = 10.0
    lets_go_within_s = 5.0

    # --- hooks that a driver author overrides ----------------------------------------------------

    @pytest.fixture
    def make(self) -> Callable[[], Kind]:
        """Return a function that makes a new, unconnected instrument for always the same device."""
        raise NotImplementedError("override the fixture `make`")

    def unplug(self, instrument: Kind) -> None:
        """Disconnect the device while the instrument is connected, as if its cable were pulled."""
        pytest.skip("unplug() is not overridden, so this device cannot be disconnected in a test")

    def mute(self, instrument: Kind) -> None:
        """Make the device accept requests without replying."""
        pytest.skip("mute() is not overridden, so this device cannot be silenced in a test")

    def sent(self, instrument: Kind) -> int | None:
        """Return the number of requests sent to the device; None if they are not counted."""
        return None

    # --- hooks that a kind of instrument implements ----------------------------------------------

    def use(self, instrument: Kind) -> None:
        """Make one ordinary, harmless exchange."""
        raise NotImplementedError

    def requests(self, instrument: Kind) -> dict[str, Call]:
        """Return all public exchanges by name."""
        raise NotImplementedError

    def excesses(self, instrument: Kind) -> Refusals:
        """Return requests beyond the limits of the device, each with its expected error."""
        return {}

    def query(self, instrument: Kind, thread: int, number: int) -> None:
        """Make one exchange in one of several threads and check that the reply belongs to it."""
        self.use(instrument)

    # --- the tests -------------------------------------------------------------------------------

    @pytest.fixture
    def instrument(self, make: Callable[[], Kind]) -> Iterator[Kind]:
        """Yield the connected instrument and close it after the test."""
        instrument = make()
        with instrument:
            yield instrument

    def test_describes_itself(self, make: Callable[[], Kind]) -> None:
        """Check that `describe()` fits into JSON, so that a record can name its instruments."""
        instrument = make()
        json.dumps(instrument.describe())
        with instrument:
            described = json.loads(json.dumps(instrument.describe(), allow_nan=False))
        assert described["name"] == instrument.name
        assert described["kind"] == instrument.kind
        assert described["driver"]
        assert set(described["identity"]) == {"maker", "model", "serial", "firmware"}
        assert any(described["identity"].values()), "the device says neither maker nor model"

    def test_second_connect_is_refused(self, make: Callable[[], Kind]) -> None:
        """Check that a second `connect()` is refused, since it would lose the first handle."""
        instrument = make()
        assert instrument.connect() is instrument
        try:
            refused(InUse, instrument.connect, instrument)
            self.use(instrument)
        finally:
            instrument.close()
        assert not instrument.is_connected

    def test_unconnected_calls_are_refused(self, make: Callable[[], Kind]) -> None:
        """Check that calls before `connect()` raise NotConnected, not a vendor's exception."""
        instrument = make()
        for _ in range(2):  # before a connection, and after one
            for call in self.requests(instrument).values():
                refused(NotConnected, call, instrument)
            instrument.connect()
            instrument.close()

    def test_second_open_is_refused(self, make: Callable[[], Kind]) -> None:
        """Check that two instruments cannot open one device, as two concurrent runs would try."""
        first, second = make(), make()
        if not first.address:
            pytest.skip(f"{first.name} has no address that a second instrument could claim")
        with first:
            refused(InUse, second.connect, second)
            assert not second.is_connected
            self.use(first)  # the refusal must not disturb the first instrument
        with second:
            self.use(second)

    def test_double_close_is_harmless(self, make: Callable[[], Kind]) -> None:
        """Check that `close()` may be called repeatedly, as an abort does."""
        instrument = make()
        instrument.close()
        instrument.connect()
        instrument.close()
        instrument.close()
        with instrument:
            self.use(instrument)

    def test_an_error_closes_the_instrument(self, make: Callable[[], Kind]) -> None:
        """Check that an exception inside a `with` closes the instrument and releases the device."""
        instrument = make()
        with pytest.raises(ZeroDivisionError), instrument:
            self.use(instrument)
            raise ZeroDivisionError
        assert not instrument.is_connected

    def test_open_and_close_leak_nothing(self, make: Callable[[], Kind]) -> None:
        """Check that opening and closing leaks neither threads nor files, as in a long service."""
        self._open_and_close(make)  # libraries keep some resources after first use
        before = _threads_and_files()
        for _ in range(self.cycles):
            self._open_and_close(make)
        deadline_s = time.monotonic() + self.lets_go_within_s
        while _exceed(before) and time.monotonic() < deadline_s:
            time.sleep(0.02)  # threads need some time to end
        after = _threads_and_files()
        assert not _exceed(before), f"before {before}, after {after} (threads, files)"

    def _open_and_close(self, make: Callable[[], Kind]) -> None:
        with make() as instrument:
            self.use(instrument)

    def test_unplug_is_detected(self, instrument: Kind) -> None:
        """Check that a lost device raises Disconnected, so that a run stops in time."""
        self.use(instrument)
        self.unplug(instrument)
        deadline_s = time.monotonic() + self.notices_unplug_within_s
        error: InstrumentError | None = None
        while not isinstance(error, Disconnected):
            assert time.monotonic() < deadline_s, f"not detected; the last result was {error!r}"
            try:
                self.use(instrument)
                time.sleep(0.02)
            except InstrumentError as raised:
                error = raised
        assert instrument.name in str(error)
        instrument.close()
        instrument.close()
        assert not instrument.is_connected

    def test_a_silent_device_times_out(self, instrument: Kind) -> None:
        """Check that a missing reply raises InstrumentTimeout, so that a run cannot hang."""
        self.mute(instrument)
        start_s = time.monotonic()
        refused(InstrumentTimeout, lambda: self.use(instrument), instrument)
        assert time.monotonic() - start_s < 15.0

    def test_threads_cannot_mix_replies(self, instrument: Kind) -> None:
        """Check that concurrent exchanges of several threads receive their own replies."""
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
        """Check that requests beyond the limits are refused before they reach the device."""
        for what, (error, call) in self.excesses(instrument).items():
            before = instrument.describe()["settings"], self.sent(instrument)
            refused(error, call, instrument)
            assert (instrument.describe()["settings"], self.sent(instrument)) == before, what
        self.use(instrument)

    def test_self_test_restores_the_state(self, instrument: Kind) -> None:
        """Check that `self_test()` restores the state, as `lightloom check` before a run needs."""
        before = instrument.describe()
        findings = instrument.self_test()
        assert findings and all(finding.passed for finding in findings), findings
        assert instrument.describe() == before
        json.dumps([vars(finding) for finding in findings])


class SlmConformance(InstrumentConformance[SpatialLightModulator]):
    """Requirements on every modulator."""

    def seen(self, instrument: SpatialLightModulator) -> np.ndarray:
        """Return the frame that the device itself shows, [height, width], even after closing."""
        pytest.skip("seen() is not overridden, so the displayed frame cannot be read in a test")

    def use(self, instrument: SpatialLightModulator) -> None:
        """Show a dark frame."""
        instrument.blank()

    def requests(self, instrument: SpatialLightModulator) -> dict[str, Call]:
        """Return all public exchanges by name."""
        return {
            "show": partial(instrument.show, np.zeros((1, 1), np.uint8)),
            "blank": instrument.blank,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: SpatialLightModulator) -> Refusals:
        """Return frames that the modulator must refuse."""
        height, width = instrument.shape
        wrong = {
            "too wide": np.zeros((height, width + 1), instrument.dtype),
            "one row": np.zeros(width, instrument.dtype),
            "not whole levels": np.zeros((height, width), np.float32),
            "below 0": np.full((height, width), -1, np.int32),
            "above the highest level": np.full((height, width), 1 << instrument.bit_depth, int),
        }
        return {
            what: (InputError, partial(instrument.show, frame)) for what, frame in wrong.items()
        }

    def query(self, instrument: SpatialLightModulator, thread: int, number: int) -> None:
        """Show a frame with a level of this thread and check that its frame ids increase."""
        first = instrument.show(np.full(instrument.shape, thread % 2, instrument.dtype))
        second = instrument.blank()
        assert second.frame_id > first.frame_id
        assert second.shown_at_s >= first.shown_at_s

    def test_attributes_are_valid(self, instrument: SpatialLightModulator) -> None:
        """Check that shape, bit depth, darkest level and times are valid."""
        height, width = instrument.shape
        assert height > 0 and width > 0
        assert 1 <= instrument.bit_depth <= 16
        assert 0 <= instrument.darkest_level < 1 << instrument.bit_depth
        assert min(instrument.refresh_period_s, instrument.latency_s, instrument.settle_time_s) >= 0

    def test_settling_time_is_reported(self, instrument: SpatialLightModulator) -> None:
        """Check the times of a shown frame, so that a camera does not expose the previous frame."""
        called_s = instrument.clock.now_s()
        first, second = instrument.blank(), instrument.blank()
        returned_s = instrument.clock.now_s()
        assert second.frame_id == first.frame_id + 1
        period_s = instrument.refresh_period_s
        assert called_s - period_s - 1e-3 <= first.shown_at_s <= second.shown_at_s
        assert second.shown_at_s <= returned_s + 2 * period_s + 1e-3  # it may wait for the first
        waits_s = instrument.latency_s + instrument.settle_time_s
        assert second.settled_at_s - second.shown_at_s == pytest.approx(waits_s, abs=1e-9)
        instrument.wait_until_settled(second)
        assert instrument.clock.now_s() >= second.settled_at_s

    def test_fresh_frame_after_show(self, instrument: SpatialLightModulator) -> None:
        """Check that the displayed frame is the latest one, with every pixel in its place."""
        draw = np.random.default_rng(4)
        for _ in range(3):
            frame = draw.integers(0, 1 << instrument.bit_depth, instrument.shape)
            wanted = frame.astype(instrument.dtype)
            buffer = wanted.copy()
            shown = instrument.show(buffer)
            buffer[:] = instrument.darkest_level  # the caller reuses the memory for the next frame
            instrument.wait_until_settled(shown)
            np.testing.assert_array_equal(self.seen(instrument), wanted)

    def test_self_test_restores_the_frame(self, instrument: SpatialLightModulator) -> None:
        """Check that `self_test()` shows the previous frame again, as between two shots."""
        frame = np.full(instrument.shape, (1 << instrument.bit_depth) - 1, instrument.dtype)
        instrument.wait_until_settled(instrument.show(frame))
        before = self.seen(instrument)
        instrument.self_test()
        waits_s = instrument.refresh_period_s + instrument.latency_s + instrument.settle_time_s
        instrument.clock.sleep_until(instrument.clock.now_s() + waits_s)
        np.testing.assert_array_equal(self.seen(instrument), before)

    def test_close_leaves_it_dark(self, instrument: SpatialLightModulator) -> None:
        """Check that `close()` shows the darkest level; a bright frame would burn in on an OLED."""
        instrument.show(np.full(instrument.shape, 1, instrument.dtype))
        dark = np.full(instrument.shape, instrument.darkest_level, instrument.dtype)
        instrument.close()
        np.testing.assert_array_equal(self.seen(instrument), dark)


class CameraConformance(InstrumentConformance[Camera]):
    """Requirements on every camera, tested with the software trigger.

    Attributes
    ----------
    sees_light : whether steady light falls on the camera during the tests, brighter in some places
        than in others; False for a covered camera or one that generates its own image
    """

    sees_light = True

    def wait_s(self, instrument: Camera) -> float:
        """Return a long time-out for one frame."""
        return instrument.exposure_s + instrument.readout_s + 5.0

    def use(self, instrument: Camera) -> None:
        """Take a frame."""
        instrument.take(self.wait_s(instrument))

    def requests(self, instrument: Camera) -> dict[str, Call]:
        """Return all public exchanges by name."""
        return {
            "configure": lambda: instrument.configure(exposure_s=1e-3),
            "arm": instrument.arm,
            "trigger": instrument.trigger,
            "read": lambda: instrument.read(1.0),
            "take": lambda: instrument.take(1.0),
            "disarm": instrument.disarm,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: Camera) -> Refusals:
        """Return exposures, regions and time-outs that the camera must refuse."""
        height, width = instrument.sensor_shape
        _, longest_s = instrument.exposure_limits_s
        configure = instrument.configure
        shifted, empty = Region(1, 0, height, width), Region(0, 0, 0, 1)

        def impatient() -> None:
            instrument.arm()
            try:
                instrument.read(-1.0)
            finally:
                instrument.disarm()

        wrong: Refusals = {
            "exposure below 0": (LimitExceeded, partial(configure, exposure_s=-1.0)),
            "region outside the sensor": (InputError, partial(configure, region=shifted)),
            "empty region": (InputError, partial(configure, region=empty)),
            "unknown trigger": (InputError, partial(configure, trigger_mode=cast(Any, "whenever"))),
        }
        if np.isfinite(longest_s):
            wrong["exposure too long"] = (LimitExceeded, partial(configure, 2 * longest_s + 1))
        if self.sent(instrument) is None:  # arming sends a request, which would be counted
            wrong["exposure longer than the time-out"] = (LimitExceeded, impatient)
        return wrong

    def query(self, instrument: Camera, thread: int, number: int) -> None:
        """Take a frame of a shot of this thread and check that the frame belongs to it."""
        shot = Shot(f"thread {thread}", number)
        frame = instrument.take(self.wait_s(instrument), shot)
        assert frame.shot == shot

    def test_attributes_are_valid(self, instrument: Camera) -> None:
        """Check that sensor shape, bit depth and exposure limits are valid."""
        assert min(instrument.sensor_shape) > 0
        assert 1 <= instrument.bit_depth <= 16
        shortest_s, longest_s = instrument.exposure_limits_s
        assert 0 <= shortest_s <= longest_s
        assert shortest_s <= instrument.exposure_s <= longest_s

    def test_a_frame_matches_the_settings(self, instrument: Camera) -> None:
        """Check shape, type, count range and exposure of a frame."""
        frame = instrument.take(self.wait_s(instrument))
        assert frame.data.shape == (instrument.region.height, instrument.region.width)
        assert frame.data.dtype == (np.uint8 if instrument.bit_depth <= 8 else np.uint16)
        assert int(frame.data.max()) < 1 << instrument.bit_depth
        assert frame.exposure_s == instrument.exposure_s

    def test_a_region_is_read_alone(self, instrument: Camera) -> None:
        """Check that a smaller region returns a frame of its own shape."""
        height, width = (max(side // 2 // 16 * 16, 1) for side in instrument.sensor_shape)
        instrument.configure(region=Region(0, 0, height, width))
        assert instrument.take(self.wait_s(instrument)).data.shape == (height, width)

    def test_counts_fit_the_bit_depth(self, instrument: Camera) -> None:
        """Check that counts are not left-aligned, since they would be read as too much light."""
        frame = instrument.take(self.wait_s(instrument))
        shift = alignment_shift(frame.data, instrument.bit_depth)
        assert not shift, f"all counts are multiples of {1 << shift}: set count_shift = {shift}"

    def test_an_exposure_is_set_or_refused(self, instrument: Camera) -> None:
        """Check that an exposure is set as requested or refused, so that records are correct."""
        shortest_s, longest_s = instrument.exposure_limits_s
        before_s = instrument.exposure_s
        for requested_s in (2 * before_s, before_s / 2):
            if not shortest_s <= requested_s <= min(longest_s, 1.0):
                continue
            try:
                instrument.configure(exposure_s=requested_s)
            except InputError:
                assert instrument.exposure_s == before_s
            else:
                assert instrument.exposure_s == pytest.approx(requested_s, rel=0.01, abs=1e-6)
            before_s = instrument.exposure_s

    def test_counts_grow_with_exposure(self, instrument: Camera) -> None:
        """Check that counts grow with the exposure, which must reach the camera."""
        self._check_finding(grows_with_exposure(instrument, self.wait_s(instrument)))

    def test_a_region_shows_its_part_of_the_sensor(self, instrument: Camera) -> None:
        """Check that a region shows its part of the sensor, neither offset nor flipped."""
        self._check_finding(reads_region(instrument, self.wait_s(instrument)))

    def _check_finding(self, finding: Finding) -> None:
        if not self.sees_light:
            pytest.skip("sees_light is False, so no steady light falls on this camera")
        if finding.detail.startswith("cannot be determined"):
            pytest.skip(finding.detail)
        assert finding.passed, finding.detail

    def test_fresh_frame_after_arm(self, instrument: Camera) -> None:
        """Check that a frame from before `arm()` is never returned for a later shot."""
        instrument.arm()
        instrument.trigger(Shot("old", 0))
        waits_s = instrument.exposure_s + instrument.readout_s
        instrument.clock.sleep_until(instrument.clock.now_s() + waits_s)  # until it is buffered
        instrument.arm()
        armed_s = instrument.clock.now_s()
        instrument.trigger(Shot("new", 1))
        frame = instrument.read(self.wait_s(instrument))
        assert frame.shot == Shot("new", 1)
        assert frame.taken_at_s >= armed_s - 1e-3
        refused(InstrumentTimeout, lambda: instrument.read(waits_s + 0.2), instrument)

    def test_frames_come_in_the_order_of_triggers(self, instrument: Camera) -> None:
        """Check that frames arrive in the order of their triggers, as a pipelined run needs."""
        instrument.arm()
        taken = []
        for number in range(3):
            instrument.trigger(Shot("pipeline", number))
            taken.append(instrument.read(self.wait_s(instrument)))
        assert [frame.shot for frame in taken] == [Shot("pipeline", n) for n in range(3)]
        assert taken[0].frame_id + 2 == taken[1].frame_id + 1 == taken[2].frame_id
        assert taken[0].taken_at_s < taken[1].taken_at_s < taken[2].taken_at_s

    def test_no_trigger_times_out(self, instrument: Camera) -> None:
        """Check that a missing trigger raises InstrumentTimeout, so that a run cannot hang."""
        timeout_s = instrument.exposure_s + instrument.readout_s + 0.3
        instrument.arm()
        start_s, clock_s = time.monotonic(), instrument.clock.now_s()
        refused(InstrumentTimeout, lambda: instrument.read(timeout_s), instrument)
        assert time.monotonic() - start_s < timeout_s + 5.0
        assert instrument.clock.now_s() - clock_s >= 0.9 * timeout_s
        instrument.arm()
        self.use(instrument)

    def test_read_needs_an_armed_camera(self, instrument: Camera) -> None:
        """Check that a camera that is not armed refuses `read()` and `trigger()`."""
        refused(NotConnected, lambda: instrument.read(5.0), instrument)
        refused(NotConnected, instrument.trigger, instrument)

    def test_self_test_keeps_it_armed(self, instrument: Camera) -> None:
        """Check that `self_test()` leaves an armed camera armed."""
        instrument.arm()
        instrument.self_test()
        assert instrument.is_armed
        self.use(instrument)

    def test_close_disarms(self, instrument: Camera) -> None:
        """Check that `close()` disarms the camera, so that it does not continue to expose."""
        instrument.arm()
        instrument.close()
        assert not instrument.is_armed
        with instrument:
            assert not instrument.is_armed


class DaqConformance(InstrumentConformance[Daq]):
    """Requirements on every DAQ.

    Attributes
    ----------
    volts : known voltages at inputs, by channel; samples are compared with them
    tolerance_v : allowed deviation of a sample
    """

    volts: dict[int, float] = {}  # noqa: RUF012 (a subclass replaces it)
    tolerance_v = 0.05

    def use(self, instrument: Daq) -> None:
        """Read one sample, line or counter."""
        if instrument.input_count:
            instrument.read(timeout_s=2.0)
        elif instrument.line_count:
            instrument.read_line(0)
        else:
            instrument.count(0)

    def requests(self, instrument: Daq) -> dict[str, Call]:
        """Return all public exchanges by name."""
        return {
            "read": instrument.read,
            "write": lambda: instrument.write(0, 0.0),
            "set_line": lambda: instrument.set_line(0, False),
            "read_line": lambda: instrument.read_line(0),
            "count": instrument.count,
            "reset_count": instrument.reset_count,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: Daq) -> Refusals:
        """Return missing channels, and rates and voltages beyond the limits."""
        slowest_hz, fastest_hz = instrument.rate_limits_hz
        _, high_v = instrument.output_range_v
        beyond: dict[str, Call] = {
            "no such input": partial(instrument.read, (instrument.input_count,)),
            "input below 0": partial(instrument.read, (-1,)),
            "no such output": partial(instrument.write, instrument.output_count, 0.0),
            "no such line": partial(instrument.set_line, instrument.line_count, False),
            "no such counter": partial(instrument.count, instrument.counter_count),
        }
        wrong: Refusals = {}
        if instrument.input_count:
            wrong["no channel"] = (InputError, partial(instrument.read, ()))
            wrong["no sample"] = (InputError, partial(instrument.read, (0,), 0))
            slow_hz = max(slowest_hz, 1e-3)
            beyond["longer than the time-out"] = partial(instrument.read, (0,), 1, slow_hz, 1e-9)
            if np.isfinite(fastest_hz):
                beyond["too fast"] = partial(instrument.read, (0,), 1, 2 * fastest_hz)
        if instrument.output_count:
            beyond["too high"] = partial(instrument.write, 0, high_v + 1.0)
            beyond["not a number"] = partial(instrument.write, 0, float("nan"))
        return wrong | {what: (LimitExceeded, call) for what, call in beyond.items()}

    def query(self, instrument: Daq, thread: int, number: int) -> None:
        """Read a channel and a number of samples that belong to this thread."""
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

    def test_attributes_are_valid(self, instrument: Daq) -> None:
        """Check that channel counts, rate limits and ranges are valid."""
        counts = (instrument.input_count, instrument.output_count)
        assert min(*counts, instrument.line_count, instrument.counter_count) >= 0
        assert max(*counts, instrument.line_count, instrument.counter_count) > 0
        assert 0 <= instrument.rate_limits_hz[0] <= instrument.rate_limits_hz[1]
        assert instrument.input_range_v[0] < instrument.input_range_v[1]
        assert instrument.output_range_v[0] < instrument.output_range_v[1]

    def test_fresh_samples_of_every_channel(self, instrument: Daq) -> None:
        """Check that samples are fresh and come from the requested channels."""
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
        """Check that lines, outputs and counters follow their commands."""
        if not self.may_act:
            pytest.skip("may_act is False, since a device may be connected to these outputs")
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
    """Requirements on every light source."""

    def is_dark(self, instrument: LightSource) -> bool:
        """Return whether the closed device is dark; by default by connecting it again."""
        with instrument:
            return not instrument.is_emitting()

    def open_interlock(self, instrument: LightSource) -> None:
        """Open the interlock, as an open door would."""
        pytest.skip("open_interlock() is not overridden, so a test cannot open the interlock")

    def use(self, instrument: LightSource) -> None:
        """Query whether the source emits."""
        instrument.is_emitting()

    def requests(self, instrument: LightSource) -> dict[str, Call]:
        """Return all public exchanges by name."""
        return {
            "set_power": lambda: instrument.set_power(0.0),
            "enable": instrument.enable,
            "disable": instrument.disable,
            "is_emitting": instrument.is_emitting,
            "interlock_closed": instrument.interlock_closed,
            "self_test": instrument.self_test,
        }

    def excesses(self, instrument: LightSource) -> Refusals:
        """Return set-points that the source must refuse."""
        low_w, high_w = instrument.power_limits_w
        return {
            "too much": (LimitExceeded, partial(instrument.set_power, 2 * high_w + 1e-9)),
            "below 0": (LimitExceeded, partial(instrument.set_power, -low_w - 1e-9)),
            "not a number": (LimitExceeded, partial(instrument.set_power, float("nan"))),
        }

    def query(self, instrument: LightSource, thread: int, number: int) -> None:
        """Make two different queries in turn while the source is dark."""
        assert instrument.is_emitting() is False
        assert instrument.interlock_closed() in (True, False)

    def test_attributes_are_valid(self, instrument: LightSource) -> None:
        """Check that the power limits are finite and that connecting starts no emission."""
        low_w, high_w = instrument.power_limits_w
        assert 0 <= low_w <= high_w < float("inf")
        assert not instrument.is_emitting(), "connecting must not switch it on"

    def test_limits_only_become_narrower(self, instrument: LightSource) -> None:
        """Check that a bench file can only narrow the power limits of the device."""
        low_w, high_w = instrument.power_limits_w
        instrument.narrow_limits(0.0, 10 * high_w + 1)
        assert instrument.power_limits_w == (low_w, high_w)
        middle_w = (low_w + high_w) / 2
        instrument.narrow_limits(None, middle_w)
        before = self.sent(instrument)
        refused(LimitExceeded, lambda: instrument.set_power(high_w + 1e-9), instrument)
        assert self.sent(instrument) == before

    def test_emits_only_when_enabled(self, instrument: LightSource) -> None:
        """Check that the source emits after `enable()` only, not after `set_power()`."""
        self._may_emit(instrument)
        instrument.set_power(instrument.power_limits_w[0])
        assert not instrument.is_emitting()
        instrument.enable()
        assert instrument.is_emitting()
        instrument.disable()
        assert not instrument.is_emitting()

    def test_close_leaves_it_dark(self, instrument: LightSource) -> None:
        """Check that `close()` stops the emission."""
        self._may_emit(instrument)
        instrument.enable()
        instrument.close()
        assert self.is_dark(instrument)

    def test_disable_now_works_while_another_thread_holds_it(self, instrument: LightSource) -> None:
        """Check that `disable_now()` works while another thread holds the instrument."""
        self._may_emit(instrument)
        instrument.set_power(instrument.power_limits_w[0])
        instrument.enable()
        is_held, is_over = threading.Event(), threading.Event()

        def hold() -> None:
            with instrument._lock:
                is_held.set()
                is_over.wait(10)

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            assert is_held.wait(10)
            with pytest.raises(InstrumentTimeout):  # the command was sent without a confirmation
                instrument.disable_now(wait_s=0.05)
        finally:
            is_over.set()
            thread.join()
        assert not instrument.is_emitting()

    def test_an_error_leaves_it_dark(self, make: Callable[[], LightSource]) -> None:
        """Check that an exception inside a `with` stops the emission."""
        instrument = make()
        with pytest.raises(ZeroDivisionError), instrument:
            self._may_emit(instrument)
            instrument.enable()
            raise ZeroDivisionError
        assert self.is_dark(instrument)

    def test_an_open_interlock_refuses_emission(self, instrument: LightSource) -> None:
        """Check that an open interlock refuses emission with an error."""
        self.open_interlock(instrument)
        assert not instrument.interlock_closed()
        refused(InstrumentError, instrument.enable, instrument)
        assert not instrument.is_emitting()

    def _may_emit(self, instrument: LightSource) -> None:
        if not self.may_act:
            pytest.skip("may_act is False, since the light may reach an eye or a sample")
        if not instrument.interlock_closed():
            pytest.skip(f"the interlock of {instrument.name} is open")


class PowerMeterConformance(InstrumentConformance[PowerMeter]):
    """Requirements on every power meter.

    Attributes
    ----------
    power_w : known optical power at the sensor; None where unknown
    """

    power_w: float | None = None

    def use(self, instrument: PowerMeter) -> None:
        """Make one measurement."""
        instrument.read_power(timeout_s=2.0)

    def requests(self, instrument: PowerMeter) -> dict[str, Call]:
        """Return all public exchanges by name."""
        return {"read_power": instrument.read_power, "self_test": instrument.self_test}

    def query(self, instrument: PowerMeter, thread: int, number: int) -> None:
        """Make one measurement and check its value."""
        self._check_power(instrument.read_power(timeout_s=30.0))

    def _check_power(self, power_w: float) -> None:
        assert isinstance(power_w, float)
        if self.power_w is not None:
            assert power_w == pytest.approx(self.power_w, rel=0.1)

    def test_measures_watts(self, instrument: PowerMeter) -> None:
        """Check that a measurement is in watts."""
        self._check_power(instrument.read_power())


def _threads_and_files() -> tuple[int, int]:
    """Return the numbers of threads and open files; 0 files where the system does not list them."""
    try:
        files = len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        files = 0
    return threading.active_count(), files


def _exceed(before: tuple[int, int]) -> bool:
    return any(now > then for now, then in zip(_threads_and_files(), before, strict=True))
