"""Plans, runs, resumed runs and their reports; for any model, which the caller hands in."""

from .plan import Plan, Report, Run, plan

__all__ = ["Plan", "Report", "Run", "plan"]
