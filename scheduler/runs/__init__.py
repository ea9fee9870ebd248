"""Plans, runs, resumed runs and their reports; for any model, which the caller hands in."""

from .plan import Plan, plan
from .plan_record import PlannedStep, PlanRecord
from .report import Report, Run, StepShare

__all__ = ["Plan", "PlanRecord", "PlannedStep", "Report", "Run", "StepShare", "plan"]
