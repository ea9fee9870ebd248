"""`ImagedLayout`: blocks of elements side by side, each imaged onto its own camera pixels.

Markers are strips at top and bottom. Half of their cells show the input frame's number (with bright
weights), half the weight frame's number (with bright input), each bit beside its complement.
"""

from __future__ import annotations

import numpy as np

from ....instruments import InputError
from .. import registration
from .base import BRIGHT, FIRST_BIT
from .on_camera import APART_PX, OnCamera


class ImagedLayout(OnCamera):
    """Blocks of elements, each summed over its camera pixels; many rows and vectors share a shot.

    With pitch q and guard g, blocks of b x a elements: floor(height / (b q + g)) times
    floor(width / (a q + g)) slots, less a row of blocks if there is no room for the strips.
    """

    name = "imaged"

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        pitch, guard = self.encoding.element_px, self.encoding.guard_px
        b, a = self.encoding.block
        height, width = self._size
        step_y, step_x = b * pitch + guard, a * pitch + guard
        strip = max(2 * guard, 8)
        down, across = height // step_y, width // step_x
        if height - down * step_y < 2 * strip:
            down -= 1
        self.marker_bits = min(8, int(width // (6 * max(guard, 4))))
        if down < 1 or across < 1 or self.marker_bits < 2:
            raise InputError(
                f"a block of {b} x {a} elements of {pitch} pixels with a guard of {guard} does not "
                f"fit the {height} x {width} visible pixels of the weight modulator, beside its "
                "markers; make it smaller"
            )
        self.slots, self.length = down * across, a * b
        self.grid = (down, across)
        used = (down * step_y, across * step_x)
        top, left = (height - used[0]) // 2, (width - used[1]) // 2
        element = FIRST_BIT + 2 * self.marker_bits
        places = np.zeros((height, width), dtype=np.int64)
        blocks = np.arange(self.slots).reshape(down, across) * self.length + element
        inside = np.arange(self.length).reshape(b, a)
        grid = blocks[:, None, :, None] + inside[None, :, None, :]
        squares = np.repeat(np.repeat(grid, pitch, axis=1), pitch, axis=3)
        area = np.zeros((down, step_y, across, step_x), dtype=np.int64)
        half = guard // 2
        area[:, half : half + b * pitch, :, half : half + a * pitch] = squares
        places[top : top + used[0], left : left + used[1]] = area.reshape(used)
        inputs = places.copy()
        cells = self._mark(places, inputs, strip, top, height)
        self._find_regions(down, across, (step_y, step_x), (top, left), (b, a), cells)
        return self._in_window(places), self._in_window(inputs)

    def _mark(
        self, weight: np.ndarray, inputs: np.ndarray, strip: int, top: int, height: int
    ) -> dict[str, np.ndarray]:
        """Put marker cells into the strips; return their rectangles [2, 2 bits, 4] by role."""
        count = 2 * self.marker_bits
        edges = np.linspace(0, weight.shape[1], 2 * count + 1).astype(int)
        middles = (min(top, strip) // 2, height - min(height - top, strip) // 2)
        tall = max(strip // 2, 4)
        by_role: dict[str, np.ndarray] = {}
        for role, first, mine, other in (
            ("input", 0, inputs, weight),
            ("weight", count, weight, inputs),
        ):
            cells = np.zeros((2, count, 4))
            for copy, middle in enumerate(middles):
                for bit in range(count):
                    left, right = edges[first + bit], edges[first + bit + 1]
                    gap = max((right - left) // 5, 1)
                    box = (middle - tall // 2, left + gap, middle + tall // 2, right - gap)
                    part = (slice(box[0], box[2]), slice(box[1], box[3]))
                    mine[part], other[part] = FIRST_BIT + bit, BRIGHT
                    cells[copy, bit] = box
            by_role[role] = cells
        return by_role

    def _find_regions(
        self,
        down: int,
        across: int,
        step: tuple[int, int],
        start: tuple[int, int],
        block: tuple[int, int],
        cells: dict[str, np.ndarray],
    ) -> None:
        """Map blocks and cells to camera pixels; a block includes its half of the guard band."""
        pitch, half = self.encoding.element_px, self.encoding.guard_px // 2
        corner = np.array(self.window[:2])
        middle = corner + np.array(self._size) / 2
        slopes = registration.scales(self.optics.camera_map, middle)
        scale = float(np.sqrt(abs(np.linalg.det(slopes))))
        tops = start[0] + half + step[0] * np.arange(down)
        lefts = start[1] + half + step[1] * np.arange(across)
        boxes = np.zeros((down, across, 4))
        boxes[..., 0], boxes[..., 1] = tops[:, None], lefts[None, :]
        boxes[..., 2] = boxes[..., 0] + block[0] * pitch
        boxes[..., 3] = boxes[..., 1] + block[1] * pitch
        margin = (self._guard_on_camera(scale, "blocks") - 1) / 2
        of_cells = {role: cell.reshape(-1, 4) + np.tile(corner, 2) for role, cell in cells.items()}
        self._cut(
            self._on_camera(boxes.reshape(-1, 4) + np.tile(corner, 2), margin),
            {role: self._on_camera(cell, -1.0) for role, cell in of_cells.items()},
        )

    def _on_camera(self, boxes: np.ndarray, margin: float) -> np.ndarray:
        """Return the camera rectangles of boxes of weight pixels, plus a margin."""
        matrix = self.optics.camera_map
        middle = np.stack([boxes[:, 0] + boxes[:, 2] - 1, boxes[:, 1] + boxes[:, 3] - 1], 1) / 2
        centre = registration.apply(matrix, middle)
        size = np.stack([boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], axis=1)
        slopes = np.abs(registration.scales(matrix, middle))
        reach = (slopes @ size[..., None])[..., 0] / 2 + margin
        low = np.rint(centre - reach + 0.5).astype(int)
        high = np.maximum(np.rint(centre + reach + 0.5).astype(int), low + 1)
        return np.concatenate([low, high], axis=1)

    def _are_lit(self, points: np.ndarray) -> np.ndarray:
        height, width = self._shapes["weight"]
        corner = registration.back(self.optics.camera_map, points)
        scales = np.abs(np.linalg.det(registration.scales(self.optics.camera_map, corner)))
        apart = (APART_PX / np.sqrt(np.maximum(scales, 1e-12)))[:, None]
        inside = (corner > -apart) & (corner < np.array([height, width]) - 1 + apart)
        return np.asarray(inside.all(axis=-1))
