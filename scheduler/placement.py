"""Which products go to light: a policy per matmul.

"paper" follows the published experiment; "projections" keeps the products without a stationary
operand on the host as well.
"""

from collections.abc import Callable, Mapping

from ..instruments import InputError
from .program import OpticalMatmul, Program

_HEADS = ("LM head", "classifier")

POLICIES: Mapping[str, Callable[[OpticalMatmul], bool]] = {
    "paper": lambda step: step.kind not in _HEADS,
    "projections": lambda step: step.kind not in _HEADS and not step.dynamic,
    "all-optical": lambda step: True,
    "host": lambda step: False,
}
DEFAULT_POLICY = "paper"


def place(program: Program, policy: str = DEFAULT_POLICY) -> frozenset[str]:
    """Give the names of the matmuls that go to light.

    Raises
    ------
    InputError : for an unknown policy
    """
    if policy not in POLICIES:
        raise InputError(f"unknown placement {policy!r}; choose from {', '.join(POLICIES)}")
    return frozenset(step.name for step in program.matmuls if POLICIES[policy](step))
