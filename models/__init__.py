"""Transformer families, their weights and tokenizers, and what one can do with them."""

if __name__ != "lightloom.models":
    raise ImportError("import lightloom.models, not models")

from .loading import load_model
from .model import Cache, Model


__all__ = ["Cache", "Model", "load_model"]
