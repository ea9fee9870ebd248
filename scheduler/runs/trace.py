"""Traces: timelines on disk, in the Chrome trace event format that ui.perfetto.dev opens.

A timeline is a process and a track is a thread. One event is one line, so that neither writing nor
reading ever holds the whole text. Not here: pictures of a trace (`lightloom.report.gantt`).
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
_FIRST_THREAD = 101  # above every process: a thread of its process's number is its main thread
_LONGEST_LINE = 1 << 20
_BEGINNING = 1 << 16  # characters in which a trace shows that it is one
_HEAD_END = '"traceEvents":['
_LARGEST = 1 << 63  # whole numbers beyond it are refused by other readers
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Trace:
    """What a file of a trace holds.

    Parameters
    ----------
    timelines : by name, such as "predicted" and "measured"; each begins at 0 s
    about : what was given to `write_trace`, and `lightloom`, the version that wrote it
    """

    timelines: dict[str, Timeline]
    about: dict[str, Any]

    @property
    def is_mock(self) -> bool:
        """Whether a mock or simulated instruments gave it."""
        return bool(self.about["is_mock"])


# --- writing --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thread:
    """One row of the viewer: slices of a track that nest or are apart, in order, in nanoseconds."""

    track: str
    shown: str
    slices: list[tuple[int, int, Slice]]


@dataclass(frozen=True)
class _Process:
    """A timeline with what the viewer calls it, and its rows by their numbers."""

    number: int
    name: str
    shown: str
    origin_s: float
    threads: list[tuple[int, _Thread]]
    counts: list[Count]


def write_trace(
    path: str | Path, timelines: Mapping[str, Timeline], about: Mapping[str, Any]
) -> None:
    """Write timelines; the file appears whole or not at all.

    Times are kept to the nanosecond, which is as fine as viewers resolve. Slices of a track that
    overlap in part, which no viewer can draw in one row, go to rows of their own ("input 2").

    Parameters
    ----------
    path : a name that ends in .gz is compressed
    timelines : by name: "predicted", "measured"
    about : numbers and words to keep: `model`, `bench` or `profile`, and `is_mock`, which must be
        there

    Raises
    ------
    InputError : when the file cannot be written, or is there and is not a trace of ours
    ValueError : without `is_mock`, or for a slice or counter whose time or value is no number
    """
    if "is_mock" not in about:
        raise ValueError("a trace says whether it is of a mock: about needs is_mock")
    is_compressed = Path(path).suffix.lower() == ".gz"
    events = _events(timelines, bool(about["is_mock"]))
    with (
        whole_output(path, KIND) as draft,
        _opened_to_write(draft, is_compressed) as stream,
    ):
        stream.write(f'{{"otherData":{_json(_header(timelines, about))},{_HEAD_END}')
        before = "\n"
        for event in events:
            stream.write(before + event)
            before = ",\n"
        stream.write("\n]}\n")


@contextlib.contextmanager
def _opened_to_write(path: Path, is_compressed: bool) -> Iterator[IO[str]]:
    with path.open("xb") as raw:
        if is_compressed:  # no name and no time inside: the same trace gives the same bytes
            with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, _text_of(packed) as stream:
                yield stream
        else:
            with _text_of(raw) as stream:
                yield stream


@contextlib.contextmanager
def _text_of(raw: Any) -> Iterator[IO[str]]:
    """Return the text side of a binary file, which stays open."""
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    yield stream
    stream.flush()
    stream.detach()


def _header(timelines: Mapping[str, Timeline], about: Mapping[str, Any]) -> dict[str, Any]:
    from ...instruments.version import VERSION

    told = {
        name: {
            "slices": len(timeline.slices),
            "counts": len(timeline.counts),
            "left_out": timeline.left_out,
        }
        for name, timeline in timelines.items()
    }
    ours = {"schema": SCHEMA, "kind": KIND, "lightloom": VERSION, "timelines": told}
    return {**about, **ours, "is_mock": bool(about["is_mock"])}


def _events(timelines: Mapping[str, Timeline], is_mock: bool) -> Iterator[str]:
    """Return every event as JSON; complains before the first one is asked for."""
    numbers = count(_FIRST_THREAD)
    prepared = []
    for process, (name, timeline) in enumerate(timelines.items(), 1):
        times = [item.start_s for item in timeline.slices]
        times += [item.at_s for item in timeline.counts]
        origin_s = min(times, default=0.0)
        shown = f"{name} (MOCK)" if is_mock else name
        threads = [(next(numbers), thread) for thread in _threads(timeline.slices, origin_s)]
        counts = [_checked(item) for item in timeline.counts]
        prepared.append(_Process(process, name, shown, origin_s, threads, counts))
    return (event for process in prepared for event in _told(process))


def _checked(item: Count) -> Count:
    if not (math.isfinite(item.value) and math.isfinite(item.at_s)):
        raise ValueError(f"counter {item.name!r} is {item.value} at {item.at_s} s: no number")
    return item


def _told(told: _Process) -> Iterator[str]:
    process = told.number
    yield _metadata("process_name", process, None, name=told.shown, timeline=told.name)
    yield _metadata("process_sort_index", process, None, sort_index=process)
    for number, thread in told.threads:
        yield _metadata("thread_name", process, number, name=thread.shown, track=thread.track)
        yield _metadata("thread_sort_index", process, number, sort_index=number)
    for number, thread in told.threads:
        head = f'{{"ph":"X","pid":{process},"tid":{number},"ts":'
        for start, end, item in thread.slices:
            kind = item.details.get("kind")
            cat = kind if isinstance(kind, str) else thread.track
            yield (
                f'{head}{_microseconds(start)},"dur":{_microseconds(end - start)},'
                f'"name":{_quoted(item.name)},"cat":{_quoted(cat)},"args":{_json(item.details)}}}'
            )
    for one in told.counts:
        at = _microseconds(round((one.at_s - told.origin_s) * 1e9))
        yield (
            f'{{"ph":"C","pid":{process},"ts":{at},"name":{_quoted(one.name)},'
            f'"args":{{"value":{float(one.value)!r}}}}}'
        )


def _metadata(kind: str, process: int, thread: int | None, **values: Any) -> str:
    number = "" if thread is None else f'"tid":{thread},'
    return f'{{"ph":"M","pid":{process},{number}"name":"{kind}","args":{_json(values)}}}'


def _threads(slices: Iterable[Slice], origin_s: float) -> Iterator[_Thread]:
    """Return the rows of a timeline in the order in which they are drawn."""
    tracks: dict[str, list[tuple[int, int, Slice]]] = {}
    for item in slices:
        if not (math.isfinite(item.start_s) and item.start_s <= item.end_s < math.inf):
            raise ValueError(
                f"slice {item.name!r} on {item.track!r} goes from {item.start_s} s to "
                f"{item.end_s} s: no span of time"
            )
        start, end = (round((moment - origin_s) * 1e9) for moment in (item.start_s, item.end_s))
        tracks.setdefault(item.track, []).append((start, end, item))
    names = set(tracks)
    for track in sorted(tracks, key=order_of_track):
        numbers = count(2)
        for place, row in enumerate(_rows(tracks[track])):
            shown = track
            while place and shown in names:
                shown = f"{track} {next(numbers)}"
            names.add(shown)
            yield _Thread(track, shown, row)


def order_of_track(track: str) -> tuple[str, int, str]:
    """Return what tracks are sorted by: the bench, then the order of `TRACKS`, then the name."""
    bench, _, role = track.rpartition("/")
    bench = re.sub(r"\d+", lambda number: f"{int(number[0]):09d}", bench)
    return bench, TRACKS.index(role) if role in TRACKS else len(TRACKS), track


def _rows(slices: list[tuple[int, int, Slice]]) -> list[list[tuple[int, int, Slice]]]:
    """Return as few rows as it takes for all slices of one to nest or to be apart."""
    slices.sort(key=lambda item: (item[0], -item[1]))
    rows: list[list[tuple[int, int, Slice]]] = []
    open_ends: list[list[int]] = []  # of each row: ends of the slices that are not over, inner last
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
    """Write nanoseconds as microseconds.

    Perfetto multiplies by 1000 and cuts to whole nanoseconds, and leaves out slices that then
    overlap by one. A tenth of a nanosecond keeps it from cutting too low where the number of
    microseconds has no exact binary fraction.
    """
    whole, part = divmod(nanoseconds, 1000)
    if part == 0:
        return str(whole)
    return f"{whole}.{part:03d}" if part % 125 == 0 else f"{whole}.{part:03d}1"


_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _json(values: Mapping[str, Any]) -> str:
    """Write numbers and words as every reader of JSON takes them."""
    parts = []
    for key, value in values.items():
        if type(value) is str:
            text = _quoted(value)
        elif type(value) is int and abs(value) < _LARGEST:
            text = str(value)
        else:
            text = _encode(_plain(value))
        parts.append(f"{_quoted(key)}:{text}")
    return "{" + ",".join(parts) + "}"


@lru_cache(maxsize=1 << 14)
def _quoted(text: str) -> str:
    return _encode(_plain(str(text)))


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it; what it has no word for becomes text."""
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
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:  # a number of numpy's
        return _plain(value.item(), depth + 1)
    return _plain(str(value)[:1000])


