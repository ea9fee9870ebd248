"""Splits each layer into optical matmuls and host steps, places, times and runs them."""

if __name__ != "lightloom.scheduler":
    raise ImportError("import lightloom.scheduler, not scheduler")

from .costs import BenchModel, host_cost, optical_cost
from .energy.account import CATEGORIES, SCOPES, Account
from .energy.constants import (
    BASELINES,
    Baseline,
    Constant,
    Constants,
    load_constants,
    resolve,
    set_names,
)
from .energy.document import account_document
from .energy.events import Events, PartEvents, planned_events, recorded_events
from .energy.machine import measure_machine, memory_bytes
from .executor import Executor
from .graph import StepRecord, signature
from .host_model import HostModel, MeasuredHost
from .host_steps import State
from .placement import DEFAULT_POLICY, POLICIES, Placement, decide, is_fixed, place
from .prediction import Prediction, best_parts, predict
from .program import (
    BATCH,
    HOST_KINDS,
    MATMUL_KINDS,
    NEW,
    PAST,
    HostStep,
    OpticalMatmul,
    Program,
    ProgramBuilder,
    Size,
    Step,
    evaluate,
    shape,
)

__all__ = [
    "BASELINES",
    "BATCH",
    "CATEGORIES",
    "DEFAULT_POLICY",
    "HOST_KINDS",
    "MATMUL_KINDS",
    "NEW",
    "PAST",
    "POLICIES",
    "SCOPES",
    "Account",
    "Baseline",
    "BenchModel",
    "Constant",
    "Constants",
    "Events",
    "Executor",
    "HostModel",
    "HostStep",
    "MeasuredHost",
    "OpticalMatmul",
    "PartEvents",
    "Placement",
    "Prediction",
    "Program",
    "ProgramBuilder",
    "Size",
    "State",
    "Step",
    "StepRecord",
    "account_document",
    "best_parts",
    "decide",
    "evaluate",
    "host_cost",
    "is_fixed",
    "load_constants",
    "measure_machine",
    "memory_bytes",
    "optical_cost",
    "place",
    "planned_events",
    "predict",
    "recorded_events",
    "resolve",
    "set_names",
    "shape",
    "signature",
]
