"""`Model`: the calls of every family; each call runs a program through the scheduler."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..backends import Backend, open_backend
from ..backends.base import check_finite
from ..instruments import InputError
from ..instruments.formatting import format_count, format_counted
from ..instruments.text import short_lines
from ..scheduler import DEFAULT_POLICY, Executor, Placement, Program, State
from .families.blocks import loss_program
from .generation import Generation, check_sampling, text_of
from .inputs import ModelInputs
from .sentence import SentenceHead
from .sentence_calls import check_classes, classify, embed
from .tokenizer import Tokenizer
from .weights import Weights

_ROWS_PER_PASS = 2
_LOGITS_PER_PASS = 1 << 21  # values of logits in memory while a loss is computed


class Cache:
    """Keys and values of the tokens so far, for decoding token by token."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.length = 0
        self.batch = 0

    def begin(self, program: Program, batch: int) -> None:
        """Prepare the states of a program for its next pass over as many sequences.

        Raises
        ------
        InputError : for another batch than in the passes before
        """
        if self.length and self.batch != batch:
            raise InputError(f"a batch of {batch} cannot follow a cache of {self.batch} sequences")
        for name in program.states:
            self.states.setdefault(name, State())

    def undo(self) -> None:
        """Drop what a pass that failed has added."""
        for state in self.states.values():
            state.length = self.length


class Executors:
    """One executor for each backend and placement, which keeps the weights prepared for it.

    A backend that is given by name is opened at its first use.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str | int, str | Placement], Executor] = {}

    def get(
        self,
        weights: Mapping[str, np.ndarray],
        backend: Backend | str | None,
        placement: str | Placement,
    ) -> Executor:
        """Return the executor of a backend, or of its name; None is digital.

        Raises
        ------
        InputError : for what is neither, or an unknown name
        """
        if not isinstance(backend, Backend | str | None):
            raise InputError(
                f"backend = {backend!r} is neither a backend nor the name of one, such as 'mock'"
            )
        name_or_id = id(backend) if isinstance(backend, Backend) else backend or "digital"
        key = name_or_id, placement
        if key not in self._kept:
            opened = backend if isinstance(backend, Backend) else open_backend(str(name_or_id))
            self._kept[key] = Executor(opened, weights, placement)
        return self._kept[key]

    def release(self, backend: Backend) -> None:
        """Drop the weights that are prepared for a backend, when it is no longer used."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] != id(backend)}


