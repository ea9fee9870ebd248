"""Train the family of small optical language models; its smallest readable member is `glimmer`.

Decoder-only Transformers with exactly the layout and tensor names of Hugging Face's GPT-2, in plain
PyTorch: ReLU6, learned positions, heads of 32, tied embedding. They are trained for optics: every
matrix product but the LM head sees its inputs rounded to 8 bits of each vector's largest value and
its weights to 8 bits of each output's (straight-through gradients; while training, weights get
uniform noise of +-0.5 steps instead, as the published recipe has it). Outputs stay unrounded.
`--photons-per-mac P` adds the shot noise of an abs-split bench to every product with a static
weight.

How to run it (no download; the widths below take about an hour on one core)::

    pip install torch numpy safetensors tokenizers
    python examples/train_glimmer.py --out family --widths 64 96 128 192 256 384 512
    python examples/train_glimmer.py --out noisy --widths 64 128 256 --photons-per-mac 1
    python -m lightloom.benchmarks scaling family

Each member goes to a folder of its own, which `lightloom run --model family/width-64` takes.

Text: what every Python has of CPython's own documentation: `pydoc_data.topics` and the docstrings
of the standard library, prose only, without a paragraph that was there before. Copyright Python
Software Foundation and contributors, PSF License Agreement version 2 (https://docs.python.org/3/
license.html). One document in twelve, chosen by a hash of its name, is held out: a topic, or a
whole module.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import math
import platform
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 1024
HEAD_WIDTH = 32
HELD_OUT_ONE_IN = 12
HELD_OUT_ROWS = 128
SKIPPED = ("site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip")
PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9 \t\r\n]+|[ \t\r\n]"
LICENCE = "text: PSF License Agreement version 2, https://docs.python.org/3/license.html"


# ------------------------------------------------------------------------------------------- text


def documents() -> Iterator[tuple[str, str]]:
    """Return name and text of every document: the topics, and each module's docstrings."""
    for name, text in sorted(topics.items()):
        yield f"topic {name}", text
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if set(parts) & set(SKIPPED):
            continue
        try:
            module = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = (ast.get_docstring(n) for n in ast.walk(module) if isinstance(n, kinds))
        yield "/".join(parts), "\n\n".join(text for text in found if text)


def prose(text: str) -> Iterator[str]:
    """Return the paragraphs of prose, each as one line: letters mostly, no code, no tables."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        line = " ".join(paragraph.split())
        letters = sum(letter.isalpha() or letter == " " for letter in line)
        is_code = ">>>" in line or "::=" in line or " = " in line
        if len(line) > 25 and line.isascii() and not is_code and letters > 0.84 * len(line):
            yield line


def split_text() -> tuple[str, str]:
    """Return the text to train on and the held-out text; no paragraph is in both, or twice."""
    parts: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for name, text in documents():
        digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
        parts[int.from_bytes(digest) % HELD_OUT_ONE_IN == 0].append((name, text))
    seen: set[str] = set()
    texts = []
    for part in parts:
        kept = []
        for _, text in part:
            new = [line for line in prose(text) if line not in seen]
            seen.update(new)
            kept.append("\n".join(dict.fromkeys(new)))
        texts.append("\n\n".join(text for text in kept if text))
    return texts[0], texts[1]


def train_tokenizer(text: str, out: Path) -> None:
    """Train byte-level byte pairs, and write tokenizer.json."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split("\n"), trainer)
    tokenizer.save(str(out / "tokenizer.json"))


def encode(text: str, out: Path) -> np.ndarray:
    """Return the tokens of a text: int64 [n]."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    parts = tokenizer.encode_batch([line + "\n" for line in text.split("\n")])
    return np.concatenate([np.array(part.ids, dtype=np.int64) for part in parts])


# ---------------------------------------------------------------------------------------- network


@dataclass(frozen=True)
class Sizes:
    """Sizes of one member."""

    width: int
    depth: int = 2
    context: int = 128
    vocabulary: int = VOCABULARY

    @property
    def heads(self) -> int:
        """Heads of 32; one where the width does not divide."""
        return self.width // HEAD_WIDTH if self.width % HEAD_WIDTH == 0 else 1

    def config(self) -> dict[str, object]:
        """Return what Hugging Face writes as config.json."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "relu6",
            "n_embd": self.width,
            "n_layer": self.depth,
            "n_head": self.heads,
            "n_inner": 4 * self.width,
            "n_positions": self.context,
            "vocab_size": self.vocabulary,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
        }


