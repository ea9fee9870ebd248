"""`RunnableModel`: the protocol of models that can be planned and run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...backends import Backend
from ..executor import Executor
from ..placement import Placement
from ..program import Program


class ContextConfig(Protocol):
    """The part of a model's configuration that a plan needs."""

    @property
    def context(self) -> int:
        """The maximum number of tokens of a sequence."""


class TextEncoder(Protocol):
    """The part of a tokenizer that a run needs."""

    def encode(self, text: str) -> Sequence[int]:
        """Return the tokens of a text."""


class RunnableModel(Protocol):
    """The protocol of a model: its programs, its weights, and the calls that a run makes."""

    name: str
    source: Path
    weights: Any

    @property
    def config(self) -> ContextConfig:
        """The configuration."""

    @property
    def task(self) -> str:
        """The task of the model: "language", "encoder", "vision" or "outputs"."""

    @property
    def fixed_sizes(self) -> tuple[int, int] | None:
        """Batch and sequence that its program serves alone; None serves any."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Further packages that its numbers depend on, such as "torch"."""

    @property
    def head(self) -> str:
        """The head of an encoder, such as "token classification"; "" is one without a head."""

    @property
    def parameters(self) -> int:
        """Number of weights that its matrix products use."""

    @property
    def tokenizer(self) -> TextEncoder:
        """The tokenizer of a language model or an encoder."""

    @property
    def whole_program(self) -> Program:
        """The program with every product that the model has."""

    def program(self, ending: str) -> Program:
        """Return the program of one forward pass, up to the given ending."""

    def executor(
        self, backend: Backend | str | None = None, placement: str | Placement = ...
    ) -> Executor:
        """Return the executor of the model's programs on a backend."""

    def calibrate(self, executor: Executor, data: Any = None) -> None:
        """Fix read-out ranges where the backend needs them."""

    def run_pass(
        self,
        executor: Executor,
        ending: str,
        data: Any,
        lengths: Any = None,
        cache: Any = None,
        sequences: np.ndarray | None = None,
    ) -> np.ndarray:
        """Run one forward pass."""

    def rows_of(self, text: str, length: int = ...) -> np.ndarray:
        """Cut a text into rows of tokens."""

    def perplexity(
        self,
        tokens: Any,
        backend: Backend | str | None = None,
        placement: str | Placement = ...,
        progress: Callable[[int], None] | None = None,
    ) -> float:
        """Return the perplexity of tokens [n, sequence]."""

    def generate(
        self,
        prompt: Any,
        max_tokens: int = ...,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        seed: int = ...,
        backend: Backend | str | None = None,
        placement: str | Placement = ...,
    ) -> Iterator[str]:
        """Yield the text that follows a prompt, token by token."""

    def embed(
        self,
        sentences: list[str],
        backend: Backend | str | None = None,
        placement: str | Placement = ...,
    ) -> np.ndarray:
        """Return one vector per sentence, float32 [n, d]."""

    def classify(
        self,
        sentences: list[str],
        backend: Backend | str | None = None,
        placement: str | Placement = ...,
    ) -> list[np.ndarray]:
        """Return the most probable class of each sentence, or of each of its tokens."""

    def class_name(self, number: int) -> str:
        """Return the name of a class."""


Loader = Callable[[str | Path], RunnableModel]
"""Opens a model by name or path: `lightloom.models.load_model`."""
