"""Train the perceptron that ships in ``models/shipped/digits-mlp``, as the published one was.

The network is that of the first experiments with less than one photon per multiplication
(Nat. Commun. 13, 123, 2022): two hidden layers of 100, ReLU, weights of 5 bits and activations of
4 bits. Training rounds both in each pass and lets gradients pass straight through. It also adds the
shot noise of the encoding "offset" to the products. The light is plentiful at first and falls to
that of ``--photons``, so that the network learns to do with little light.

It needs numpy and lightloom alone, and takes ten seconds on one core::

    python examples/train_perceptron.py                          # writes models/shipped/digits-mlp
    python examples/train_perceptron.py --out mine --photons inf  # without noise, elsewhere
    python examples/train_perceptron.py --data mnist.safetensors --out mnist-mlp

A data file holds ``training_images`` (uint8 [n, 1, height, width]) with ``training_labels``, and
``images`` with ``labels`` to measure on; ``calibration_images`` fix read-out ranges. With MNIST the
network is the published 784-100-100-10. The shipped file has the digits of
``examples/train_digits.py``: the same 360 images are held out, and the other 1437 train.
All choices were made with ``--validate``, which holds out a fifth of the training images instead.

Data: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, 1998, UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licence CC BY 4.0.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from lightloom.models import load_arrays, load_model, save_layers

SHIPPED = Path(__file__).resolve().parents[1] / "models" / "shipped" / "digits-mlp"
WEIGHT_STEPS = 15  # of each sign: 31 levels, 5 bits
LEVELS = 16  # of activations, 4 bits
CLIP = 1.0  # largest weight in root mean squares of its layer
HIGH = 4.0  # largest activation of a hidden layer
Parameters = list[np.ndarray]  # weight and bias of each layer, in turn


@dataclass(frozen=True)
class Training:
    """Settings of the optimisation, chosen by validation."""

    hidden: tuple[int, ...] = (100, 100)
    epochs: int = 300
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    shift: float = 0.3  # largest shift of an image, in pixels
    photons: float = 3.0  # a multiplication, at the end


# --- the network ----------------------------------------------------------------------------------


def initial(widths: list[int], chance: np.random.Generator) -> Parameters:
    """Draw the weights of each layer, and zero biases."""
    parameters: Parameters = []
    for inputs, outputs in pairwise(widths):
        parameters.append(chance.standard_normal((outputs, inputs)) * np.sqrt(2 / inputs))
        parameters.append(np.zeros(outputs))
    return parameters


def rounded_weight(weight: np.ndarray) -> np.ndarray:
    """Round to 31 equally spaced levels up to a multiple of the root mean square; clip beyond."""
    step = CLIP * np.sqrt(np.mean(weight**2)) / WEIGHT_STEPS
    return np.clip(np.rint(weight / step), -WEIGHT_STEPS, WEIGHT_STEPS) * step


def rounded(x: np.ndarray, high: float) -> np.ndarray:
    """Round to 16 levels from 0 to high, and clip beyond."""
    step = high / (LEVELS - 1)
    return np.rint(np.clip(x, 0, high) / step) * step


def shot_noise(
    x: np.ndarray, weight: np.ndarray, photons: float, chance: np.random.Generator
) -> np.ndarray:
    """Draw the noise of x [n, k] times weight [m, k] on light: [n, m].

    Each input and each row of the weight become transmissions of 0 to 1 by their smallest and
    largest value (the encoding "offset"). `photons` is the mean number detected for each
    multiplication of an input.
    """
    transmissions, ranges = [], []
    for array in (x, weight):
        lowest, span = array.min(axis=1, keepdims=True), np.ptp(array, axis=1, keepdims=True)
        ranges.append(np.maximum(span, 1e-9))
        transmissions.append((array - lowest) / ranges[-1])
    light = transmissions[0] @ transmissions[1].T
    of_full = photons * x.shape[1] / np.maximum(light.mean(axis=1, keepdims=True), 1e-9)
    deviation = ranges[0] * ranges[1].T * np.sqrt(light / of_full)
    return np.asarray(deviation * chance.standard_normal(light.shape))


def gradients(
    parameters: Parameters,
    x: np.ndarray,
    targets: np.ndarray,
    photons: float,
    chance: np.random.Generator,
) -> tuple[float, Parameters]:
    """Return loss and gradients of a batch [n, inputs] with targets [n, classes]."""
    inputs, insides, last = [rounded(x, 1.0)], [], len(parameters) // 2 - 1
    weights = [rounded_weight(weight) for weight in parameters[::2]]
    for number, (weight, bias) in enumerate(zip(weights, parameters[1::2], strict=True)):
        y = inputs[-1] @ weight.T
        y += shot_noise(inputs[-1], weight, photons, chance)
        y += bias
        if number < last:
            insides.append((y > 0) & (y < HIGH))
            y = rounded(y, HIGH)
        inputs.append(y)
    shifted = inputs[-1] - inputs[-1].max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    back = (np.exp(logarithms) - targets) / len(x)
    found: Parameters = []
    for number in reversed(range(last + 1)):
        found = [back.T @ inputs[number], back.sum(axis=0), *found]
        if number:
            back = (back @ weights[number]) * insides[number - 1]  # straight through the rounding
    return -float((targets * logarithms).sum() / len(x)), found


def shifted(images: np.ndarray, most: float, chance: np.random.Generator) -> np.ndarray:
    """Shift each image [n, h, w] by up to `most` pixels both ways, between pixels bilinearly."""
    result = images
    for axis in (1, 2):
        distance = chance.uniform(-most, most, (len(images), 1, 1))
        whole = np.floor(distance).astype(int)
        part, size = distance - whole, images.shape[axis]
        padded = np.pad(result, [(0, 0)] + [(size, size) if a == axis else (0, 0) for a in (1, 2)])
        places = np.arange(size) + size - whole.reshape(-1, 1)
        index = places[:, :, None] if axis == 1 else places[:, None, :]
        before = np.take_along_axis(padded, index, axis=axis)
        after = np.take_along_axis(padded, index - 1, axis=axis)
        result = (1 - part) * before + part * after
    return result


def train(images: np.ndarray, labels: np.ndarray, training: Training, seed: int) -> Parameters:
    """Train on images [n, 1, h, w] of 0 to 1 with Adam; return the mean of the last epochs."""
    chance = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    pixels = images.reshape(len(images), *images.shape[-2:])
    targets = np.eye(classes)[labels]
    parameters = initial([pixels[0].size, *training.hidden, classes], chance)
    first, second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
    steps = len(labels) // training.batch
    total, step = training.epochs * steps, 0
    for epoch in range(training.epochs):
        loss = 0.0
        order = chance.permutation(len(labels))
        for batch in np.split(order[: steps * training.batch], steps):
            done = step / total
            step += 1
            x = shifted(pixels[batch], training.shift, chance).reshape(len(batch), -1)
            photons = training.photons * 100 ** max(0.0, 1 - 2 * done)
            found, grads = gradients(parameters, x, targets[batch], photons, chance)
            loss += found / steps
            rate = training.learning_rate * 0.5 * (1 + np.cos(np.pi * done))
            for p, g, m, v in zip(parameters, grads, first, second, strict=True):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                scale = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                p -= scale * m / (np.sqrt(v) + 1e-8) + rate * training.weight_decay * p
        if (epoch + 1) % 25 == 0:
            print(f"epoch {epoch + 1:4d}  loss {loss:.4f}", flush=True)
    return parameters


# --- files ----------------------------------------------------------------------------------------


def write(out: Path, parameters: Parameters, shape: tuple[int, ...], largest: int) -> None:
    """Write the network as a folder of the family "layers"."""
    layers: list[dict[str, object]] = []
    for number in range(0, len(parameters), 2):
        high = HIGH if number else 1.0
        layers.append({"kind": "quantise", "levels": LEVELS, "low": 0.0, "high": high})
        weight = rounded_weight(parameters[number])
        layers.append({"kind": "linear", "weight": weight, "bias": parameters[number + 1]})
        if number + 2 < len(parameters):
            layers.append({"kind": "relu"})
    names = [str(index) for index in range(len(parameters[-1]))]
    pixels = {"do_rescale": True, "rescale_factor": 1 / largest, "do_normalize": False}
    save_layers(out, layers, shape, names, pixels)


def accuracy(folder: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images that the written network classifies correctly, digitally."""
    logits = load_model(folder).forward(images)
    return float((logits.argmax(axis=1) == labels).mean())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=SHIPPED / "data.safetensors")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write")
    parser.add_argument("--epochs", type=int, default=Training.epochs)
    parser.add_argument(
        "--photons", type=float, default=Training.photons, help="a multiplication; inf: no noise"
    )
    parser.add_argument("--hidden", type=int, nargs="*", default=list(Training.hidden))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--validate", action="store_true", help="hold out a fifth of the training images instead"
    )
    return parser.parse_args()


def main() -> None:
    """Train, write the folder, and measure it as it was written."""
    arguments = parse_arguments()
    training = Training(tuple(arguments.hidden), arguments.epochs, photons=arguments.photons)
    data = load_arrays(arguments.data)
    images, labels = data["training_images"], data["training_labels"].astype(int)
    test_images, test_labels = data["images"], data["labels"].astype(int)
    if arguments.validate:
        order = np.random.default_rng(7).permutation(len(labels))
        apart, kept = np.split(order, [len(order) // 5])
        test_images, test_labels = images[apart], labels[apart]
        images, labels = images[kept], labels[kept]
    largest = int(images.max())
    start = time.perf_counter()
    parameters = train(images / largest, labels, training, arguments.seed)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    write(arguments.out, parameters, images.shape[1:], largest)
    copy = arguments.out / "data.safetensors"
    if not copy.exists() or not copy.samefile(arguments.data):
        shutil.copyfile(arguments.data, copy)
    share = accuracy(arguments.out, test_images, test_labels)
    print(f"accuracy on {len(test_labels)} held-out images, digital: {share:.2%}")


if __name__ == "__main__":
    main()