@dataclass(frozen=True)
class Training:
    """How a member is trained."""

    tokens: int = 400_000
    batch: int = 4
    rate: float = 4e-3
    warmup: int = 40
    decay: float = 0.1
    bits: int = 8
    photons_per_mac: float = 0.0
    seed: int = 0

    def rate_of(self, width: int) -> float:
        """Return the learning rate: wider members take smaller steps."""
        return self.rate * (64 / width) ** (2 / 3)


class Rounded(torch.autograd.Function):
    """Round to the levels of the largest magnitude along an axis; gradients pass straight on."""

    @staticmethod
    def forward(ctx: object, x: Tensor, axis: int, bits: int) -> Tensor:
        """Round, or let pass where `bits` is 0."""
        if not bits:
            return x
        step = x.abs().amax(axis, keepdim=True).clamp_min_(1e-12).div_(2 ** (bits - 1) - 1)
        return (x / step).round_().mul_(step)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Pass the gradient on."""
        return gradient, None, None


rounded = Rounded.apply


class Product(nn.Module):
    """x W + b for W [K, M], W and x as an optical bench takes them."""

    def __init__(self, inputs: int, outputs: int, spread: float, training: Training) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * spread)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.settings = training

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        bits = self.settings.bits
        x = rounded(x, -1, bits)
        if self.training and bits:
            step = self.weight.detach().abs().amax(0) / (2 ** (bits - 1) - 1)
            w = self.weight + (torch.rand_like(self.weight) - 0.5) * step
        else:
            w = rounded(self.weight, 0, bits)
        y = x @ w + self.bias
        if self.settings.photons_per_mac:
            y = y + self.shot_noise(x.detach(), w.detach())
        return y

    def shot_noise(self, x: Tensor, w: Tensor) -> Tensor:
        """Draw the noise of abs-split light, as `photons_per_mac` sets it (docs: light)."""
        peak = w.abs().amax(0)
        light = (x.abs() @ (w.abs() / peak)) * peak  # in units of y times its scale
        scaled = light / peak
        mean = scaled.mean(-1, keepdim=True)
        photons = self.settings.photons_per_mac * len(w)
        return torch.randn_like(light) * peak * (scaled * mean / photons).sqrt()


class Layer(nn.Module):
    """One pre-norm layer of GPT-2."""

    def __init__(self, sizes: Sizes, training: Training) -> None:
        super().__init__()
        d = sizes.width
        near, far = 0.6 * d**-0.5, 0.6 * d**-0.5 * (2 * sizes.depth) ** -0.5
        self.heads, self.bits = sizes.heads, training.bits
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn = Product(d, 3 * d, near, training)
        self.attn.c_proj = Product(d, d, far, training)
        self.mlp.c_fc = Product(d, 4 * d, near, training)
        self.mlp.c_proj = Product(4 * d, d, far, training)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map tokens [n, T, d] to tokens of the same shape."""
        n, count, d = x.shape
        parts = self.attn.c_attn(self.ln_1(x)).view(n, count, 3, self.heads, d // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        q, k = rounded(q, -1, self.bits), rounded(k.flatten(2), -1, self.bits).view_as(k)
        v = rounded(v.flatten(2), -1, self.bits).view_as(v)
        scores = q @ k.transpose(2, 3) * (d // self.heads) ** -0.5 + mask
        mixed = rounded(scores.softmax(-1), -1, self.bits) @ v
        x = x + self.attn.c_proj(mixed.transpose(1, 2).reshape(n, count, d))
        return x + self.mlp.c_proj(functional.relu6(self.mlp.c_fc(self.ln_2(x))))


class Network(nn.Module):
    """GPT-2 with ReLU6; its state has the names of `GPT2LMHeadModel`."""

    def __init__(self, sizes: Sizes, training: Training) -> None:
        super().__init__()
        body = self.transformer = nn.Module()
        body.wte = nn.Embedding(sizes.vocabulary, sizes.width)
        body.wpe = nn.Embedding(sizes.context, sizes.width)
        for table in (body.wte, body.wpe):
            nn.init.normal_(table.weight, std=0.6 * sizes.width**-0.5)
        body.h = nn.ModuleList(Layer(sizes, training) for _ in range(sizes.depth))
        body.ln_f = nn.LayerNorm(sizes.width)
        mask = torch.full((sizes.context, sizes.context), -math.inf).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of tokens [n, T]: [n, T, vocabulary]."""
        body, count = self.transformer, tokens.shape[1]
        x = body.wte(tokens) + body.wpe.weight[:count]
        for layer in body.h:
            x = layer(x, self.mask[:count, :count])
        return body.ln_f(x) @ body.wte.weight.T

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean loss of every next token of rows [n, T + 1]."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


# --------------------------------------------------------------------------------------- training


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Rise linearly, stay, and fall linearly over the last three tenths to a twentieth."""
    return min((step + 1) / warmup, 1.0, max(0.05, (1 - step / steps) / 0.3))


def train(tokens: np.ndarray, sizes: Sizes, training: Training, out: Path) -> Network:
    """Train one member on rows of the text, its order drawn anew each time it is through."""
    torch.manual_seed(training.seed)
    network = Network(sizes, training)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    rate = training.rate_of(sizes.width)
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": training.decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    order = np.random.Generator(np.random.Philox(training.seed))
    steps = max(1, training.tokens // (training.batch * sizes.context))
    report, start, running = max(1, steps // 20), time.perf_counter(), 0.0
    for step in range(steps):
        first = order.integers(0, len(tokens) - sizes.context - 1, training.batch)
        rows = np.stack([tokens[at : at + sizes.context + 1] for at in first])
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(step, steps, training.warmup)
        loss = network.loss(torch.from_numpy(rows))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        running += loss.item()
        if (step + 1) % report == 0:
            seconds = time.perf_counter() - start
            print(
                f"width {sizes.width} step {step + 1}/{steps} loss {running / report:.3f} "
                f"{seconds:.0f} s",
                flush=True,
            )
            running = 0.0
            if (step + 1) % (4 * report) == 0:
                write_weights(out, network)
    return network


@torch.no_grad()
def evaluate(network: Network, rows: Tensor) -> float:
    """Return the mean loss of held-out rows [n, T], rounded to 8 bits and without noise."""
    network.eval()
    kept = [module for module in network.modules() if isinstance(module, Product)]
    settings = kept[0].settings
    quiet = Training(**{**asdict(settings), "photons_per_mac": 0.0})
    for module in kept:
        module.settings = quiet
    losses = [network.loss(part).item() * len(part) for part in rows.split(8)]
    for module in kept:
        module.settings = settings
    network.train()
    return sum(losses) / len(rows)


def write_weights(out: Path, network: Network) -> None:
    """Write the weights in float16, as they are used."""
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt", "licence": LICENCE})
    (out / "model.safetensors").chmod(0o644)


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write an indented JSON file that ends in a newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_member(out: Path, sizes: Sizes, training: Training, text: str, held_out: str) -> float:
    """Train one member, write its folder, and give its loss on held-out text."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer.json").is_file():
        train_tokenizer(text, out)
    tokens, others = encode(text, out), encode(held_out, out)
    count = min(HELD_OUT_ROWS, len(others) // sizes.context)
    step = max(sizes.context, len(others) // count)
    rows = np.stack([others[i * step : i * step + sizes.context] for i in range(count)])
    save_file({"held_out": torch.from_numpy(rows.astype(np.int32))}, out / "data.safetensors")
    (out / "data.safetensors").chmod(0o644)
    write_json(out / "config.json", sizes.config())
    start = time.perf_counter()
    network = train(tokens, sizes, training, out)
    write_weights(out, network)
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    loss = evaluate(network, torch.from_numpy(rows))
    about = {
        "schema": 1,
        **asdict(training),
        **asdict(sizes),
        "rate": training.rate_of(sizes.width),
        "parameters": sum(p.numel() for p in network.parameters()),
        "text_tokens": len(tokens),
        "text_letters": len(text),
        "held_out_tokens": int(rows.size),
        "held_out_loss": loss,
        "seconds": round(time.perf_counter() - start),
        "python": platform.python_version(),
        "licence": LICENCE,
    }
    write_json(out / "training.json", about)
    print(f"width {sizes.width}: held-out loss {loss:.4f} per token", flush=True)
    return loss


def main() -> None:
    """Train the members that were asked for, smallest first as given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the family")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--depth", type=int, default=Sizes.depth)
    parser.add_argument("--tokens", type=int, default=Training.tokens)
    parser.add_argument("--batch", type=int, default=Training.batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photons-per-mac", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="of the member's folder, for one width")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    text, held_out = split_text()
    print(f"text: {len(text):,} letters to train on, {len(held_out):,} held out")
    options.out.mkdir(parents=True, exist_ok=True)
    if not (options.out / "tokenizer.json").is_file():
        train_tokenizer(text, options.out)
    training = Training(
        tokens=options.tokens,
        batch=options.batch,
        photons_per_mac=options.photons_per_mac,
        seed=options.seed,
    )
    for width in options.widths:
        folder = options.out / (options.name or f"width-{width}")
        folder.mkdir(exist_ok=True)
        shared = (options.out / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(shared)
        make_member(folder, Sizes(width, options.depth), training, text, held_out)


if __name__ == "__main__":
    main()
