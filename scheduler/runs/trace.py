"""Traces: timelines on disk, in the Chrome trace event format that ui.perfetto.dev opens.

A timeline is a process and a track is a thread. One event is one line, so that writing and reading
need little memory. Not here: pictures of a trace (`lightloom.report.gantt`).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

from ...instruments import InputError
from ...instruments.files import whole_output
from ...instruments.timeline import TRACKS, Count, Slice, Timeline

SCHEMA = 1
KIND = "lightloom trace"
_FIRST_THREAD = 101  # above all process numbers: equal numbers mark a main thread
_MAX_LINE = 1 << 20
_HEAD_LENGTH = 1 << 16  # characters in which a file is recognised as a trace
_HEAD_END = '"traceEvents":['
_LARGEST = 1 << 63  # other readers refuse larger whole numbers
_GZIP = b"\x1f\x8b"
_Span = tuple[int, int, Slice]  # a slice with its start and end, in nanoseconds


@dataclass(frozen=True)
class Trace:
    """The content of a trace file.

    Parameters
    ----------
    timelines : by name, such as "predicted" and "measured"; each begins at 0 s
    about : the values given to `write_trace`, and `lightloom`, the version that wrote it
    """

    timelines: dict[str, Timeline]
    about: dict[str, Any]

    @property
    def is_mock(self) -> bool:
        """Whether it is of a mock or of simulated instruments."""
        return bool(self.about["is_mock"])


# --- writing --------------------------------------------------------------------------------------


def write_trace(
    path: str | Path, timelines: Mapping[str, Timeline], about: Mapping[str, Any]
) -> None:
    """Write timelines; the file appears whole or not at all.

    Times are kept to the nanosecond, the resolution of viewers. Slices of a track that overlap in
    part, which viewers cannot draw in one row, go to rows of their own ("input 2").

    Parameters
    ----------
    path : compressed when its name ends in .gz
    timelines : by name: "predicted", "measured"
    about : numbers and texts to keep: `model`, `bench` or `profile`, and `is_mock`, which is
        required

    Raises
    ------
    InputError : when the file cannot be written, or exists and is not a trace of lightloom
    ValueError : without `is_mock`, or for a slice or counter whose time or value is not a finite
        number
    """
    if "is_mock" not in about:
        raise ValueError("a trace says whether it is of a mock: about needs is_mock")
    is_compressed = Path(path).suffix.lower() == ".gz"
    for timeline in timelines.values():
        _check(timeline)
    with (
        whole_output(path, KIND) as draft,
        _opened_to_write(draft, is_compressed) as stream,
    ):
        stream.write(f'{{"otherData":{_json_object(_header(timelines, about))},{_HEAD_END}')
        before = "\n"
        for event in _events(timelines, bool(about["is_mock"])):
            stream.write(before + event)
            before = ",\n"
        stream.write("\n]}\n")


@contextlib.contextmanager
def _opened_to_write(path: Path, is_compressed: bool) -> Iterator[IO[str]]:
    with path.open("xb") as raw:
        if is_compressed:  # without name and time inside: the same trace gives the same bytes
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, _text_of(packed) as stream:
                yield stream
        else:
            with _text_of(raw) as stream:
                yield stream


@contextlib.contextmanager
def _text_of(raw: Any) -> Iterator[IO[str]]:
    """Return a text stream on a binary file, which stays open."""
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    yield stream
    stream.flush()
    stream.detach()


def _header(timelines: Mapping[str, Timeline], about: Mapping[str, Any]) -> dict[str, Any]:
    from ...instruments.version import VERSION

    counts = {
        name: {
            "slices": len(timeline.slices),
            "counts": len(timeline.counts),
            "left_out": timeline.left_out,
        }
        for name, timeline in timelines.items()
    }
    own = {"schema": SCHEMA, "kind": KIND, "lightloom": VERSION, "timelines": counts}
    return {**about, **own, "is_mock": bool(about["is_mock"])}


def _check(timeline: Timeline) -> None:
    """Refuse slices and counts that are not finite numbers, before the first event."""
    for item in timeline.slices:
        if not (math.isfinite(item.start_s) and item.start_s <= item.end_s < math.inf):
            raise ValueError(
                f"slice {item.name!r} on {item.track!r} goes from {item.start_s} s to "
                f"{item.end_s} s, which is not a time span"
            )
    for one in timeline.counts:
        if not (math.isfinite(one.value) and math.isfinite(one.at_s)):
            raise ValueError(
                f"counter {one.name!r} is {one.value} at {one.at_s} s, which is not a finite number"
            )


def _events(timelines: Mapping[str, Timeline], is_mock: bool) -> Iterator[str]:
    """Yield every event as JSON."""
    numbers = count(_FIRST_THREAD)
    for process, (name, timeline) in enumerate(timelines.items(), 1):
        times = [item.start_s for item in timeline.slices]
        times += [item.at_s for item in timeline.counts]
        origin_s = min(times, default=0.0)
        shown = f"{name} (MOCK)" if is_mock else name
        threads = [(next(numbers), *row) for row in _threads(timeline.slices, origin_s)]
        yield _metadata("process_name", process, None, name=shown, timeline=name)
        yield _metadata("process_sort_index", process, None, sort_index=process)
        for number, track, row_name, _ in threads:
            yield _metadata("thread_name", process, number, name=row_name, track=track)
            yield _metadata("thread_sort_index", process, number, sort_index=number)
        for number, _, _, row in threads:
            yield from _slice_events(f'{{"ph":"X","pid":{process},"tid":{number},"ts":', row)
        for one in timeline.counts:
            at = _microseconds(round((one.at_s - origin_s) * 1e9))
            yield (
                f'{{"ph":"C","pid":{process},"ts":{at},"name":{_json_string(one.name)},'
                f'"args":{{"value":{float(one.value)!r}}}}}'
            )


def _slice_events(head: str, row: list[_Span]) -> Iterator[str]:
    for start, end, item in row:
        kind = item.details.get("kind")
        cat = kind if isinstance(kind, str) else item.track
        yield (
            f'{head}{_microseconds(start)},"dur":{_microseconds(end - start)},'
            f'"name":{_json_string(item.name)},"cat":{_json_string(cat)},'
            f'"args":{_json_object(item.details)}}}'
        )


def _metadata(kind: str, process: int, thread: int | None, **values: Any) -> str:
    number = "" if thread is None else f'"tid":{thread},'
    return f'{{"ph":"M","pid":{process},{number}"name":"{kind}","args":{_json_object(values)}}}'


def _threads(slices: Iterable[Slice], origin_s: float) -> Iterator[tuple[str, str, list[_Span]]]:
    """Yield the rows of a timeline as they are drawn: track, name of the row, slices."""
    tracks: dict[str, list[_Span]] = {}
    for item in slices:
        start, end = (round((at_s - origin_s) * 1e9) for at_s in (item.start_s, item.end_s))
        tracks.setdefault(item.track, []).append((start, end, item))
    names = set(tracks)
    for track in sorted(tracks, key=order_of_track):
        numbers = count(2)
        for place, row in enumerate(_rows(tracks[track])):
            shown = track
            while place and shown in names:
                shown = f"{track} {next(numbers)}"
            names.add(shown)
            yield track, shown, row


def order_of_track(track: str) -> tuple[str, int, str]:
    """Return the sort key of a track: the bench, then the order of `TRACKS`, then the name."""
    bench, _, role = track.rpartition("/")
    bench = re.sub(r"\d+", lambda number: f"{int(number[0]):09d}", bench)
    return bench, TRACKS.index(role) if role in TRACKS else len(TRACKS), track


def _rows(slices: list[_Span]) -> list[list[_Span]]:
    """Return the fewest rows in which all slices are nested or disjoint."""
    slices.sort(key=lambda item: (item[0], -item[1]))
    rows: list[list[_Span]] = []
    open_ends: list[list[int]] = []  # of each row: ends of the open slices, innermost last
    for item in slices:
        start, end, _ = item
        for row, ends in zip(rows, open_ends, strict=True):
            while ends and ends[-1] <= start:
                ends.pop()
            if not ends or end <= ends[-1]:
                row.append(item)
                ends.append(end)
                break
        else:
            rows.append([item])
            open_ends.append([end])
    return rows


def _microseconds(nanoseconds: int) -> str:
    """Return nanoseconds as text in microseconds.

    Perfetto multiplies by 1000, truncates to whole nanoseconds, and drops slices that then overlap
    by one. An extra tenth of a nanosecond prevents a truncation to the nanosecond below, where the
    number of microseconds has no exact binary fraction.
    """
    whole, part = divmod(nanoseconds, 1000)
    if part == 0:
        return str(whole)
    return f"{whole}.{part:03d}" if part % 125 == 0 else f"{whole}.{part:03d}1"


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _json_object(values: Mapping[str, Any]) -> str:
    """Return a JSON object of numbers and texts that every JSON reader accepts."""
    parts = []
    for key, value in values.items():
        if type(value) is str:
            text = _json_string(value)
        elif type(value) is int and abs(value) < _LARGEST:
            text = str(value)
        else:
            text = _encode(_plain(value))
        parts.append(f"{_json_string(key)}:{text}")
    return "{" + ",".join(parts) + "}"


@lru_cache(maxsize=1 << 14)
def _json_string(text: str) -> str:
    return _encode(_plain(str(text)))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value of a JSON type; values of other types become text."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < _LARGEST:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < 5 and isinstance(value, Mapping):
        return {_plain(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if depth < 5 and isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # a numpy scalar
        return _plain(value.item(), depth + 1)
    return _plain(str(value)[:1000])


# --- reading --------------------------------------------------------------------------------------


def is_trace(path: str | Path) -> bool:
    """Return whether a file is a trace, of lightloom or another program, by its beginning."""
    try:
        with _opened_to_read(Path(path)) as stream:
            return _looks_like_trace(stream.read(_HEAD_LENGTH))
    except (EOFError, zlib.error):
        return True  # compressed and damaged: no other file type read here is compressed
    except OSError:
        return False


def _looks_like_trace(text: str) -> bool:
    text = text.lstrip()
    if text.startswith("["):  # a list of events is a trace, too
        return re.match(r'\[\s*\{[^{}]*"ph"\s*:', text) is not None
    return text.startswith("{") and '"traceEvents"' in text


def read_trace(path: str | Path) -> Trace:
    """Read a file that `write_trace` wrote; times count from the beginning of each timeline.

    Raises
    ------
    InputError : for a file that is not a trace, is of another program or of a newer lightloom, or
        is cut off
    """
    path = Path(path)
    try:
        with _opened_to_read(path) as stream:
            return _Reader(path, stream).read()
    except FileNotFoundError:
        raise InputError(
            f"no trace {path}; give a file that lightloom wrote with --trace"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _damaged(path) from None
    except OSError as error:
        raise InputError(f"cannot read the trace {path}: {error.strerror or error}") from None


def _opened_to_read(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == _GZIP
    opened = gzip.open if is_compressed else open
    return cast(IO[str], opened(path, "rt", encoding="utf-8-sig", errors="replace"))


def _damaged(path: Path, where: str = "") -> InputError:
    return InputError(f"{path} is cut off or damaged{where}; write the trace again")


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not a finite number")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


class _Reader:
    """Reads one file, line by line."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self._path, self._stream = path, stream
        self._line = 0
        self._processes: dict[Any, Timeline] = {}
        self._threads: dict[Any, tuple[Timeline, str]] = {}
        self._strings: dict[str, str] = {}  # one object for equal strings, to save memory

    def read(self) -> Trace:
        header = self._read_header()
        written = header.pop("timelines")
        timelines = {name: Timeline() for name in written}
        try:
            while (text := self._next()) != "]}":
                self._add(_decode(text.removesuffix(",")), timelines)
            if self._stream.read(1):  # this also checks the checksum of a compressed file
                raise ValueError("there is text after the end")
            for name, timeline in timelines.items():
                timeline.left_out = written[name]["left_out"]
                found = (len(timeline.slices), len(timeline.counts))
                if found != (written[name]["slices"], written[name]["counts"]):
                    raise ValueError(f"{name} is incomplete")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise _damaged(self._path, f" at line {self._line}") from None
        return Trace(timelines, header)

    def _next(self) -> str:
        self._line += 1
        text = self._stream.readline(_MAX_LINE)
        if not text.endswith("\n"):
            raise ValueError("the file ends, or its lines do not")
        return text.strip()

    def _read_header(self) -> dict[str, Any]:
        self._line = 1
        text = self._stream.readline(_MAX_LINE)
        header = None
        if text.rstrip().endswith(_HEAD_END):
            with contextlib.suppress(ValueError, RecursionError):
                header = _decode(text.rstrip() + "]}").get("otherData")
        if not isinstance(header, dict) or header.get("kind") != KIND:
            raise InputError(self._why_refused(text))
        schema = header.pop("schema", None)
        if isinstance(schema, int) and schema > SCHEMA:
            raise InputError(
                f"{self._path} has schema {schema} of traces, and this lightloom reads up to "
                f"{SCHEMA}; update lightloom"
            )
        if schema != SCHEMA or not _is_complete(header):
            raise _damaged(self._path, " at line 1")
        del header["kind"]
        return header

    def _why_refused(self, text: str) -> str:
        text += self._stream.read(_HEAD_LENGTH)
        if f'"{KIND}"' in text:
            return (
                f"{self._path} is a trace of lightloom that was reformatted or damaged; give the "
                "file as lightloom wrote it"
            )
        if _looks_like_trace(text):
            return (
                f"{self._path} is a trace of another program; give one that lightloom wrote "
                "(--trace)"
            )
        return f"{self._path} is not a trace; give a file that lightloom wrote with --trace"

    def _add(self, event: dict[str, Any], timelines: dict[str, Timeline]) -> None:
        kind, process, values = event["ph"], event["pid"], event["args"]
        if kind == "X":
            timeline, track = self._threads[event["tid"]]
            start, seconds = _seconds(event["ts"]), _seconds(event["dur"])
            name = self._interned(event["name"])
            end = round(start + seconds, 9)
            timeline.slices.append(Slice(track, name, start, end, self._details(values)))
        elif kind == "C":
            value, at_s = float(values["value"]), _seconds(event["ts"])
            name = self._interned(event["name"])
            self._processes[process].counts.append(Count(name, at_s, value))
        elif kind == "M" and event["name"] == "process_name":
            self._processes[process] = timelines[values["timeline"]]
        elif kind == "M" and event["name"] == "thread_name":
            track = sys.intern(values["track"])
            self._threads[event["tid"]] = (self._processes[process], track)

    def _interned(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError("a name is not a text")
        return self._strings.setdefault(text, text)

    def _details(self, values: dict[str, Any]) -> dict[str, Any]:
        strings = self._strings
        return {
            strings.setdefault(key, key): strings.setdefault(v, v) if isinstance(v, str) else v
            for key, v in values.items()
        }


def _is_complete(header: dict[str, Any]) -> bool:
    timelines = header.get("timelines")
    return (
        isinstance(timelines, dict)
        and isinstance(header.get("is_mock"), bool)
        and all(
            isinstance(numbers, dict)
            and all(isinstance(numbers.get(key), int) for key in ("slices", "counts", "left_out"))
            for numbers in timelines.values()
        )
    )


def _seconds(microseconds: float) -> float:
    """Return whole nanoseconds as seconds; undoes `_microseconds`."""
    nanoseconds = round(microseconds * 1000)
    if nanoseconds < 0:
        raise ValueError("a time before the beginning")
    return nanoseconds / 1e9
