"""Transformer families, their weights and tokenizers, and what one can do with them."""

if __name__ != "lightloom.models":
    raise ImportError("import lightloom.models, not models")

from ..scheduler.runs.plan import Plan, Report, Run, plan
from .loading import load_model
from .model import Cache, Model

__all__ = ["Cache", "Model", "Plan", "Report", "Run", "load_model", "plan"]
