"""Transformer families, their weights and tokenizers."""

if __name__ != "lightloom.models":
    raise ImportError("import lightloom.models, not models")

from .loading import load_model
from .model import Cache, Model

__all__ = ["Cache", "Model", "load_model"]
