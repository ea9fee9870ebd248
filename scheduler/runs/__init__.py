"""Plans, runs, resumed runs and their reports, for any model."""

from .plan import Plan, plan
from .plan_record import PlannedStep, PlanRecord
from .report import Report, Run, StepRow

__all__ = ["Plan", "PlanRecord", "PlannedStep", "Report", "Run", "StepRow", "plan"]
