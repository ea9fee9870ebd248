"""Device profiles by name, for simulated instruments: figures of vendors and publications.

"(v)" in a source marks a figure that was recalled, not looked up. Settling times are those of the
device class. Where laboratories wait half a second, that time is their choice, not a property of
the device.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModulatorProfile:
    """A modulator: (height, width), bits, and times in seconds."""

    shape: tuple[int, int]
    bit_depth: int
    refresh_period_s: float
    settle_time_s: float
    latency_s: float = 0.0
    dither_period_s: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class CameraProfile:
    """A camera: (height, width), noise in electrons, times in seconds."""

    sensor_shape: tuple[int, int]
    bit_depth: int
    read_noise_e: float
    full_well_e: float
    dark_e_per_s: float
    readout_s: float
    quantum_efficiency: float
    row_time_s: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class DaqProfile:
    """A DAQ: inputs, bits, fastest scan of one channel, range in volts."""

    input_count: int
    output_count: int
    bit_depth: int
    rate_hz: float
    range_v: float
    source: str = ""


_HDMI = 2.5 / 60  # 2-3 frames of latency from flip to light

MODULATORS = {
    "meadowlark-p1920": ModulatorProfile(
        (1152, 1920), 8, 1 / 60, 0.05, _HDMI, source="60 Hz (v); settling assumed"
    ),
    "phone-oled": ModulatorProfile(
        (1080, 1920), 8, 1 / 60, 0.001, _HDMI, source="60 Hz (v), about 7 of 8 bits usable"
    ),
    "holoeye-pluto": ModulatorProfile(
        (1080, 1920), 8, 1 / 60, 0.04, _HDMI, source="60 Hz (v); settling assumed"
    ),
    "santec-slm-200": ModulatorProfile(
        (1200, 1920), 10, 1 / 60, 0.1, _HDMI, source="DVI 60 Hz (v); settling assumed"
    ),
    "hamamatsu-x15213": ModulatorProfile(
        (1024, 1272), 8, 1 / 60, 0.03, _HDMI, source="60 Hz; settling assumed"
    ),
    "meadowlark-1024": ModulatorProfile(
        (1024, 1024), 8, 1e-3, 1e-3, source="PCIe, about 1 kHz (v); settling assumed"
    ),
    "fast-1920": ModulatorProfile(
        (1152, 1920), 8, 1e-3, 1e-3, source="assumed: 1920 x 1152 at the rate of a PCIe device"
    ),
    "dlp7000": ModulatorProfile(
        (768, 1024), 8, 1 / 1900, 0.0, 0.0, 1 / 1900, "8 bit over 1.9 kHz, modulated source"
    ),
    "plm-067": ModulatorProfile((800, 1358), 4, 1 / 1440, 1e-4, source="4 bits (v)"),
    "tiny": ModulatorProfile((64, 96), 8, 1e-3, 1e-3, source="invented, for tests"),
    "fast-512": ModulatorProfile((512, 512), 8, 1e-3, 1e-3, source="invented, for schedulers"),
}

CAMERAS = {
    "orca-quest-2": CameraProfile((2304, 4096), 16, 0.43, 7000, 0.006, 1 / 120, 0.72),
    "prime-95b": CameraProfile(
        (1200, 1200), 12, 1.8, 10_000, 0.1, 1 / 82, 0.95, 1 / 82 / 1200, "rolling shutter"
    ),
    "kinetix": CameraProfile((3200, 3200), 12, 1.6, 15_000, 0.15, 1 / 83, 0.91, source="(v)"),
    "zyla": CameraProfile((2160, 2560), 16, 1.2, 30_000, 0.1, 1 / 100, 0.82, source="dark (v)"),
    "cs165mu": CameraProfile((1080, 1440), 10, 4.0, 11_000, 3.0, 1 / 35, 0.68, source="bits (v)"),
    "basler-aca1440": CameraProfile(
        (1088, 1456), 12, 2.5, 10_000, 1.0, 1 / 160, 0.6, source="160 fps at 12 bit, well (v)"
    ),
    "blackfly-32s4": CameraProfile((1536, 2048), 12, 2.5, 10_000, 1.0, 1 / 118, 0.6, source="(v)"),
    "tiny": CameraProfile((64, 96), 12, 2.5, 10_000, 1.0, 1e-3, 0.6, source="invented, for tests"),
    "fast-512": CameraProfile((512, 512), 12, 2.5, 10_000, 1.0, 5e-4, 0.6, source="invented"),
}

DAQS = {
    "ni-6363": DaqProfile(32, 4, 16, 2e6, 10.0, "2 MS/s one channel, 4 outputs (v)"),
    "ni-6366": DaqProfile(8, 2, 16, 2e6, 10.0, "simultaneous; channels (v)"),
    "red-pitaya": DaqProfile(2, 2, 14, 125e6, 1.0, "125 MS/s"),
}
