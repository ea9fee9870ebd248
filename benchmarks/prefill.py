"""Time one forward pass of GPT-2-small-sized random weights: lightloom's digital backend, torch.

    python -m lightloom.benchmarks.prefill --threads 1 --json prefill.json

Both run the same weights and tokens, interleaved in one process, so that a noisy machine disturbs
both alike; the figure is the ratio of medians. torch is optional: without it only lightloom's time
is printed. The torch pass is written out here with its fused functions, without Python overhead
of a model library, and its logits are compared before anything is timed.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..instruments import limit_threads
from .matmul import interleaved

if TYPE_CHECKING:
    import numpy as np

    from ..models import Model

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT = 768, 12, 12, 50257, 1024


def random_gpt2(
    width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS, vocabulary: int = VOCABULARY
) -> "Model":
    """Give a GPT-2 of a given size with seeded random weights, in memory."""
    import numpy as np

    from ..models import Model, gpt2
    from ..models.weights import Weights

    chance = np.random.Generator(np.random.Philox(0))

    def normal(*shape: int) -> "np.ndarray":
        return (0.02 * chance.standard_normal(shape)).astype(np.float32)

    arrays = {"wte.weight": normal(vocabulary, width), "wpe.weight": normal(CONTEXT, width)}
    norms = ["ln_f"]
    for i in range(layers):
        for name, rows, columns in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            arrays[f"h.{i}.{name}.weight"] = normal(rows, columns)
            arrays[f"h.{i}.{name}.bias"] = normal(columns)
        norms += [f"h.{i}.ln_1", f"h.{i}.ln_2"]
    for name in norms:
        arrays[f"{name}.weight"], arrays[f"{name}.bias"] = 1 + normal(width), normal(width)
    document = {
        "vocab_size": vocabulary,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": CONTEXT,
    }
    weights = Weights.of_arrays(Path("random"), arrays)
    config = gpt2.read_config(document)
    return Model("random GPT-2", Path("random"), gpt2, config, document, weights, None)


def torch_pass(model: "Model") -> Callable[["np.ndarray"], Any]:
    """Give the same forward pass in torch, over the same weights."""
    import torch
    from torch.nn import functional as f

    w = {name: torch.from_numpy(model.weights[name]) for name in model.weights}
    # torch keeps [outputs, inputs]: lay them out as its own layers would
    w |= {k: v.T.contiguous() for k, v in w.items() if k.startswith("h.") and v.ndim == 2}
    heads, width = model.config.heads, model.config.width

    def run(tokens: "np.ndarray") -> Any:
        with torch.inference_mode():
            ids = torch.from_numpy(tokens)
            batch, count = ids.shape
            x = w["wte.weight"][ids] + w["wpe.weight"][:count]
            for i in range(model.config.layers):

                def linear(name: str, y: Any, i: int = i) -> Any:
                    return f.linear(y, w[f"h.{i}.{name}.weight"], w[f"h.{i}.{name}.bias"])

                def norm(name: str, y: Any, i: int = i) -> Any:
                    at = f"h.{i}.{name}"
                    return f.layer_norm(y, (width,), w[f"{at}.weight"], w[f"{at}.bias"], 1e-5)

                q, k, v = (
                    part.view(batch, count, heads, -1).transpose(1, 2)
                    for part in linear("attn.c_attn", norm("ln_1", x)).split(width, dim=2)
                )
                mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + linear("attn.c_proj", mixed.transpose(1, 2).reshape(batch, count, width))
                up = f.gelu(linear("mlp.c_fc", norm("ln_2", x)), approximate="tanh")
                x = x + linear("mlp.c_proj", up)
            x = f.layer_norm(x, (width,), w["ln_f.weight"], w["ln_f.bias"], 1e-5)
            return f.linear(x, w["wte.weight"])

    return run


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    limit_threads(options.threads)
    import numpy as np

    model = random_gpt2()
    chance = np.random.Generator(np.random.Philox(1))
    tokens = chance.integers(0, VOCABULARY, (1, options.tokens))
    calls: dict[str, Callable[[], Any]] = {"lightloom digital": lambda: model.forward(tokens)}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(options.threads)
        run = torch_pass(model)
        difference = float(np.abs(run(tokens).numpy() - model.forward(tokens)).max())
        print(f"largest difference of logits: {difference:.2g}")
        calls["torch"] = lambda: run(tokens)
    else:
        print("torch is not installed: only lightloom is timed")
    times = interleaved(calls, options.repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        ratio = medians[name] / medians.get("torch", median)
        print(
            f"{name:<20} {1e3 * median:8.1f} ms  {ratio:5.2f} of torch"
            if "torch" in medians
            else f"{name:<20} {1e3 * median:8.1f} ms"
        )
    if options.json:
        document = {
            "schema": 1,
            "threads": options.threads,
            "tokens": options.tokens,
            "seconds": times,
        }
        options.json.write_text(json.dumps(document, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
