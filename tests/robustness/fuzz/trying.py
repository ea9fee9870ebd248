"""Parts of fuzzing: targets, single attempts with bounds on time and memory, and counts.

Not here: the changes (`mutations`), and the readers of changed inputs.
"""

import contextlib
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from lightloom.instruments import LightloomError

LONGEST_S = 30.0  # that one input may take
LONGEST_SENTENCE = 2000  # characters
MEMORY_BYTES = 3 << 30  # allowed beyond those in use when a target begins
Attempt = Callable[[Random], bool | None]
"""Makes and reads one input, which is refused with LightloomError or False, otherwise accepted."""
KINDS = {"WrongNumberError": "wrong numbers", "TookTooLongError": "hangs"}  # else "tracebacks"


class WrongNumberError(Exception):
    """A value was read that the input does not hold, or that cannot be true."""


class TookTooLongError(BaseException):
    """An input was still being read after `LONGEST_S`; no handler of ours catches it."""


@dataclass(frozen=True)
class Target:
    """Reader of inputs from outside.

    Parameters
    ----------
    share : of the inputs of a campaign
    attempts : yields once what makes and tries an input, in a folder of its own
    """

    name: str
    share: float
    attempts: Callable[[Path], Iterator[Attempt]]

    def open(self, folder: Path) -> AbstractContextManager[Attempt]:
        """Return what makes and tries an input, as a context."""
        return contextlib.contextmanager(self.attempts)(folder)


@dataclass
class Finding:
    """Input that led to a traceback, a wrong number or a hang, and the number of similar ones."""

    kind: str
    number: int
    what: str
    trace: str
    times: int = 1


@dataclass
class Count:
    """Outcomes of a target's inputs."""

    target: str
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    slowest_s: float = 0.0
    findings: dict[str, Finding] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """The number of inputs that led to a finding."""
        return sum(finding.times for finding in self.findings.values())


def attempt_once(attempt: Attempt, random: Random) -> bool:
    """Try one input: True when it is accepted, False when it is refused with a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # arithmetic that went wrong unseen
            return attempt(random) is not False
    except LightloomError as error:
        text = str(error)
        is_sentence = text.strip() and len(text) <= LONGEST_SENTENCE and "Traceback" not in text
        want(bool(is_sentence), f"a refusal of {len(text)} characters: {text[:200]!r}")
        return False


def fuzz(target: Target, inputs: int, seed: int, first: int = 0) -> Count:
    """Try inputs on a target, and return their outcomes."""
    count = Count(target.name)
    with tempfile.TemporaryDirectory() as folder, target.open(Path(folder)) as attempt, _limited():
        for number in range(first, first + inputs):
            random = Random(f"{seed} {target.name} {number}")
            count.inputs += 1
            start_s = time.perf_counter()
            try:
                with _bounded():
                    accepted = attempt_once(attempt, random)
                count.accepted += accepted
                count.refused += not accepted
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a panic in Rust is not an Exception
                _keep(count, number, error)
            count.slowest_s = max(count.slowest_s, time.perf_counter() - start_s)
    return count


def _keep(count: Count, number: int, error: BaseException) -> None:
    name = type(error).__name__
    last = traceback.extract_tb(error.__traceback__)[-1]
    key = f"{name} {last.filename}:{last.lineno}"
    if key in count.findings:
        count.findings[key].times += 1
        return
    what, trace = f"{name}: {str(error)[:300]}", traceback.format_exc(limit=-12)
    count.findings[key] = Finding(KINDS.get(name, "tracebacks"), number, what, trace)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Raise when an attempt takes too long, where the system has an alarm."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise TookTooLongError(f"not done after {LONGEST_S:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Let an input that asks for too much memory fail at once, on Linux."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def want(holds: bool, what: str) -> None:
    """Check a property of an accepted input.

    Raises
    ------
    WrongNumberError : when it does not
    """
    if not holds:
        raise WrongNumberError(what)