# --- reading --------------------------------------------------------------------------------------


def is_trace(path: str | Path) -> bool:
    """Say whether a file is a trace, ours or another program's, by what it begins with."""
    try:
        with _opened_to_read(Path(path)) as stream:
            return _looks_like_trace(stream.read(_BEGINNING))
    except (EOFError, zlib.error):
        return True  # compressed and damaged, which nothing else that is read here can be
    except OSError:
        return False


def _looks_like_trace(text: str) -> bool:
    text = text.lstrip()
    if text.startswith("["):  # a bare list of events is a trace, too
        return re.match(r'\[\s*\{[^{}]*"ph"\s*:', text) is not None
    return text.startswith("{") and '"traceEvents"' in text


def read_trace(path: str | Path) -> Trace:
    """Read what `write_trace` wrote; times count from the beginning of each timeline.

    Raises
    ------
    InputError : for what is no trace, a trace of another program, of a newer lightloom, or cut
    """
    path = Path(path)
    try:
        with _opened_to_read(path) as stream:
            return _Reader(path, stream).read()
    except FileNotFoundError:
        raise InputError(f"no trace {path}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path} is cut off or damaged; write the trace again") from None
    except OSError as error:
        raise InputError(f"cannot read the trace {path}: {error.strerror or error}") from None


