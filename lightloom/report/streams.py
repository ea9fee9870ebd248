"""The streams that a command writes to: standard output and standard error, guarded.

A result that took hours must not be lost at its last line. What a stream cannot encode is written
out; where standard output cannot be written to (full, closed, never there) the result goes to
standard error, and the exit status says so. All text is made printable, except what rich adds.
Not here: what is printed (`terminal`).
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections import deque
from contextlib import suppress
from typing import Any, TextIO, cast

from ..instruments.text import printable

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")
_DRAWN = "─━═╌│┃║╭╮╰╯┌┐└┘├┤┬┴┼╷╵╸╺█▏•…"  # by rich and typer, each as wide as its plain letter
_KEPT = 100  # texts that nothing took
_PLAIN = str.maketrans(f"{_DRAWN}µ", "----|||+++++++++++++||--#|*.u")


def guard() -> None:
    """Guard both streams, so that printing cannot fail or control the terminal."""
    if _guarded(sys.stdout) is not None:
        return
    _fill_descriptors()
    errors = _Stream(sys.stderr, "standard error")
    sys.stdout = cast(TextIO, _Stream(sys.stdout, "standard output", errors))
    sys.stderr = cast(TextIO, errors)


def tell_on_output() -> None:
    """Print on standard output what standard error lost, unless a result is there already."""
    errors, output = _guarded(sys.stderr), _guarded(sys.stdout)
    if errors is not None and output is not None and not output.has_written:
        output.write("".join(errors.dropped))


def result_is_lost() -> bool:
    """Whether standard output did not take all that was written to it."""
    output = _guarded(sys.stdout)
    return output is not None and output.has_lost


def under(stream: TextIO | None) -> TextIO:
    """Return the stream below a guarded one, for a console that makes its own text printable."""
    guarded = _guarded(stream)
    if guarded is not None:
        return cast(TextIO, _Raw(guarded))
    return io.StringIO() if stream is None else stream


class _Writer(io.TextIOBase):
    """A stream for text above another one, `_inner`, which may be None."""

    _inner: Any = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream below."""
        return getattr(self._inner, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._inner is not None and bool(self._inner.isatty())

    def fileno(self) -> int:
        """Return the descriptor of the stream below."""
        if self._inner is None:
            raise io.UnsupportedOperation("the stream is closed")
        return int(self._inner.fileno())

    def writable(self) -> bool:
        """Return True."""
        return True


class _Stream(_Writer):
    """Writes what is printable to another stream, and never fails.

    Parameters
    ----------
    inner : None where the program was started without it
    name : what messages call it
    other : takes what this one cannot

    Attributes
    ----------
    has_written, has_lost : something that was written has arrived, or has not
    dropped : the last texts that nothing took
    """

    def __init__(self, inner: TextIO | None, name: str, other: _Stream | None = None) -> None:
        super().__init__()
        self._inner = None if inner is None or inner.closed else inner
        self._name, self._other = name, other
        self._has_reader = True
        self.dropped: deque[str] = deque(maxlen=_KEPT)
        self.has_lost = self.has_written = False
        if self._inner is not None:
            _prepare(self._inner)

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream for consoles of rich that others open, such as typer's: colours pass."""
        return cast(TextIO, _Raw(self, only_colours=True))

    def write(self, text: str) -> int:
        """Write a text, made printable."""
        self.send(printable(text))
        return len(text)

    def flush(self) -> None:
        """Do nothing: every text is flushed when it is written."""

    def send(self, text: str) -> None:
        """Write a text as it is; what does not arrive goes to the other stream."""
        if not text:
            return
        if self._inner is None:
            self._lose("it is closed")
        elif not self.has_lost:
            try:
                self._inner.write(text)
                self._inner.flush()
                self.has_written = True
                return
            except (OSError, ValueError) as error:  # ValueError: it was closed
                self._has_reader = not (isinstance(error, BrokenPipeError) and self.has_written)
                self._lose(getattr(error, "strerror", None) or str(error))
        if self._other is None:
            self.dropped.append(text)
        elif self._has_reader:
            self._other.send(text)

    def _lose(self, why: str) -> None:
        if self.has_lost:
            return
        self.has_lost = True
        if self._inner is not None:
            _drop_the_rest(self._inner)
        if self._other is not None:
            rest = "the result follows here" if self._has_reader else "the rest is not shown"
            self._other.send(f"lightloom: cannot write to {self._name}: {why}; {rest}\n")


def _guarded(stream: object) -> _Stream | None:
    return stream if isinstance(stream, _Stream) else None


class _Raw(_Writer):
    """Writes to a guarded stream what a console has styled.

    Parameters
    ----------
    only_colours : of control characters; else the console answers for its text
    """

    def __init__(self, stream: _Stream, only_colours: bool = False) -> None:
        super().__init__()
        self._inner, self._only_colours = stream, only_colours

    def write(self, text: str) -> int:
        """Write a text."""
        shown = text
        if self._only_colours:
            parts = _COLOURS.split(text)
            parts[::2] = map(printable, parts[::2])
            shown = "".join(parts)
        self._inner.send(shown)
        return len(text)


def _prepare(stream: TextIO) -> None:
    """Set a stream to encode every character, and to wait for a slow reader."""
    codecs.register_error("lightloom", _written_out)
    options = {"errors": "lightloom"}
    if sys.platform == "win32" and not os.environ.get("PYTHONIOENCODING"):
        options["encoding"] = "utf-8"  # a pipe or a file would have the code page of the machine
    with suppress(AttributeError, OSError, ValueError):
        stream.reconfigure(**options)  # type: ignore[attr-defined]
    with suppress(AttributeError, OSError, ValueError):
        os.set_blocking(stream.fileno(), True)


def _written_out(error: UnicodeError) -> tuple[str, int]:
    r"""Replace what an encoding lacks: frames of tables and µ by ASCII, the rest as "\u5149"."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(_PLAIN)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


def _drop_the_rest(stream: TextIO) -> None:
    """Discard the buffers of a broken stream, which would fail again."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _fill_descriptors() -> None:
    """Open descriptors 0 to 2 where they are closed, so that no file of ours gets their numbers.

    Libraries in C write their warnings to them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
