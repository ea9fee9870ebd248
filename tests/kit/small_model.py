"""A GPT-2 as small as a tiny bench, for tests of who multiplies and when."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

_CONFIG = {"n_layer": 1, "n_head": 2, "n_embd": 20, "n_inner": 24, "vocab_size": 40}
_SIZES = {60: 20, 120: 24, 180: 60, 97: 40}  # of the reference -> of the small one


def write_small_model(folder: Path, reference: Path) -> Path:
    """Write a corner of the first block of the reference GPT-2 as a model of its own."""
    config = json.loads((reference / "config.json").read_text(encoding="utf-8")) | _CONFIG
    tensors = {
        name: array[tuple(slice(_SIZES.get(size, size)) for size in array.shape)].copy()
        for name, array in load_file(reference / "model.safetensors").items()
        if ".h.1." not in name
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return folder
