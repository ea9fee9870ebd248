"""Splits each layer into optical matmuls and host steps, places, times and runs them."""

if __name__ != "lightloom.scheduler":
    raise ImportError("import lightloom.scheduler, not scheduler")

from .executor import Executor, StepRecord
from .host_steps import State
from .placement import DEFAULT_POLICY, POLICIES, place
from .program import (
    HOST_KINDS,
    MATMUL_KINDS,
    HostStep,
    OpticalMatmul,
    Program,
    ProgramBuilder,
    Step,
)
from .sizes import BATCH, NEW, PAST, Size, evaluate, shape
from .timing import host_cost, optical_cost

__all__ = [
    "BATCH",
    "DEFAULT_POLICY",
    "HOST_KINDS",
    "MATMUL_KINDS",
    "NEW",
    "PAST",
    "POLICIES",
    "Executor",
    "HostStep",
    "OpticalMatmul",
    "Program",
    "ProgramBuilder",
    "Size",
    "State",
    "Step",
    "StepRecord",
    "evaluate",
    "host_cost",
    "optical_cost",
    "place",
    "shape",
]
