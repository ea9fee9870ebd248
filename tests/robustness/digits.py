"""The model and the images of every campaign that runs one."""

import numpy as np
from lightloom.models import Model, load_arrays, load_model


def digits() -> tuple[Model, np.ndarray]:
    """Return the digits model and its images [n, 1, 8, 8]."""
    model = load_model("digits")
    return model, load_arrays(model.source / "data.safetensors")["images"]
