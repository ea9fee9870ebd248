"""Fine-tune a model that ships with lightloom for little light, and measure what that gains.

The digits model and glimmer are loaded as modules of transformers and trained by
`lightloom.torch.finetune`. Both versions are then measured with held-out data on the mock, as
`lightloom run` would, with read-out ranges from training data and with other noise than in
training.

How to run it (minutes for each light level and seed, on two cores; no download)::

    pip install 'lightloom[torch,models,train]'
    python examples/finetune_for_light.py digits --light 0.3 1 --seeds 0 1 2 3 4
    python examples/finetune_for_light.py digits --light 10 --profile slm-camera
    python examples/finetune_for_light.py glimmer --light 1.8
    python examples/finetune_for_light.py digits --light 1 --save my-digits  # a folder to run

Light is in photons per MAC. Without `--profile` it is the only noise: the profile `ideal` with
8-bit modulators. `--output curves.json` adds results to a file. All settings were chosen on
training images, and on held-out text beside the rows that are measured.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_digits
import train_glimmer
from lightloom.backends import MockBackend, OpticsProfile, load_profile
from lightloom.models import load_arrays
from lightloom.models.loading import SHIPPED
from torch.nn import functional
from transformers import GPT2LMHeadModel, ViTForImageClassification

import lightloom.torch

MEASURED = range(1000, 1005)  # seeds of the noise in measurements; training has smaller ones


class Digits:
    """The digits model: its images, and its accuracy."""

    metric = "accuracy"
    recipe = lightloom.torch.Recipe(steps=1000, rate=2e-3)

    def __init__(self) -> None:
        # fused attention would hide its products from gradients through the size of noise
        self.model = ViTForImageClassification.from_pretrained(
            SHIPPED / "digits", attn_implementation="eager"
        )
        self.images, self.held_out, calibration = train_digits.split_data()
        self.calibration = {"pixel_values": train_digits.normalise(calibration.pixels)}

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Go through the training images once, in batches of 64."""
        settings = train_digits.Training()
        for batch in torch.randperm(len(self.images.labels)).split(64)[:-1]:
            pixels = train_digits.augment(self.images.pixels[batch].float(), settings)
            yield {"pixel_values": train_digits.normalise(pixels)}, self.images.labels[batch]

    def quality(self, model: torch.nn.Module) -> float:
        """Return the share of held-out images that are read correctly."""
        found = model(pixel_values=train_digits.normalise(self.held_out.pixels)).logits.argmax(-1)
        return float((found == self.held_out.labels).float().mean())


class Glimmer:
    """The language model glimmer: its text, and its loss."""

    metric = "loss per token"
    recipe = lightloom.torch.Recipe(steps=1500, rate=3e-3, fall=0.25, temperature=1.0, decay=0.01)

    def __init__(self) -> None:
        folder = SHIPPED / "glimmer"
        model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
        self.model = model.float().eval()
        self.tokens = train_glimmer.encode(train_glimmer.split_text()[0], folder)
        held_out = load_arrays(folder / "data.safetensors")["held_out"].astype(np.int64)
        self.held_out = torch.from_numpy(held_out)
        self.calibration = next(iter(self))[0]

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Draw batches of 8 rows of the text, without end."""
        while True:
            first = torch.randint(len(self.tokens) - 129, (8,))
            rows = np.stack([self.tokens[at : at + 129] for at in first])
            yield {"input_ids": torch.from_numpy(rows[:, :-1])}, torch.from_numpy(rows[:, 1:])

    def quality(self, model: torch.nn.Module) -> float:
        """Return the mean loss of held-out tokens."""
        logits = model(input_ids=self.held_out).logits[:, :-1]
        return float(functional.cross_entropy(logits.mT, self.held_out[:, 1:]))


@torch.no_grad()
def measured(task: Digits | Glimmer, model: torch.nn.Module, profile: OpticsProfile) -> float:
    """Return the quality on the mock, as the mean over seeds of the noise."""
    found = []
    for seed in MEASURED:
        backend = MockBackend(profile, seed)
        with lightloom.torch.optics(model, backend, calibration=[task.calibration]):
            found.append(task.quality(model))
    return float(np.mean(found))


def trained(
    task: Digits | Glimmer, profile: OpticsProfile, changes: dict[str, Any]
) -> tuple[torch.nn.Module, dict[str, object]]:
    """Train a copy of the model, and return it with what it reached before and after."""
    model, recipe = copy.deepcopy(task.model), replace(task.recipe, **changes)
    torch.manual_seed(recipe.seed)
    lightloom.torch.finetune(model, task, profile, recipe=recipe, progress=print)
    with torch.no_grad():
        digital = {"before": task.quality(task.model), "after": task.quality(model)}
    return model, {
        "metric": task.metric,
        "photons_per_mac": profile.photons_per_mac,
        "recipe": asdict(recipe),
        "before": measured(task, task.model, profile),
        "after": measured(task, model, profile),
        "digital": digital,
    }


def main() -> None:
    """Train at each light level and seed, and print each result as a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", choices=["digits", "glimmer"])
    parser.add_argument("--light", type=float, nargs="+", default=[1.0], help="photons per MAC")
    parser.add_argument("--profile", help="of the bench; without it light is the only noise")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of training; without it those of the recipe")
    parser.add_argument(
        "--straight-through", action="store_true", help="take the size of noise as given"
    )
    parser.add_argument("--output", type=Path, help="JSON file to add the results to")
    parser.add_argument("--save", type=Path, help="folder for the last model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = {"digits": Digits, "glimmer": Glimmer}[options.model]()
    only_light = load_profile("ideal").with_settings({"input_bits": 8, "weight_bits": 8})
    base = load_profile(options.profile) if options.profile else only_light
    changes: dict[str, Any] = {"steps": options.steps or task.recipe.steps}
    changes["noise_gradients"] = not options.straight_through
    for light in options.light:
        profile = base.with_settings({"photons_per_mac": light})
        for seed in options.seeds:
            model, result = trained(task, profile, {**changes, "seed": seed})
            result = {"model": options.model, "profile": options.profile, **result}
            print(json.dumps(result), flush=True)
            if options.output is not None:
                results = json.loads(options.output.read_text()) if options.output.exists() else []
                options.output.write_text(json.dumps([*results, result], indent=1) + "\n")
    if options.save is not None:
        model.save_pretrained(options.save)
        for name in ("preprocessor_config.json", "tokenizer.json", "data.safetensors"):
            if (SHIPPED / options.model / name).exists():
                shutil.copyfile(SHIPPED / options.model / name, options.save / name)


if __name__ == "__main__":
    main()
