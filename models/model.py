"""`Model`: the calls of every family; each call runs a program through the scheduler."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..backends import Backend, open_backend
from ..backends.base import check_finite
from ..instruments import InputError
from ..scheduler import DEFAULT_POLICY, Executor, Placement, Program, State
from ..scheduler.host_steps import unit_length
from .families.blocks import loss_program
from .pixels import normalised
from .sentence import SentenceHead
from .tokenizer import Tokenizer
from .weights import Weights, read_safetensors

CALIBRATION_TEXT = Path(__file__).parent / "shipped" / "calibration.txt"
CALIBRATION_BATCH, CALIBRATION_TOKENS = 8, 128
_ROWS_PER_PASS = 2
_LOGITS_PER_PASS = 1 << 21  # values of logits in memory while a loss is computed
_SENTENCES_PER_PASS = 32


@dataclass(frozen=True)
class Generation:
    """The generation settings in a language model's files.

    Parameters
    ----------
    ends : tokens that end a text
    left_out : settings that lightloom does not apply, as texts
    """

    ends: frozenset[int] = frozenset()
    left_out: tuple[str, ...] = ()


class Cache:
    """Keys and values of the tokens so far, for decoding token by token."""

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.length = 0
        self.batch = 0


class Model:
    """A Transformer: its program, its weights and its tokenizer; made by `load_model`.

    A copy, by `copy.deepcopy` or through `pickle` to another process, opens the model again.

    Every call takes `backend` (None is digital, a name, or a backend) and `placement`: the policy
    that decides which products go to light ("paper", "projections", "all-optical", "host",
    "fastest", "least-energy", or the path of a file of rules), or the placement of a plan. The
    policies "fastest" and "least-energy" decide by the sizes of the first call on a backend, and
    later calls use the same placement.
    """

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
        self._head = head or SentenceHead()
        self._generation = generation or Generation()
        self._read_tokenizer = read_tokenizer
        self._tokenizer: Tokenizer | None = None
        self._programs: dict[str, Program] = {}
        self._executors: dict[tuple[Any, str | Placement], tuple[Backend, Executor]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by opening again; prepared weights are not copied."""
        if self.reopen is None:
            raise InputError(
                f"the model {self.name!r} cannot be copied, since it was not loaded from a file; "
                "use `load_model`"
            )
        return self.reopen, ()

    def __repr__(self) -> str:
        family = self.family.__name__.rsplit(".", 1)[-1]
        return f"Model({self.name!r}, {family}, {self.parameters / 1e6:.1f}M parameters)"

    @property
    def task(self) -> str:
        """The task of the model: "language", "encoder" or "vision"."""
        return str(self.family.TASK)

    @property
    def parameters(self) -> int:
        """Number of weights that its matrix products use."""
        static = [m for m in self.whole_program.matmuls if not m.dynamic]
        return sum(m.w_shape[0]({}) * m.w_shape[1]({}) for m in static)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read when it is first needed.

        Raises
        ------
        InputError : when the model has none, or one that does not match its embedding
        """
        if self._tokenizer is None:
            if self._read_tokenizer is None:
                raise InputError(
                    f"the model {self.name!r} has no tokenizer.json beside it; add that file, or "
                    "give token ids"
                )
            tokenizer = self._read_tokenizer()
            if tokenizer.size > self.config.vocabulary:
                raise InputError(
                    f"the vocabulary of the tokenizer {tokenizer.source} goes up to "
                    f"{tokenizer.size - 1}, but the embedding of {self.name!r} has "
                    f"{self.config.vocabulary} rows"
                )
            self._tokenizer = tokenizer
        return self._tokenizer

    def program(self, ending: str) -> Program:
        """Return the program of one forward pass, up to an ending (see the family's module)."""
        if ending not in self._programs:
            write = self.family.program
            if ending == "loss":
                weight = self.family.head_weight(self.config)
                write = lambda config, _: loss_program(config.width, weight, config.vocabulary)  # noqa: E731
            elif self.task == "encoder":
                write = partial(write, head=self._head)
            self._programs[ending] = write(self.config, ending)
        return self._programs[ending]

    @property
    def whole_program(self) -> Program:
        """The program with every product that the model has."""
        return self.program("sentence" if self.task == "encoder" else "logits")

    def executor(
        self, backend: Backend | str | None = None, placement: str | Placement = DEFAULT_POLICY
    ) -> Executor:
        """Return the executor of this model's programs on a backend, with prepared weights."""
        if not isinstance(backend, Backend | str | None):
            raise InputError(
                f"backend = {backend!r} is neither a backend nor the name of one, such as 'mock'"
            )
        key = backend if isinstance(backend, str) else id(backend) if backend else "digital"
        if (key, placement) not in self._executors:
            opened = backend if isinstance(backend, Backend) else open_backend(str(key))
            executor = Executor(opened, self.weights, placement)
            self._executors[key, placement] = (opened, executor)
        return self._executors[key, placement][1]

    def release(self, backend: Backend) -> None:
        """Drop the weights that are prepared for a backend, when it is no longer used."""
        for key in [key for key in self._executors if key[0] == id(backend)]:
            del self._executors[key]

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
        float32: logits [batch, sequence, vocabulary], hidden states [batch, sequence, d] of an
        encoder, or class logits [batch, classes]

        Raises
        ------
        InputError : for tokens out of the vocabulary, more of them than the context, images of
            another size, numbers that are not finite
        """
        ending = "hidden" if self.task == "encoder" else "logits"
        executor = self.executor(backend, placement)
        self.calibrate(executor)
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
        self._check_task("encoder", "embed sentences")
        executor = self.executor(backend, placement)
        self.calibrate(executor)
        encoded = [self._sentence(text) for text in sentences]
        parts = []
        for first in range(0, len(encoded), _SENTENCES_PER_PASS):
            part = encoded[first : first + _SENTENCES_PER_PASS]
            lengths = np.array([len(tokens) for tokens in part])
            tokens = np.zeros((len(part), lengths.max()), dtype=np.int64)
            for row, ids in enumerate(part):
                tokens[row, : len(ids)] = ids
            sequences = np.arange(first, first + len(part))
            parts.append(self.run_pass(executor, "sentence", tokens, lengths, None, sequences))
        if not parts:
            program = self.program("sentence")
            width = program.shapes[program.outputs[0]][-1]({})
            return np.empty((0, min(width, self._head.width or width)), dtype=np.float32)
        vectors = np.concatenate(parts)[:, : self._head.width]
        return unit_length(vectors)

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
        if self._generation.left_out:
            warnings.warn(
                f"{self.name}: its generation settings ask for "
                f"{', '.join(self._generation.left_out)}, which lightloom does not apply",
                stacklevel=2,
            )
        executor = self.executor(backend, placement)
        self.calibrate(executor)
        return self._generate(executor, tokens, max_tokens, temperature, top_k, top_p, seed)

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
        self._check_task("language", "give a perplexity")
        if isinstance(tokens, str):
            tokens = self.rows_of(tokens)
        tokens = self._checked_tokens(tokens, 0)
        if tokens.shape[1] < 2:
            raise InputError("a perplexity needs rows of at least 2 tokens")
        executor = self.executor(backend, placement)
        self.calibrate(executor)
        losses = []
        for first in range(0, len(tokens), _ROWS_PER_PASS):
            part = tokens[first : first + _ROWS_PER_PASS]
            losses.append(self._losses(executor, part, np.arange(first, first + len(part))))
            if progress is not None:
                progress(len(part))
        return float(np.exp(np.concatenate(losses).mean()))

    def _losses(self, executor: Executor, tokens: np.ndarray, sequences: np.ndarray) -> np.ndarray:
        """Return the loss of every token after the first of each row, computed in small parts."""
        features = self.run_pass(executor, "features", tokens, sequences=sequences)
        batch, count = tokens.shape
        step = max(1, _LOGITS_PER_PASS // (batch * self.config.vocabulary))
        parts = []
        for first in range(0, count - 1, step):
            last = min(first + step, count - 1)
            operands = {
                "features": np.ascontiguousarray(features[:, first:last]),
                "following": tokens[:, first + 1 : last + 1],
            }
            sizes = {"batch": batch, "new": last - first, "past": first}
            outputs = executor.run(self.program("loss"), operands, sizes, sequences)
            parts.append(outputs["head.loss"].ravel())
        return np.concatenate(parts)

    def rows_of(self, text: str, length: int = 256) -> np.ndarray:
        """Cut a text's tokens into rows [rows, length]; a short text is one shorter row."""
        ids = self.tokenizer.encode(text)
        length = min(length, self.config.context, max(len(ids), 1))
        count = max(len(ids) // length, 1)
        return np.array(ids[: count * length], dtype=np.int64).reshape(count, -1)

    def calibrate(self, executor: Executor, data: Any = None) -> None:
        """Fix read-out ranges and scales on calibration data, once, if the backend needs them.

        Parameters
        ----------
        data : tokens [batch, sequence] or images; None takes the calibration data of the model or
            of lightloom, which is never evaluated
        """
        with executor.lock:
            if executor.needs_ranges:
                self._calibrate(executor, data)

    def _calibrate(self, executor: Executor, data: Any) -> None:
        if data is None:
            data = self._calibration_data()
        inputs, sizes = self._operands(data, None, 0)
        executor.calibrate(self.whole_program, inputs, sizes)

    # ------------------------------------------------------------ checks and details

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
        past = 0 if cache is None else cache.length
        if cache is not None and not program.states:
            raise InputError(f"{self.name!r} is not a language model: call it without a cache")
        if cache is not None and lengths is not None:
            raise InputError("lengths cannot be given with a cache: padding would become past")
        inputs, sizes = self._operands(data, lengths, past)
        executor.decide(program, sizes, self.whole_program)
        self.calibrate(executor)  # it may have had to wait for the placement
        cache = Cache() if cache is None else cache
        if past and cache.batch != sizes["batch"]:
            raise InputError(
                f"a batch of {sizes['batch']} cannot follow a cache of {cache.batch} sequences"
            )
        for name in program.states:
            cache.states.setdefault(name, State())
        try:
            outputs = executor.run(program, inputs, sizes, sequences, cache.states)
        except BaseException:
            for state in cache.states.values():
                state.length = past  # undo the pass
            raise
        cache.batch, cache.length = sizes["batch"], past + sizes["new"]
        result: np.ndarray = outputs[program.outputs[0]]
        check_finite(result, f"the result of {self.name!r}")
        return result

    def _generate(
        self,
        executor: Executor,
        tokens: np.ndarray,
        max_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
    ) -> Iterator[str]:
        cache = Cache()
        generator = np.random.Generator(np.random.Philox(seed))
        ends = self.end_tokens()
        chosen: list[int] = []
        shown = ""
        while len(chosen) < max_tokens and cache.length + tokens.shape[1] <= self.config.context:
            logits = self.run_pass(executor, "last", tokens, None, cache)[0, -1]
            token = executor.run_step(
                "sampling",
                "sampling",
                "sample",
                logits,
                generator.random(),
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
            )
            if token in ends:
                break
            chosen.append(token)
            tokens = np.array([[token]])
            text = self.tokenizer.decode(chosen)
            if not text.endswith("�"):  # a character may take several tokens
                yield text[len(shown) :]
                shown = text
        rest = self.tokenizer.decode(chosen)[len(shown) :]
        if rest:
            yield rest

    def _operands(
        self, data: Any, lengths: Any, past: int
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Check inputs, and return a program's operands and sizes."""
        if self.task == "vision":
            images = self._checked_images(data)
            new, batch = self.config.context, len(images)
            operands: dict[str, Any] = {"images": images}
        else:
            tokens = self._checked_tokens(data, past)
            batch, new = tokens.shape
            operands = {"tokens": tokens}
        counts = np.full(batch, new) if lengths is None else np.asarray(lengths)
        if (
            counts.dtype.kind not in "iu"
            or counts.shape != (batch,)
            or not ((counts >= 1) & (counts <= new)).all()
        ):
            raise InputError(
                f"lengths {np.asarray(lengths)} are not {batch} whole numbers of 1 to {new}"
            )
        operands |= {"lengths": counts, "past": past}
        return operands, {"batch": batch, "new": new, "past": past}

    def _checked_tokens(self, data: Any, past: int) -> np.ndarray:
        try:
            tokens = np.asarray(data)
        except ValueError:
            raise InputError(
                "tokens are integers [batch, sequence]; the rows differ in length"
            ) from None
        if tokens.ndim != 2 or not tokens.size or tokens.dtype.kind not in "iu":
            raise InputError(
                f"tokens are integers [batch, sequence], not {tokens.dtype} of shape {tokens.shape}"
            )
        count, context = past + tokens.shape[1], self.config.context
        if count > context:
            raise InputError(
                f"{count} tokens are more than the context of {self.name!r} holds ({context}); "
                "shorten the text"
            )
        if tokens.min() < 0 or tokens.max() >= self.config.vocabulary:
            raise InputError(
                f"tokens run from {tokens.min()} to {tokens.max()}, but the vocabulary of "
                f"{self.name!r} has {self.config.vocabulary}"
            )
        return tokens

    def _checked_images(self, data: Any) -> np.ndarray:
        images = np.asarray(data)
        wanted = (self.config.channels, self.config.image, self.config.image)
        if images.ndim != 4 or images.shape[1:] != wanted or not len(images):
            raise InputError(
                f"images of shape {images.shape} do not fit {self.name!r}: give "
                f"[batch, {', '.join(map(str, wanted))}]"
            )
        if images.dtype.kind not in "fiu":
            raise InputError(f"images hold {images.dtype}, not numbers")
        if images.dtype.kind == "f":
            return images.astype(np.float32, copy=False)
        return normalised(images, self.source / "preprocessor_config.json")

    def prompt_tokens(self, prompt: str | Sequence[int]) -> np.ndarray:
        """Return the checked tokens of a prompt: [1, sequence]."""
        self._check_task("language", "continue a prompt")
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise InputError("the prompt is empty; give at least one token")
        return self._checked_tokens([ids], 0)

    def _sentence(self, text: str) -> list[int]:
        if not text.strip():
            raise InputError(f"the sentence {text!r} is empty; remove it")
        text = self._head.prompt + text
        limit = min(self.config.context, self._head.limit or self.config.context)
        ids = self.tokenizer.encode(text)
        if len(ids) > limit:
            warnings.warn(
                f"a sentence of {len(ids)} tokens is cut to the {limit} that {self.name!r} reads: "
                f"{text[:40]!r}...",
                stacklevel=3,
            )
            ids = self.tokenizer.encode(text, limit)
        return ids

    def end_tokens(self) -> frozenset[int]:
        """Return the tokens that end a text, from the model's files."""
        return self._generation.ends

    def _check_task(self, task: str, what: str) -> None:
        if self.task != task:
            raise InputError(f"the model {self.name!r} ({self.task}) cannot {what}")

    def _calibration_data(self) -> np.ndarray:
        """Return calibration data of the model or lightloom, or random data with a fixed seed."""
        generator = np.random.Generator(np.random.Philox(0))
        if self.task == "vision":
            path = self.source / "data.safetensors"
            if path.is_file() and "calibration_images" in read_safetensors(path):
                return load_arrays(path)["calibration_images"]
            size = (16, self.config.channels, self.config.image, self.config.image)
            return generator.standard_normal(size).astype(np.float32)
        length = min(CALIBRATION_TOKENS, self.config.context)
        if self._read_tokenizer is None:
            return generator.integers(0, self.config.vocabulary, (CALIBRATION_BATCH, length))
        rows = self.rows_of(CALIBRATION_TEXT.read_text(encoding="utf-8"), length)
        return rows[:CALIBRATION_BATCH]


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Refuse invalid settings of the sampling.

    Raises
    ------
    InputError : naming the setting and its value
    """
    if not 0 <= temperature < np.inf:
        raise InputError(f"temperature = {temperature} is not a finite number of 0 or more")
    if top_k < 0:
        raise InputError(f"top_k = {top_k} is negative; 0 keeps all tokens")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p = {top_p} is not within (0, 1]; 1 keeps all tokens")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read small arrays of any type from a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(os.fspath(path)))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a safetensors file of arrays: {error}") from None
