"""`SerialOptions`: the settings of a serial line in a bench file, for all drivers that use one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .base import DriverOptions

Parity = Literal["none", "odd", "even", "mark", "space"]
FlowControl = Literal["none", "xon/xoff", "rts/cts", "dtr/dsr"]


class SerialOptions(DriverOptions):
    """Settings of a serial line; None means 8 data bits, no parity, 1 stop bit, no flow control.

    Parameters
    ----------
    stop_bits : 1, 1.5 or 2
    echo : whether the device echoes each line; the echo is read and compared
    """

    parity: Parity | None = None
    data_bits: int | None = Field(default=None, ge=5, le=8)
    stop_bits: float | None = None
    flow_control: FlowControl | None = None
    echo: bool = False

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
