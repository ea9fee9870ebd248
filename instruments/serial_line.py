"""`SerialOptions`: the settings of a serial line in a bench file, for all drivers that use one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .base import DriverOptions

Parity = Literal["none", "odd", "even", "mark", "space"]
FlowControl = Literal["none", "xon/xoff", "rts/cts", "dtr/dsr"]


class SerialOptions(DriverOptions):
    """Settings of a serial line; None means 8 data bits, no parity, 1 stop bit, no flow control."""

    parity: Parity | None = None
    """Parity of a serial line; without the key it has none."""
    data_bits: int | None = Field(default=None, ge=5, le=8)
    """Data bits of a character on a serial line; without the key 8."""
    stop_bits: float | None = None
    """Stop bits of a serial line: 1, 1.5 or 2; without the key 1."""
    flow_control: FlowControl | None = None
    """Flow control of a serial line; without the key it has none."""
    echo: bool = False
    """Whether the device echoes each line that it receives; the echo is read and compared."""

    @field_validator("stop_bits")
    @classmethod
    def _is_a_length(cls, bits: float | None) -> float | None:
        if bits not in (None, 1, 1.5, 2):
            raise ValueError("choose 1, 1.5 or 2")
        return bits

    def line_settings(self) -> dict[str, str | int | float]:
        """Return the settings that the bench file gives, by key."""
        keys = ("parity", "data_bits", "stop_bits", "flow_control")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
