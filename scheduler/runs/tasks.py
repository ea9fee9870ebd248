"""The tasks of a run: classify images, compute a perplexity, generate text, or embed sentences."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...backends import Backend
from .plan_record import PlanRecord

Progress = Callable[[str, int, int], None]
"""Reports progress: called with (what, done, total)."""

Tell = Callable[[int, int], None]
"""Reports progress of a task: called with (done, total)."""


def classify(
    plan: PlanRecord, images: Any, backend: Backend | None, tell: Tell, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    """Classify images [n, channels, height, width], batch by batch."""
    images = np.asarray(images)
    executor = plan.model.executor(backend, plan.chosen)
    step = max(1, plan.passes[0][0]["batch"])
    logits = []
    for first in range(0, len(images), step):
        tell(first, len(images))
        part = images[first : first + step]
        sequences = np.arange(first, first + len(part))
        logits.append(plan.model.run_pass(executor, "logits", part, sequences=sequences))
    tell(len(images), len(images))
    return {"classes": np.concatenate(logits).argmax(axis=1)}, len(images), "images"


def perplexity(
    plan: PlanRecord, text: Any, backend: Backend | None, tell: Tell, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    """Return the perplexity of a text, or of tokens [n, sequence]."""
    tokens = plan.model.rows_of(text) if isinstance(text, str) else np.asarray(text)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        tell(done, len(tokens))

    value = plan.model.perplexity(tokens, backend, plan.chosen, count)
    return {"perplexity": value}, int(tokens.size), "tokens"


def generate(
    plan: PlanRecord, prompt: Any, backend: Backend | None, tell: Tell, sampling: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    """Continue a prompt by as many tokens as the plan has."""
    wanted = 1 + sum(times for _, times in plan.passes[1:])
    pieces = []
    generator = plan.model.generate(
        prompt, wanted, backend=backend, placement=plan.chosen, **sampling
    )
    for piece in generator:
        pieces.append(piece)
        tell(min(len(pieces), wanted), wanted)
    tell(wanted, wanted)
    text = "".join(pieces)
    return {"text": text}, max(len(plan.model.tokenizer.encode(text)), 1), "tokens"


def embed(
    plan: PlanRecord, sentences: Any, backend: Backend | None, tell: Tell, _: Mapping[str, Any]
) -> tuple[dict[str, Any], int, str]:
    """Embed sentences, and compare each pair."""
    tell(0, len(sentences))
    vectors = plan.model.embed(list(sentences), backend, plan.chosen)
    tell(len(sentences), len(sentences))
    results = {"embeddings": vectors, "cosine_similarity": vectors @ vectors.T}
    return results, len(sentences), "sentences"


TASKS = {"classify": classify, "embed": embed, "generate": generate, "logits": perplexity}
"""Each returns its results, the number of units that it processed, and the name of the unit."""
