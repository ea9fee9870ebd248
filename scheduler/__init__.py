"""Splits each layer into optical matmuls and host steps, places, times and runs them."""

if __name__ != "lightloom.scheduler":
    raise ImportError("import lightloom.scheduler, not scheduler")

from .energy.account import SCOPES, account_document
from .energy.constants import Baseline
from .energy.machine import measure_machine, memory_bytes
from .executor import Executor
from .graph import StepRecord
from .host_steps import State
from .placement import DEFAULT_POLICY, FIXED, POLICIES, Placement
from .program import (
    BATCH,
    MATMUL_KINDS,
    NEW,
    PAST,
    HostStep,
    OpticalMatmul,
    Program,
    ProgramBuilder,
    evaluate,
    shape,
)

__all__ = [
    "BATCH",
    "DEFAULT_POLICY",
    "FIXED",
    "MATMUL_KINDS",
    "NEW",
    "PAST",
    "POLICIES",
    "SCOPES",
    "Baseline",
    "Executor",
    "HostStep",
    "OpticalMatmul",
    "Placement",
    "Program",
    "ProgramBuilder",
    "State",
    "StepRecord",
    "account_document",
    "evaluate",
    "measure_machine",
    "memory_bytes",
    "shape",
]
