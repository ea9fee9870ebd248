"""`EncodingTable`: how a bench file lays numbers out on its modulators."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ...instruments.toml_file import TomlTable


class EncodingTable(TomlTable):
    """How numbers are laid out on the modulators, in pixels of the weight modulator.

    Parameters
    ----------
    kind : "abs-split", "push-pull" or "offset" (docs/explanation/light.md)
    element_px : side of the square of one element
    guard_px : dark band between blocks (imaged) or rows (line)
    block : elements of a block, (rows, columns); a line's length follows from the modulator
    """

    kind: Literal["abs-split", "push-pull", "offset"] = "abs-split"
    element_px: int = Field(default=4, ge=1)
    guard_px: int = Field(default=8, ge=0)
    block: tuple[int, int] = (8, 8)

    @model_validator(mode="after")
    def _has_elements(self) -> EncodingTable:
        if min(self.block) < 1:
            raise ValueError(
                f"a block of {self.block[0]} x {self.block[1]} elements is empty; make it larger"
            )
        return self
