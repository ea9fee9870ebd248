"""The simulated instruments: thin drivers over a `LightPath`, with realistic timing and faults.

Each instrument belongs to a world, which `join` sets. An instrument without a world creates a small
one when it is connected, which is sufficient to test its interface.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ..base import DriverOptions, Identity, Instrument
from ..camera import Camera, CountOptions, RawFrame, Region, Shot, TriggerMode
from ..daq import Daq, Samples
from ..environment import COMPILED
from ..errors import InstrumentTimeout, InterlockOpen, InUse
from ..light_source import LightSource
from ..slm import SpatialLightModulator
from ..toml_file import one_of
from ..units import Seconds, Watts
from .chance import digest
from .faults import Fault
from .light_path import LightPath
from .optics import in_bands
from .profiles import CAMERAS, DAQS, MODULATORS, CameraProfile
from .world_options import Layout, WorldOptions

_ROLES = {
    "slm": "input",
    "camera": "detector",
    "daq": "detector",
    "light source": "source",
    "power meter": "power_meter",
}
_POISSON_BELOW_E = (
    2.0  # read noise in electrons, below which weak light is drawn from a Poisson distribution
)
_STANDALONE_W = 1e-3  # source power of a camera without a world
_KURTOSIS = 1 / 16  # excess kurtosis that a pixel may lack; a slot sums hundreds of pixels


class SimulatedOptions(DriverOptions):
    """Settings of all simulated instruments."""

    faults: tuple[Fault, ...] = ()
    """Faults of the device, for rehearsals."""
    serial: str = ""
    """Serial number, which is also the exclusive address of the instrument.

    Without one the instrument claims no address. Its serial number then follows from the seed of
    the world, its role and its device, such as "SIM-3f2a9c".
    """


class _Simulated(Instrument):
    """An instrument that belongs to a world and fails according to its faults.

    Attributes
    ----------
    world : set by `join`, or when it is connected without one
    """

    is_of_this_process = True
    world: LightPath
    role = ""
    _is_lost = False

    def __init__(self, name: str, options: Any = None, **others: Any) -> None:
        super().__init__(name, options, **others)
        self._exchanges = Counter[str]()

    def join(self, world: LightPath, role: str) -> None:
        """Set the world of the instrument and its role in the bench file."""
        self.world, self.role = world, role

    @property
    def address(self) -> str:
        """The address made from the serial number; "" without one."""
        serial: str = self.options.serial
        return f"simulated:{serial}" if serial else ""

    def unplug(self) -> None:
        """Disconnect the device, as when its cable is pulled."""
        self._is_lost = True

    def _fails(self, exchange: str, *kinds: str) -> Fault | None:
        """Count an exchange and return its fault of these kinds; raise if the device is lost."""
        self._exchanges[exchange] += 1
        if "lost" not in self._exchanges and self._fault(exchange, "lost"):
            self._exchanges["lost"], self._is_lost = self._exchanges[exchange], True
        if self._is_lost:
            raise OSError(5, "simulated: the device does not respond any more")
        return self._fault(exchange, *kinds)

    def _fault(self, exchange: str, *kinds: str) -> Fault | None:
        """Return the fault of these kinds that strikes the latest exchange."""
        number = self._exchanges[exchange]
        for fault in self.options.faults:
            if fault.kind in kinds and fault.happens(number):
                return fault
        return None

    def _begin(self, model: str) -> Identity:
        self._is_lost = False
        self._exchanges["connect"] += 1
        if self._fault("connect", "held"):
            raise InUse(f"{self.name}: {model} is held by another process; close that first")
        if not hasattr(self, "world"):
            self._create_world()
        own = digest(self.world.options.seed, "serial", self.role, model).hex()[:6]
        return Identity("lightloom", f"simulated {model}", self.options.serial or f"SIM-{own}")

    def _create_world(self) -> None:
        """Create a world with two small modulators and join it."""
        layout: Layout = "single-pixel" if self.kind == "daq" else "imaged"
        world = LightPath(WorldOptions(layout=layout))
        for role in ("input", "weight"):
            world.add_modulator(role, MODULATORS["tiny"].shape, 8, 0.0)
        if self.kind == "camera":  # steady light, brighter from one corner to the other
            height, width = MODULATORS["tiny"].shape
            shades = np.add.outer(np.arange(height), np.arange(width)) * 255 // (height + width)
            for role in world.modulators:
                world.show(role, shades.astype(np.uint8), float("-inf"))
            world.power_w = _STANDALONE_W
        self.join(world, _ROLES[self.kind])

    def _disconnect(self) -> None:
        pass


class SLMOptions(SimulatedOptions):
    """Settings of a simulated modulator; None takes the value of the device."""

    device: Annotated[str, one_of(MODULATORS)] = "fast-1920"
    """Name of the device that is simulated."""
    bit_depth: int | None = Field(default=None, ge=1, le=16)
    """Bits of a grey level; without the key those of the device."""
    settle_time_s: Seconds | None = None
    """Slowest change of grey level; without the key that of the device."""
    refresh_period_s: Seconds | None = None
    """Time between two refreshes; without the key that of the device."""
    transfer_s: Seconds = 0.0
    """Time to transfer a frame before the device can show it."""


class SimulatedSLM(_Simulated, SpatialLightModulator):
    """A modulator with a refresh period, latency and settling time."""

    driver = "simulated-slm"
    Options = SLMOptions

    def _connect(self, timeout_s: float) -> Identity:
        device = MODULATORS[self.options.device]
        identity = self._begin(self.options.device)
        self.shape = device.shape
        self.bit_depth = self.options.bit_depth or device.bit_depth
        self.latency_s, self.transfer_s = device.latency_s, self.options.transfer_s
        self.dither_period_s = device.dither_period_s
        settle, refresh = self.options.settle_time_s, self.options.refresh_period_s
        self.settle_time_s = device.settle_time_s if settle is None else settle
        self.refresh_period_s = device.refresh_period_s if refresh is None else refresh
        self.world.add_modulator(self.role, self.shape, self.bit_depth, self.settle_time_s)
        self._flip_s = -np.inf
        return identity

    def _show(self, frame: np.ndarray) -> float:
        fault = self._fails("show", "frozen", "late", "silent")
        if fault is not None and fault.kind == "silent":
            raise InstrumentTimeout(f"{self.name}: no reply to a frame")
        if self.transfer_s:
            self.clock.sleep_until(self.clock.now_s() + self.transfer_s)
        now, period = self.clock.now_s(), self.refresh_period_s
        flip = now
        if period:
            flip = max(np.ceil(now / period - 1e-6) * period, self._flip_s + period)
        self._flip_s = flip
        self.world.flips(self.role, now)
        if fault is None or fault.kind == "late":
            late = 0.0 if fault is None else fault.delay_s
            self.world.show(self.role, frame, flip + self.latency_s + late)
        return float(flip)


class CameraOptions(SimulatedOptions, CountOptions):
    """Settings of a simulated camera; None takes the value of the device."""

    device: Annotated[str, one_of(CAMERAS)] = "basler-aca1440"
    """Name of the device that is simulated."""
    exposure_s: Seconds = 2e-3
    """Exposure until the bench sets its own."""
    trigger_latency_s: Seconds = 0.0
    """Delay from a trigger to the exposure."""
    readout_s: Seconds | None = None
    """Time from the end of an exposure to the arrival of the frame; else that of the device."""


class SimulatedCamera(_Simulated, Camera):
    """A camera with shot noise, read noise, dark current, full well and ADC.

    Attributes
    ----------
    recording : images by the address of their shot; a shot in it is not simulated again, others are
        added. None for no recording
    """

    driver = "simulated-camera"
    Options = CameraOptions
    tells_exposed = True
    recording: dict[str, np.ndarray] | None = None

    def _connect(self, timeout_s: float) -> Identity:
        device = self._device = CAMERAS[self.options.device]
        identity = self._begin(self.options.device)
        self.sensor_shape, self.bit_depth = device.sensor_shape, device.bit_depth
        self.exposure_limits_s = (1e-6, 60.0)
        readout = self.options.readout_s
        self.readout_s = device.readout_s if readout is None else readout
        self.row_time_s = device.row_time_s
        self.trigger_latency_s = self.options.trigger_latency_s
        self.read_noise_e, self.dark_e_per_s = device.read_noise_e, device.dark_e_per_s
        self.full_well_e = device.full_well_e
        self.offset_counts = float(1 << max(self.bit_depth - 7, 0))
        steps = (1 << self.bit_depth) - 1 - self.offset_counts
        self.gain_e_per_count = device.full_well_e / steps
        self._exposure_s = self.options.exposure_s
        self._waiting: deque[tuple[int, float, Shot]] = deque()
        self._number, self._free_s, self._exposed_s = 0, -np.inf, -np.inf
        self._last: np.ndarray | None = None
        self._black_image: np.ndarray | None = None
        return identity

    def _configure(self, exposure_s: float, region: Region, trigger: TriggerMode) -> float:
        self._fails("configure")
        return exposure_s

    def _arm(self) -> None:
        self._fails("arm")
        self._waiting.clear()

    def _disarm(self) -> None:
        self._waiting.clear()

    def _trigger(self, shot: Shot | None) -> None:
        fault = self._fails("trigger", "dropped")
        self._number += 1
        # the next exposure may overlap the read-out, but not end before it
        start = max(self.clock.now_s() + self.trigger_latency_s, self._free_s)
        ends = start + self._exposure_s + self.row_time_s * self.region.height
        self._exposed_s, self._free_s = ends, max(ends, ends + self.readout_s - self._exposure_s)
        if fault is None:
            self._waiting.append((self._number, start, shot or self.world.next_shot()))

    def wait_until_exposed(self) -> None:
        """Wait until the latest exposure has ended."""
        self.clock.sleep_until(self._exposed_s)

    def _read(self, timeout_s: float) -> RawFrame | None:
        fault = self._fails("read", "incomplete", "stale", "silent", "overflow", "garbage")
        kind = "" if fault is None else fault.kind
        if kind == "overflow":
            self._waiting.clear()
        deadline_s = self.clock.now_s() + timeout_s
        ready_s = np.inf
        if self._waiting:
            rolling = self.row_time_s * self.region.height
            ready_s = self._waiting[0][1] + self._exposure_s + rolling + self.readout_s
        if ready_s > deadline_s or kind == "silent":
            self.clock.sleep_until(deadline_s)
            return None
        number, start, shot = self._waiting.popleft()
        self.clock.sleep_until(ready_s)
        data = None if self.recording is None else self.recording.get(shot.address)
        if data is None:
            data = self._image(start, shot, kind == "garbage")
        if self.recording is not None:
            self.recording[shot.address] = data
        last, self._last = self._last, data
        if kind == "stale" and last is not None:
            data = last
        return RawFrame(data, number, start, is_complete=kind != "incomplete")

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bit_depth <= 8 else np.uint16)

    def _black(self, height: int, width: int) -> np.ndarray:
        """Return a black image; it is made once, because new memory takes longer than a shot."""
        if self._black_image is None or self._black_image.shape != (height, width):
            self._black_image = np.zeros((height, width), dtype=self._dtype)
            self._black_image.setflags(write=False)
        return self._black_image

    def _image(self, start_s: float, shot: Shot, is_garbage: bool) -> np.ndarray:
        device, region = self._device, self.region
        assert self.gain_e_per_count is not None and self.offset_counts is not None
        if self.world.options.light == "timing":
            return self._black(region.height, region.width)
        gain, offset = self.gain_e_per_count, self.offset_counts
        light = self.world.on_camera(
            start_s, self._exposure_s, self.sensor_shape, region, self.row_time_s, shot
        )
        if is_garbage:
            light *= self.world.generator(shot, "hand").random(light.shape, dtype=np.float32)
        self.world.add_hot_pixels(light, self.sensor_shape, region, self._exposure_s)
        dark = device.dark_e_per_s * self._exposure_s
        counts = np.empty(light.shape, dtype=self._dtype)
        world, highest = self.world, float((1 << self.bit_depth) - 1)

        def work(first: int, last: int) -> None:
            chance = world.generator(shot, f"pixels {first}")
            _convert(
                light[first:last], dark, device, gain, offset, highest, chance, counts[first:last]
            )

        in_bands(work, counts.shape)
        return counts


def _convert(
    light: np.ndarray,
    dark: float,
    device: CameraProfile,
    gain: float,
    offset: float,
    highest: float,
    chance: np.random.Generator,
    out: np.ndarray,
) -> None:
    """Write the counts of pixels into `out`; half a count is added for rounding."""
    if COMPILED and device.read_noise_e >= _POISSON_BELOW_E:
        from .kernels import Pixels, convert

        z = chance.standard_normal(light.shape, dtype=np.float32)
        noise = device.read_noise_e**2
        constants = (dark, noise, device.full_well_e, 1 / gain, offset + 0.5, highest)
        convert(light, z, Pixels(*map(np.float32, constants)), out)
        return
    electrons = _detected_electrons(light, dark, device.read_noise_e, device.full_well_e, chance)
    electrons *= np.float32(1 / gain)
    electrons += np.float32(offset + 0.5)
    out[...] = np.clip(electrons, 0, highest, out=electrons)


def _detected_electrons(
    light: np.ndarray, dark: float, read_noise_e: float, full_well_e: float, chance: Any
) -> np.ndarray:
    """Return detected electrons of pixels: light, dark current, full well and read noise.

    Electrons plus read noise are drawn as a Gaussian with the first Cornish-Fisher correction,
    n = mean + s z + mean (z^2 - 1) / (6 s^2) with s^2 = mean + read noise^2: mean, variance and
    third moment are those of a Poisson number plus Gaussian noise. The missing excess kurtosis is
    mean / s^4. Where that exceeds 1/16 (never from 2 electrons of read noise on), a true Poisson
    number is drawn instead.
    """
    mean = light + np.float32(dark)
    z = chance.standard_normal(mean.shape, dtype=np.float32)
    variance = mean + np.float32(read_noise_e**2)
    weak = None
    if read_noise_e < _POISSON_BELOW_E:
        weak = mean > _KURTOSIS * variance * variance
    n = np.sqrt(variance)
    n *= z
    n += mean
    np.multiply(z, z, out=z)
    z -= 1
    z *= mean
    variance *= 6
    variance += np.float32(1e-30)
    z /= variance
    n += z
    if weak is not None and weak.any():
        counted = chance.poisson(np.maximum(mean[weak], 0)).astype(np.float32)
        counted += np.float32(read_noise_e) * chance.standard_normal(len(counted), dtype=np.float32)
        n[weak] = counted
    np.minimum(n, np.float32(full_well_e), out=n)
    return n


class DaqOptions(SimulatedOptions):
    """Settings of a simulated DAQ with a photodiode."""

    device: Annotated[str, one_of(DAQS)] = "ni-6363"
    """Name of the device that is simulated."""
    volts_per_electron: float = Field(default=1e-6, gt=0)
    """Conversion gain of photodiode and amplifier, per sample."""
    read_noise_e: float = Field(default=1000.0, ge=0)
    """Read noise of photodiode and amplifier, per sample."""
    dark_e_per_s: float = Field(default=1e5, ge=0)
    """Dark current of the photodiode."""


class SimulatedDaq(_Simulated, Daq):
    """A DAQ whose input 0 is a photodiode; counters 0 and 1 count input and weight frames."""

    driver = "simulated-daq"
    Options = DaqOptions

    def _connect(self, timeout_s: float) -> Identity:
        device = DAQS[self.options.device]
        identity = self._begin(self.options.device)
        self.input_count, self.output_count = device.input_count, device.output_count
        self.line_count, self.counter_count = 8, 2
        self.rate_limits_hz = (0.1, device.rate_hz)
        self.input_range_v = self.output_range_v = (-device.range_v, device.range_v)
        self.bit_depth = device.bit_depth
        self._lines, self._counted_from = [False] * 8, [0, 0]
        return identity

    def _read(
        self,
        channels: Sequence[int],
        samples: int,
        rate_hz: float,
        timeout_s: float,
        shot: Shot | None,
    ) -> Samples:
        fault = self._fails("read", "silent", "garbage")
        start = self.clock.now_s()
        if fault is not None and fault.kind == "silent":
            self.clock.sleep_until(start + timeout_s)
            raise InstrumentTimeout(f"{self.name}: no samples within {timeout_s:g} s")
        self.clock.sleep_until(start + samples / rate_hz)
        assert self.bit_depth is not None
        shot = shot or self.world.next_shot()
        window = samples / rate_hz
        mean = self.world.on_photodiode(start, window, shot) / samples
        mean += self.options.dark_e_per_s / rate_hz
        low, high = self.input_range_v
        step = (high - low) / ((1 << self.bit_depth) - 1)
        volts = np.empty((len(channels), samples))
        for row, channel in enumerate(channels):
            chance = self.world.generator(shot, f"channel {channel}")
            light = np.full((1, samples), mean if channel == 0 else 0.0, dtype=np.float32)
            if fault is not None:
                light *= chance.random()
            electrons = _detected_electrons(light, 0.0, self.options.read_noise_e, np.inf, chance)
            volts[row] = electrons[0] * self.options.volts_per_electron
        volts = np.rint(np.clip(volts, low, high) / step) * step
        return Samples(volts, rate_hz, start, shot)

    def _write(self, channel: int, volts: float) -> None:
        self._fails("write")

    def _set_line(self, line: int, high: bool) -> None:
        self._fails("line")
        self._lines[line] = high

    def _read_line(self, line: int) -> bool:
        self._fails("line")
        return self._lines[line]

    def _count(self, counter: int) -> int:
        self._fails("count")
        role = ("input", "weight")[counter]
        return self.world.flips(role, self.clock.now_s()) - self._counted_from[counter]

    def _reset_count(self, counter: int) -> None:
        self._counted_from[counter] += self._count(counter)


class SourceOptions(SimulatedOptions):
    """Settings of a simulated light source."""

    power_w: Watts = 1e-3
    """Set-point until the bench sets its own."""
    most_w: Watts = 5e-3
    """Highest power that the source can emit."""


class SimulatedSource(_Simulated, LightSource):
    """A source with a set-point and a latching interlock; its drift is part of the world."""

    driver = "simulated-source"
    Options = SourceOptions
    _tripped = False  # kept when it is connected again
    _factor = 1.0

    def _connect(self, timeout_s: float) -> Identity:
        identity = self._begin("source")
        self.power_limits_w = (0.0, self.options.most_w)
        self.wavelength_m = 532e-9
        self.has_interlock = True
        self._emitting, self._power_w = False, self.options.power_w
        return identity

    def _update_light(self) -> None:
        self.world.power_w = self._power_w * self._factor if self._emitting else 0.0

    def _set_power(self, power_w: float) -> None:
        self._fails("power")
        self._power_w, self._factor = power_w, 1.0
        self._update_light()

    def _enable(self) -> None:
        self._check("enable")
        if self._tripped:
            raise InterlockOpen(f"{self.name}: the interlock has tripped; re-arm it on site")
        self._emitting = True
        self._update_light()

    def _disable(self) -> None:
        self._emitting = False
        self._update_light()

    def _emits(self) -> bool:
        self._check("state")
        return self._emitting

    def _interlock_closed(self) -> bool:
        self._check("interlock")
        return not self._tripped

    def _check(self, exchange: str) -> None:
        fault = self._fails(exchange, "tripped", "dim", "silent")
        if fault is None:
            return
        if fault.kind == "silent":
            raise InstrumentTimeout(f"{self.name}: no reply to {exchange}")
        if fault.kind == "tripped":
            self.trip()
        else:
            self._factor = 0.5
            self._update_light()

    def trip(self) -> None:
        """Open the interlock, as an open door would; it latches until `rearm`."""
        self._tripped, self._emitting = True, False
        self._update_light()

    def rearm(self) -> None:
        """Reset the interlock, as an operator does on site after a trip."""
        self._tripped = False
