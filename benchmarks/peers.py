"""Products of other simulators of analogue hardware: aihwkit and AnalogVNN (extra `peers`).

Each is set to 8-bit converters and Gaussian noise of a hundredth. Their numbers are not compared:
they stand for what a user of these libraries waits for.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..instruments.environment import thread_count
from ..models import Model
from ..scheduler import FIXED, OpticalMatmul
from .baselines import TorchProgram

Multiply = Callable[[Any], Any]


def missing() -> list[str]:
    """Return a sentence on each library that is not installed."""
    absent = [name for name in PEERS if name not in present()]
    return [f"{name} is not installed (pip install {name.lower()}): not timed" for name in absent]


def present() -> list[str]:
    """Return the names of the libraries that are installed; both need torch."""
    if importlib.util.find_spec("torch") is None:
        return []
    return [name for name in PEERS if importlib.util.find_spec(name.lower()) is not None]


def product(name: str, x: np.ndarray, weights: np.ndarray) -> Callable[[], Any]:
    """Return a library's product of x [N, K] with weights [M, K]."""
    import torch

    torch.set_num_threads(thread_count())
    with torch.inference_mode():
        multiply, rows = PEERS[name](torch.from_numpy(weights)), torch.from_numpy(x)

    def run() -> Any:
        with torch.inference_mode():
            return multiply(rows)

    return run


class PeerProgram(TorchProgram):
    """Program of a model in torch, with the layers of a peer as its projections."""

    def __init__(self, model: Model, ending: str, peer: str) -> None:
        self._make = PEERS[peer]
        super().__init__(model, ending)

    def _product(self, step: OpticalMatmul, weight: Any, bias: Any) -> Multiply:
        if not FIXED["paper"](step):
            return super()._product(step, weight, bias)
        multiply = self._make(weight)
        return multiply if bias is None else lambda x: multiply(x).add_(bias)


def _aihwkit(weights: Any) -> Multiply:
    """Return aihwkit's inference tile in torch: 8-bit converters, output noise."""
    from aihwkit.nn import AnalogLinear
    from aihwkit.simulator.configs import TorchInferenceRPUConfig

    config = TorchInferenceRPUConfig()
    config.forward.inp_res = config.forward.out_res = 1 / 254
    config.forward.out_noise = 0.01
    layer = AnalogLinear(weights.shape[1], weights.shape[0], bias=False, rpu_config=config)
    layer.set_weights(weights)
    layer.eval()
    return layer


def _analogvnn(weights: Any) -> Multiply:
    """Return AnalogVNN's layers: clamp, 8-bit precision, Gaussian noise, around a linear layer."""
    from analogvnn.nn.noise.GaussianNoise import GaussianNoise
    from analogvnn.nn.normalize.Clamp import Clamp
    from analogvnn.nn.precision.ReducePrecision import ReducePrecision

    warnings.filterwarnings("ignore", module="analogvnn")  # at each call
    clamp, precision = Clamp(), ReducePrecision(precision=127, divide=0.5)
    noise = GaussianNoise(std=0.01, precision=127)
    return lambda x: noise(precision(clamp(x)) @ weights.T)


PEERS: dict[str, Callable[[Any], Multiply]] = {"aihwkit": _aihwkit, "AnalogVNN": _analogvnn}
"""Name -> maker of a product with weights [M, K], a tensor."""