class Model:
    """A Transformer: its program, its weights and its tokenizer; made by `load_model`.

    A copy, by `copy.deepcopy` or through `pickle` to another process, opens the model again.

    Every call takes `backend`: a backend or its name; None is digital. It also takes `placement`,
    which decides which products go to light: a policy by name (`lightloom.scheduler.POLICIES`), the
    path of a file of rules, or the placement of a plan. The policies "fastest" and "least-energy"
    decide by the sizes of the first call on a backend, and later calls use the same placement.

    Its `config` holds its sizes. Its `weights` are float32 arrays by name, none for a mere shape.
    """

    fixed_sizes: tuple[int, int] | None = None  # batch and sequence; None serves any
    packages: tuple[str, ...] = ()  # further ones that its numbers depend on

    def __init__(
        self,
        name: str,
        source: Path,
        family: ModuleType,
        config: Any,
        weights: Weights,
        read_tokenizer: Callable[[], Tokenizer] | None = None,
        head: SentenceHead | None = None,
        generation: Generation | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.family = family
        self.config = config
        self.weights = weights
        self.reopen: Callable[[], Model] | None = None
        self._read_tokenizer = read_tokenizer
        self._head = head or SentenceHead()
        self.generation = generation or Generation()
        self._inputs = ModelInputs(name, source, self.task, config)
        self._executors = Executors()
        self._programs: dict[str, Program] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by opening again; prepared weights are not copied."""
        if self.reopen is None:
            raise InputError(
                f"the model {self.name!r} cannot be copied, since it was not loaded from a file; "
                "use `load_model`"
            )
        return self.reopen, ()

    def __repr__(self) -> str:
        config, family = self.config, self.family.__name__.rpartition(".")[2]
        sizes = [
            format_counted(config.layers, "layer"),
            f"width {config.width:,}",
        ]
        if hasattr(config, "heads"):
            sizes += [format_counted(config.heads, "head"), f"context {config.context:,}"]
        if self.task != "vision":
            sizes.append(f"vocabulary {config.vocabulary:,}")
        return short_lines(
            f"Model {self.name}: {family} ({self.task}), {format_count(self.parameters)} "
            "parameters in its products",
            f"  {', '.join(sizes)}",
            f"  weights: {self.weights.source if len(self.weights) else 'none, only its shape'}",
        )

    @property
    def task(self) -> str:
        """The task of the model: "language", "encoder" or "vision"."""
        return str(self.family.TASK)

    @property
    def head(self) -> str:
        """The head of an encoder, such as "token classification"; "" is one without a head."""
        return getattr(self.config, "head", "")

    @property
    def parameters(self) -> int:
        """Number of weights that its matrix products use."""
        static = [m for m in self.whole_program.matmuls if not m.dynamic]
        return sum(m.w_shape[0]({}) * m.w_shape[1]({}) for m in static)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read when it is first needed.

        Raises
        ------
        InputError : when the model has none, or one that does not match its embedding
        """
        if self._read_tokenizer is None:
            raise InputError(
                f"the model {self.name!r} has no tokenizer.json beside it; add that file, or give "
                "token ids"
            )
        tokenizer = self._read_tokenizer()
        tokenizer.check_size(self.config.vocabulary, self.name)
        return tokenizer

    # ------------------------------------------------------------ programs and passes

    def program(self, ending: str) -> Program:
        """Return the program of one forward pass up to "logits", "last", "hidden" or "sentence"."""
        if ending not in self._programs:
            if ending == "loss":
                weight = self.family.head_weight(self.config)
                written = loss_program(self.config.width, weight, self.config.vocabulary)
            elif self.task == "encoder":
                written = self.family.program(self.config, ending, self._head)
            else:
                written = self.family.program(self.config, ending)
            self._programs[ending] = written
        return self._programs[ending]

    @property
    def whole_ending(self) -> str:
        """The ending of the program with every product that the model has."""
        return "sentence" if self.task == "encoder" and not self.head else "logits"

    @property
    def whole_program(self) -> Program:
        """The program with every product that the model has."""
        return self.program(self.whole_ending)

    def executor(
        self, backend: Backend | str | None = None, placement: str | Placement = DEFAULT_POLICY
    ) -> Executor:
        """Return the executor of this model's programs on a backend, with prepared weights."""
        return self._executors.get(self.weights, backend, placement)

    def release(self, backend: Backend) -> None:
        """Drop the weights that are prepared for a backend, when it is no longer used."""
        self._executors.release(backend)

    def calibrate(self, executor: Executor, data: Any = None) -> None:
        """Fix read-out ranges and scales on calibration data, once, if the backend needs them.

        Parameters
        ----------
        data : tokens [batch, sequence] or images; None takes the calibration data of the model or
            of lightloom, which is never evaluated
        """
        with executor.lock:
            if executor.needs_ranges:
                if data is None:
                    has_tokenizer = self._read_tokenizer is not None
                    data = self._inputs.for_calibration(self.rows_of if has_tokenizer else None)
                executor.calibrate(self.whole_program, *self._inputs.operands(data))

    def run_pass(
        self,
        executor: Executor,
        ending: str,
        data: Any,
        lengths: Any = None,
        cache: Cache | None = None,
        sequences: np.ndarray | None = None,
    ) -> np.ndarray:
        """Run the program with the given ending once, on inputs as `forward` takes them.

        Parameters
        ----------
        sequences : one id per row, for the addresses of the noise; None counts from zero
        """
        program = self.program(ending)
        if cache is None:
            cache = Cache()
        elif not program.states:
            raise InputError(f"{self.name!r} is not a language model: call it without a cache")
        elif lengths is not None:
            raise InputError("lengths cannot be given with a cache: padding would become past")
        inputs, sizes = self._inputs.operands(data, lengths, cache.length)
        executor.decide(program, sizes, self.whole_program)
        self.calibrate(executor)  # after the placement, which says what goes to light
        cache.begin(program, sizes["batch"])
        try:
            outputs = executor.run(program, inputs, sizes, sequences, cache.states)
        except BaseException:
            cache.undo()
            raise
        cache.batch, cache.length = sizes["batch"], sizes["past"] + sizes["new"]
        result: np.ndarray = outputs[program.outputs[0]]
        check_finite(result, f"the result of {self.name!r}")
        return result

    # ------------------------------------------------------------ calls

    def forward(
        self,
        tokens_or_images: Any,
        lengths: Any = None,
        cache: Cache | None = None,
        backend: Backend | str | None = None,
        placement: str | Placement = DEFAULT_POLICY,
    ) -> np.ndarray:
        """Run the model once.

        Parameters
        ----------
        tokens_or_images : token ids [batch, sequence]; or images [batch, channels, height, width],
            as pixels (uint8) or as normalised numbers (float)
        lengths : valid tokens of each row, padding on the right; None: all
        cache : the tokens before these; the new tokens are added (language models)

        Returns
        -------
        float32: logits [batch, sequence, vocabulary], class logits [batch, classes] or
        [batch, sequence, classes], or hidden states [batch, sequence, d] of an encoder without a
        head

        Raises
        ------
        InputError : for tokens out of the vocabulary, more of them than the context, images of
            another size, numbers that are not finite
        """
        ending = "hidden" if self.task == "encoder" and not self.head else "logits"
        executor = self.executor(backend, placement)
        return self.run_pass(executor, ending, tokens_or_images, lengths, cache)

    def embed(
        self,
        sentences: Sequence[str],
        backend: Backend | str | None = None,
        placement: str | Placement = DEFAULT_POLICY,
    ) -> np.ndarray:
        """Return the embedding of each sentence, of length 1: float32 [sentences, d].

        Raises
        ------
        InputError : when the model is not an encoder, or a sentence is too long for it
        """
        self._inputs.check_task("encoder", "embed sentences")
        rows = self._sentence_rows(sentences)
        return embed(self, rows, self.executor(backend, placement), self._head.width)

    def classify(
        self,
        sentences: Sequence[str],
        backend: Backend | str | None = None,
        placement: str | Placement = DEFAULT_POLICY,
    ) -> list[np.ndarray]:
        """Return the most probable class of each sentence, or of each of its tokens.

        A class of a masked language model is a token.

        Returns
        -------
        an integer array for each sentence: [] of a sequence classification, otherwise [tokens]

        Raises
        ------
        InputError : when the model is not an encoder with such a head
        """
        self._inputs.check_task("encoder", "classify sentences")
        check_classes(self)
        return classify(self, self._sentence_rows(sentences), self.executor(backend, placement))

    def _sentence_rows(self, sentences: Sequence[str]) -> list[list[int]]:
        context = self.config.context
        return [self._head.tokens(text, self.tokenizer, context, self.name) for text in sentences]

    def class_name(self, number: int) -> str:
        """Return the name of a class that `classify` found."""
        if self.head == "masked language model":
            return self.tokenizer.decode([number]) or f"token {number}"  # a special one
        return str(self.config.names.get(str(number), number))

    def generate(
        self,
        prompt: str | Sequence[int],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        backend: Backend | str | None = None,
        placement: str | Placement = DEFAULT_POLICY,
    ) -> Iterator[str]:
        """Yield the text that continues a prompt, until an end token or the end of the context.

        Each token has one text, which is empty while a character is incomplete.

        Parameters
        ----------
        temperature : 0 takes the most probable token every time
        top_k, top_p : keep only the most probable tokens (0 and 1: all)
        seed : of the choice of tokens, not of the optical noise

        Raises
        ------
        InputError : for a prompt that is empty or longer than the context
        """
        tokens = self.prompt_tokens(prompt)
        check_sampling(temperature, top_k, top_p)
        if self.generation.left_out:
            warnings.warn(
                f"{self.name}: its generation settings ask for "
                f"{', '.join(self.generation.left_out)}, which lightloom does not apply",
                stacklevel=2,
            )
        executor = self.executor(backend, placement)
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        following = _following(self, executor, tokens, max_tokens, seed, sampling)
        return text_of(following, self.tokenizer.decode)

    def prompt_tokens(self, prompt: str | Sequence[int]) -> np.ndarray:
        """Return the checked tokens of a prompt: [1, sequence]."""
        self._inputs.check_task("language", "continue a prompt")
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise InputError("the prompt is empty; give at least one token")
        return self._inputs.tokens([ids])

    def perplexity(
        self,
        tokens: Any,
        backend: Backend | str | None = None,
        placement: str | Placement = DEFAULT_POLICY,
        progress: Callable[[int], None] | None = None,
    ) -> float:
        """Return exp of the mean loss of every next token within each row.

        Parameters
        ----------
        tokens : a text, or token ids [batch, sequence]; a text is cut into rows of 256 tokens
        progress : called with the number of rows done

        Raises
        ------
        InputError : for rows without a token to predict, or tokens that `forward` refuses
        """
        self._inputs.check_task("language", "give a perplexity")
        rows = self._inputs.tokens(self.rows_of(tokens) if isinstance(tokens, str) else tokens)
        if rows.shape[1] < 2:
            raise InputError("a perplexity needs rows of at least 2 tokens")
        executor = self.executor(backend, placement)
        losses: list[np.ndarray] = []
        for first in range(0, len(rows), _ROWS_PER_PASS):
            part = rows[first : first + _ROWS_PER_PASS]
            ids = np.arange(first, first + len(part))
            losses += _losses(self, executor, part, ids)
            if progress is not None:
                progress(len(part))
        return float(np.exp(np.concatenate(losses).mean()))

    def rows_of(self, text: str, length: int = 256) -> np.ndarray:
        """Cut a text's tokens into rows [rows, length]; a short text is one shorter row."""
        return self.tokenizer.rows(text, min(length, self.config.context))


def _following(
    model: Model,
    executor: Executor,
    tokens: np.ndarray,
    max_tokens: int,
    seed: int,
    sampling: dict[str, float],
) -> Iterator[int]:
    """Yield the tokens that follow a prompt [1, sequence], without an end token."""
    cache, generator = Cache(), np.random.Generator(np.random.Philox(seed))
    for _ in range(max_tokens):
        if cache.length + tokens.shape[1] > model.config.context:
            return
        logits = model.run_pass(executor, "last", tokens, None, cache)[0, -1]
        token = executor.run_step(
            "sampling", "sampling", "sample", logits, generator.random(), **sampling
        )
        if token in model.generation.ends:
            return
        yield token
        tokens = np.array([[token]])


def _losses(
    model: Model, executor: Executor, tokens: np.ndarray, sequences: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the loss of every token after the first of each row, computed in small parts."""
    features = model.run_pass(executor, "features", tokens, sequences=sequences)
    batch, count = tokens.shape
    step = max(1, _LOGITS_PER_PASS // (batch * model.config.vocabulary))
    for first in range(0, count - 1, step):
        last = min(first + step, count - 1)
        operands = {
            "features": np.ascontiguousarray(features[:, first:last]),
            "following": tokens[:, first + 1 : last + 1],
        }
        sizes = {"batch": batch, "new": last - first, "past": first}
        outputs = executor.run(model.program("loss"), operands, sizes, sequences)
        yield outputs["head.loss"].ravel()
