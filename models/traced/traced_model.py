"""`TracedModel`: a program that was written from a torch module, with the calls of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...instruments import InputError
from ...scheduler import Program, ProgramBuilder
from ...scheduler.program import BATCH, NEW, shape
from ..generation import Generation
from ..inputs import ModelInputs, padded
from ..model import Model
from ..tokenizer import Tokenizer
from ..weights import Weights
from .program_file import read_program, write_program
from .traced_weights import TracedWeights

_EXAMPLE = "example."  # inputs of a calibration pass, beside the weights


@dataclass(frozen=True)
class TracedConfig:
    """What a traced model takes and gives.

    Parameters
    ----------
    task : "language" or "outputs"
    inputs, outputs : names
    context : most tokens of a sequence; 1 without tokens
    vocabulary : number of tokens; 0 without
    fixed : batch and sequence, where the program serves no other sizes
    ends : tokens that end a text
    """

    task: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    context: int
    vocabulary: int = 0
    fixed: tuple[int, int] | None = None
    ends: tuple[int, ...] = ()
    has_tokens: bool = True


@dataclass(frozen=True)
class TracedInputs(ModelInputs):
    """Checks the inputs of a traced model."""

    program: Program = field(kw_only=True)
    examples: Mapping[str, np.ndarray] = field(kw_only=True)

    def operands(
        self, data: Any, lengths: Any = None, past: int = 0
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Return a program's operands and sizes.

        Parameters
        ----------
        data : arrays by name, in a mapping; one array for a model with one input
        lengths : of rows padded on the right, which a causal model needs not know
        """
        names = self.config.inputs
        if self.task == "language":
            given: Mapping[str, Any] = {names[0]: self.tokens(data, past).astype(np.int64)}
        else:
            given = data if isinstance(data, Mapping) else {names[0]: data}
        if set(given) != set(names):
            raise InputError(
                f"inputs {sorted(given)} are not those of {self.name!r}: give {', '.join(names)}"
            )
        operands = {name: self._array(name, given[name]) for name in names}
        first = operands[names[0]]
        new = first.shape[1] if self.config.has_tokens else 1
        sizes = {"batch": len(first), "new": new, "past": past}
        for name, array in operands.items():
            wanted = tuple(size(sizes) for size in self.program.shapes[name])
            if array.shape != wanted:
                raise InputError(
                    f"the input {name!r} of shape {list(array.shape)} does not fit {self.name!r}: "
                    f"give {list(wanted)}"
                )
        return {**operands, "past": past}, sizes

    def _array(self, name: str, value: Any) -> np.ndarray:
        array = np.asarray(value)
        kind = self.examples[name].dtype.kind
        if not array.ndim or array.dtype.kind not in ("iub" if kind in "iub" else "fiub"):
            raise InputError(
                f"the input {name!r} holds {array.dtype} of shape {list(array.shape)}; give "
                f"numbers of type {self.examples[name].dtype}"
            )
        return array.astype(self.examples[name].dtype)

    def for_calibration(self, rows_of: Callable[[str, int], np.ndarray] | None) -> Any:
        """Return calibration data: the inputs that the model was traced with, or a text."""
        if self.task == "language":
            return super().for_calibration(rows_of)
        return dict(self.examples)


class TracedModel(Model):
    """A model that was traced from a torch module; `lightloom.torch.trace` makes one.

    Its calls are those of `Model`. Its inputs are arrays by name; those of a language model are
    tokens.
    """

    def __init__(
        self,
        name: str,
        source: Path,
        program: Program,
        weights: TracedWeights,
        config: TracedConfig,
        examples: Mapping[str, np.ndarray],
        read_tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        family = SimpleNamespace(TASK=config.task, __name__="traced")
        super().__init__(
            name,
            source,
            family,  # type: ignore[arg-type]
            config,
            Weights(source, {}),
            read_tokenizer,
            generation=Generation(frozenset(config.ends), ()),
        )
        self.weights = weights  # type: ignore[assignment]
        self.examples = dict(examples)
        self._program = program
        self.fixed_sizes, self.packages = config.fixed, ("torch",)
        self._inputs = TracedInputs(
            name, source, config.task, config, program=program, examples=self.examples
        )

    def __repr__(self) -> str:
        about: TracedConfig = self.config
        sizes = "any batch" if about.fixed is None else f"batch {about.fixed[0]} alone"
        return (
            f"TracedModel {self.name} ({self.task}): {len(self._program.matmuls)} products, "
            f"{len(self._program.steps)} steps, {sizes}"
        )

    def program(self, ending: str) -> Program:
        """Return the program of one pass; all endings but "loss" are its outputs."""
        return self._loss_program if ending == "loss" else self._program

    @cached_property
    def _loss_program(self) -> Program:
        """The program of the loss of every following token, from the logits."""
        p = ProgramBuilder()
        logits = p.input("features", shape(BATCH, NEW, self.config.vocabulary))
        p.input("following", shape(BATCH, NEW))
        operands = (logits, "following")
        return p.build(
            p.host("head.loss", "sampling", "token_loss", operands, (shape(BATCH, NEW),))
        )

    def arrays_of(self, sentences: Sequence[str]) -> dict[str, np.ndarray]:
        """Return sentences as padded tokens, with the mask of those that are valid.

        Without sentences, the inputs that the model was traced with.

        Raises
        ------
        InputError : when the inputs of the model are not those of a text
        """
        names = set(self.config.inputs)
        if not sentences:
            return dict(self.examples)
        if "input_ids" not in names or not names <= {"input_ids", "attention_mask"}:
            raise InputError(
                f"{self.name!r} takes {', '.join(self.config.inputs)}, not sentences; give a file "
                "of arrays by these names"
            )
        tokens, lengths = padded([self.tokenizer.encode(text) for text in sentences])
        if "attention_mask" not in names and len(set(lengths)) > 1:
            raise InputError(
                f"{self.name!r} takes no attention mask, so its sentences have to be of equally "
                f"many tokens, not {sorted(set(lengths.tolist()))}"
            )
        mask = (np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.int64)
        given = {"input_ids": tokens, "attention_mask": mask}
        return {name: given[name] for name in self.config.inputs}

    def save(self, folder: str | Path) -> None:
        """Write program and weights into a folder, from which `load_model` opens them.

        Raises
        ------
        InputError : when a file cannot be written
        """
        folder = Path(folder)
        arrays = dict(self.weights) | {
            f"{_EXAMPLE}{name}": array for name, array in self.examples.items()
        }
        write_program(folder, self._program, arrays, {"name": self.name, **asdict(self.config)})
        if self._read_tokenizer is not None:
            self.tokenizer.library.save(str(folder / "tokenizer.json"))
        self.source = folder


def open_program(folder: Path, name: str, read_tokenizer: Any = None) -> TracedModel:
    """Open a model that `TracedModel.save` wrote.

    Raises
    ------
    InputError : for files that are damaged, or of a newer lightloom
    """
    program, weights, document = read_program(folder)
    try:
        fixed = document["fixed"]
        config = TracedConfig(
            document["task"],
            tuple(document["inputs"]),
            tuple(document["outputs"]),
            document["context"],
            document["vocabulary"],
            None if fixed is None else (fixed[0], fixed[1]),
            tuple(document["ends"]),
            document["has_tokens"],
        )
        examples = {one: weights[f"{_EXAMPLE}{one}"] for one in config.inputs}
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder}: the program lacks {error}; trace it again") from None
    return TracedModel(name, folder, program, weights, config, examples, read_tokenizer)