def _opened_to_read(path: Path) -> IO[str]:
    with path.open("rb") as raw:
        is_compressed = raw.read(2) == _GZIP
    opened = gzip.open if is_compressed else open
    return cast(IO[str], opened(path, "rt", encoding="utf-8-sig", errors="replace"))


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


class _Reader:
    """Reads one file, line by line."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self._path, self._stream = path, stream
        self._line = 0
        self._processes: dict[Any, Timeline] = {}
        self._threads: dict[Any, tuple[Timeline, str]] = {}
        self._words: dict[str, str] = {}  # one object for each word, however often it comes

    def read(self) -> Trace:
        header = self._read_header()
        told = header.pop("timelines")
        timelines = {name: Timeline() for name in told}
        try:
            while (text := self._next()) != "]}":
                self._add(_decode(text.removesuffix(",")), timelines)
            if self._stream.read(1):  # which also compares a compressed file's checksum
                raise ValueError("something stands after the end")
            for name, timeline in timelines.items():
                timeline.left_out = told[name]["left_out"]
                held = (len(timeline.slices), len(timeline.counts))
                if held != (told[name]["slices"], told[name]["counts"]):
                    raise ValueError(f"{name} is incomplete")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise InputError(
                f"{self._path} is cut off or damaged at line {self._line}; write the trace again"
            ) from None
        return Trace(timelines, header)

    def _next(self) -> str:
        self._line += 1
        text = self._stream.readline(_LONGEST_LINE)
        if not text.endswith("\n"):
            raise ValueError("the file ends, or its lines do not")
        return text.strip()

    def _read_header(self) -> dict[str, Any]:
        self._line = 1
        text = self._stream.readline(_LONGEST_LINE)
        header = None
        if text.rstrip().endswith(_HEAD_END):
            with contextlib.suppress(ValueError, RecursionError):
                header = _decode(text.rstrip() + "]}").get("otherData")
        if not isinstance(header, dict) or header.get("kind") != KIND:
            raise InputError(self._complaint(text))
        schema = header.pop("schema", None)
        if isinstance(schema, int) and schema > SCHEMA:
            raise InputError(
                f"{self._path} has schema {schema} of traces, and this lightloom reads up to "
                f"{SCHEMA}; update lightloom"
            )
        if schema != SCHEMA or not _is_complete(header):
            raise InputError(f"{self._path} is cut off or damaged at line 1; write the trace again")
        del header["kind"]
        return header

    def _complaint(self, text: str) -> str:
        text += self._stream.read(_BEGINNING)
        if f'"{KIND}"' in text:
            return (
                f"{self._path} is a trace of lightloom that was laid out anew or damaged; give the "
                "file as lightloom wrote it"
            )
        if _looks_like_trace(text):
            return (
                f"{self._path} is a trace of another program; give one that lightloom wrote "
                "(--trace)"
            )
        return f"{self._path} is no trace; give a file that lightloom wrote with --trace"

    def _add(self, event: dict[str, Any], timelines: dict[str, Timeline]) -> None:
        kind, process, values = event["ph"], event["pid"], event["args"]
        if kind == "X":
            timeline, track = self._threads[event["tid"]]
            start, seconds = _seconds(event["ts"]), _seconds(event["dur"])
            name = self._word(event["name"])
            end = round(start + seconds, 9)
            timeline.slices.append(Slice(track, name, start, end, self._details(values)))
        elif kind == "C":
            value, at_s = float(values["value"]), _seconds(event["ts"])
            name = self._word(event["name"])
            self._processes[process].counts.append(Count(name, at_s, value))
        elif kind == "M" and event["name"] == "process_name":
            self._processes[process] = timelines[values["timeline"]]
        elif kind == "M" and event["name"] == "thread_name":
            track = sys.intern(values["track"])
            self._threads[event["tid"]] = (self._processes[process], track)

    def _word(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError("a name is no text")
        return self._words.setdefault(text, text)

    def _details(self, values: dict[str, Any]) -> dict[str, Any]:
        words = self._words
        return {
            words.setdefault(key, key): words.setdefault(v, v) if isinstance(v, str) else v
            for key, v in values.items()
        }


def _is_complete(header: dict[str, Any]) -> bool:
    told = header.get("timelines")
    return (
        isinstance(told, dict)
        and isinstance(header.get("is_mock"), bool)
        and all(
            isinstance(numbers, dict)
            and all(isinstance(numbers.get(key), int) for key in ("slices", "counts", "left_out"))
            for numbers in told.values()
        )
    )


def _seconds(microseconds: float) -> float:
    """Return whole nanoseconds as seconds; undoes `_microseconds`."""
    nanoseconds = round(microseconds * 1000)
    if nanoseconds < 0:
        raise ValueError("a time before the beginning")
    return nanoseconds / 1e9
