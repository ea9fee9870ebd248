"""Products of 8-bit integers through onnxruntime (the extra `fast`), if they are exact here.

`MatMulInteger` multiplies unsigned rows by signed or unsigned columns. Processors without dot
product instructions add pairs of products in 16 bits, where u8 x s8 may saturate silently. Each
kind is therefore tested on the worst numbers before it is used; the other kind may be exact.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

_UINT8, _INT8, _INT32 = 2, 3, 6  # element types of ONNX


@dataclass(frozen=True)
class IntegerProduct:
    """An exact product of 8-bit integers.

    Parameters
    ----------
    kind : "u8 x s8" or "u8 x u8"
    multiply : (rows uint8 [n, K], their zero 0 or 128, columns [K, M] from `stored`) -> (rows -
        zero) @ columns, int32 [n, M]
    """

    kind: str
    multiply: Callable[[np.ndarray, int, np.ndarray], np.ndarray]

    def stored(self, columns: np.ndarray) -> np.ndarray:
        """Return int8 columns [K, M] in the contiguous form that `multiply` takes."""
        if self.kind == "u8 x s8":
            return np.ascontiguousarray(columns)
        return np.ascontiguousarray(columns).view(np.uint8) ^ np.uint8(128)

    def columns(self, stored: np.ndarray) -> np.ndarray:
        """Return the int8 columns [K, M] that `stored` was made of."""
        if self.kind == "u8 x s8":
            return stored
        return np.asarray((stored ^ np.uint8(128)).view(np.int8))

    def magnitudes(self, stored: np.ndarray) -> np.ndarray:
        """Return the magnitudes of stored columns, in the same form."""
        if self.kind == "u8 x s8":
            return np.asarray(np.abs(stored))
        return np.abs((stored ^ np.uint8(128)).view(np.int8)).view(np.uint8) ^ np.uint8(128)


@cache
def integer_product() -> IntegerProduct | str:
    """Return a product that is exact on this processor, or the reason for its absence."""
    if find_spec("onnxruntime") is None:
        return "onnxruntime (extra 'fast') is not installed"
    for kind in ("u8 x s8", "u8 x u8"):
        product = IntegerProduct(kind, open_sessions(kind == "u8 x s8"))
        if is_exact(product):
            return product
    return "onnxruntime's products of 8-bit integers are not exact on this processor"


def import_onnxruntime() -> Any:
    """Import onnxruntime without its telemetry, which a user of lightloom did not ask for.

    Since 1.29 it names the processor, the process and its sessions to its maker, unless a variable
    forbids that before the import; a user may set it to 0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module("onnxruntime")


def open_sessions(signed: bool) -> Callable[[np.ndarray, int, np.ndarray], np.ndarray]:
    """Return onnxruntime's product: rows uint8 [N, K], their zero, columns [K, M] -> int32."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the mock uses its own pool
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    runs = {
        zero: onnxruntime.InferenceSession(
            _model(zero, signed), options, providers=["CPUExecutionProvider"]
        ).run
        for zero in (0, 128)
    }

    def multiply(rows: np.ndarray, zero: int, columns: np.ndarray) -> np.ndarray:
        result: np.ndarray = runs[zero](["y"], {"rows": rows, "columns": columns})[0]
        return result

    return multiply


def is_exact(product: IntegerProduct) -> bool:
    """Return whether a product is exact for the largest and for random numbers."""
    random = np.random.Generator(np.random.Philox(1))
    for n, outputs, length in ((1, 16, 768), (3, 5, 7), (37, 96, 129), (128, 64, 768)):
        for largest in (True, False):
            rows = random.integers(0, 256, (n, length), dtype=np.uint8)
            columns = random.integers(-128, 128, (length, outputs), dtype=np.int8)
            if largest:
                rows[:], columns[:] = 255, np.where(np.arange(outputs) % 2, 127, -128)
                rows[n // 2 :, ::2] = 0
            for zero in (0, 128):
                exact = (rows.astype(np.int32) - zero) @ columns.astype(np.int32)
                result = product.multiply(rows, zero, product.stored(columns))
                if not np.array_equal(result, exact):
                    return False
    return True


def _model(zero: int, signed: bool) -> bytes:
    """Return the ONNX model of one `MatMulInteger` node (protocol buffers, onnx.proto3)."""
    names = ["rows", "columns", "zero"] + ([] if signed else ["columns_zero"])
    node = b"".join(_field(1, name.encode()) for name in names)
    node += _field(2, b"y") + _field(4, b"MatMulInteger")
    zeros = {"zero": zero} | ({} if signed else {"columns_zero": 128})
    graph = _field(1, node) + _field(2, b"product")
    for name, value in zeros.items():
        graph += _field(5, _field(2, _UINT8) + _field(8, name.encode()) + _field(9, bytes([value])))
    graph += _field(11, _tensor("rows", _UINT8, "n", "k"))
    graph += _field(11, _tensor("columns", _INT8 if signed else _UINT8, "k", "m"))
    graph += _field(12, _tensor("y", _INT32, "n", "m"))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, 13))


def _tensor(name: str, kind: int, *sizes: str) -> bytes:
    shape = b"".join(_field(1, _field(2, size.encode())) for size in sizes)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, kind) + _field(2, shape)))


def _field(number: int, value: Any) -> bytes:
    """Return one encoded field: a small integer, or bytes with their length before them."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _varint(value: int) -> bytes:
    digits = b""
    while value > 127:
        digits += bytes([value & 127 | 128])
        value >>= 7
    return digits + bytes([value])
