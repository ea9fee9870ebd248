"""Transformer families, their weights and tokenizers."""

if __name__ != "lightloom.models":
    raise ImportError("import lightloom.models, not models")

from .layer_lists import from_sequential, layers_model, save_layers
from .loading import load_model
from .model import Cache, Model
from .shapes import model_or_shape, sized_model, with_random_weights
from .weights import load_arrays

__all__ = [
    "Cache",
    "Model",
    "from_sequential",
    "layers_model",
    "load_arrays",
    "load_model",
    "model_or_shape",
    "save_layers",
    "sized_model",
    "with_random_weights",
]
