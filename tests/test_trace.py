"""Traces: files that Perfetto draws correctly and that are read back; correct pictures."""

import gzip
import json
import math
import re
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from lightloom.instruments import InputError, Timeline
from lightloom.instruments.timeline import TRACKS
from lightloom.scheduler.runs.trace import SCHEMA, Trace, is_trace, read_trace, write_trace
from typer.testing import CliRunner

from lightloom.cli.app import app
from lightloom.report.excerpt import excerpt, gaps
from lightloom.report.gantt import picture, trace_page

ABOUT = {"model": "digits", "bench": "bench.toml", "is_mock": False}
NASTY = '</title><script>alert(1)</script> & "q" \' \\ \x00\x07\x1b \ud800 \u2028 🙂\n'
SVG = "{http://www.w3.org/2000/svg}"

# --- made-up runs ---------------------------------------------------------------------------------

# name, kind, shots and seconds on the host of the steps of a layer
STEPS = (
    ("attention.norm", "norm", 0, 0.010),
    ("attention.qkv", "QKV", 6, 0.0),
    ("attention.softmax", "softmax", 0, 0.200),
    ("attention.mix", "attention x V", 4, 0.0),
    ("mlp.up", "MLP", 10, 0.0),
)
PERIOD_S = 0.020


def run(layers: int = 4, passes: int = 1, batches: int = 1, slower: float = 1.0) -> Timeline:
    """One step after another; a shot settles for 12 ms, is exposed for 6, and read out for 2.

    The first weights of a layer are shown from 5 ms before the layer before ends.
    """
    timeline, now, shot = Timeline(), 1000.0, 0
    for number in range(passes):
        for layer in range(layers):
            for batch in range(batches):
                for name, kind, shots, host_s in STEPS:
                    step = f"layer.{layer}.{name}"
                    details = {"layer": layer, "step": step, "kind": kind, "micro_batch": batch}
                    if host_s:
                        timeline.add("host", step, now, now + host_s * slower, **details)
                        now += host_s * slower
                        continue
                    ahead = 0.015 * slower if name == "attention.qkv" and layer else 0.0
                    timeline.add("weight", "show", now - ahead, now, **details, tile=number)
                    for _ in range(shots):
                        timeline.add("input", "settle", now, now + 0.012, **details, shot=shot)
                        end = now + PERIOD_S * slower
                        timeline.add("detector", "expose", end - 0.008, end - 0.002, **details)
                        timeline.add("detector", "read out", end - 0.002, end, **details)
                        timeline.count("frames waiting", shot % 3, now)
                        now, shot = end, shot + 1
    return timeline


LAYER_S = 0.005 + 0.210 + 20 * PERIOD_S  # of any but the first


def tangled(seed: int, number: int = 4000) -> Timeline:
    """Slices that nest, touch and overlap at nanoseconds without an exact binary fraction."""
    rng = np.random.default_rng(seed)
    timeline = Timeline()
    starts = rng.integers(0, 3_000_000, number)
    lengths = rng.choice([0, 1, 3, 567, 999, 1001, 125_125], number)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        base = 77_000_000_000_123
        track = ("input", "detector")[start % 2]
        timeline.add(track, "s", (base + start) / 1e9, (base + start + length) / 1e9)
        if length > 2:  # a child that ends as it does, and one that begins where it ends
            end = base + start + length
            timeline.add(track, "child", (end - 2) / 1e9, end / 1e9)
            timeline.add(track, "next", end / 1e9, (end + length) / 1e9)
    return timeline


# --- the rules of Perfetto's importer------------------------------------------------------------


def whole(path: Path) -> dict[str, Any]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="ascii") as stream:

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return json.load(stream, parse_constant=refuse)  # type: ignore[no-any-return]


def check_events(document: dict[str, Any]) -> dict[str, int]:
    """Check against the trace event format and Perfetto's importer, and count the phases.

    Required keys of each phase, finite numbers, metadata before its thread's first slice, and
    slices of a thread that are nested or disjoint once times are truncated to nanoseconds.
    """
    assert list(document) == ["otherData", "traceEvents"]
    names: dict[str, dict[int, str]] = {"process_name": {}, "thread_name": {}}
    phases: dict[str, int] = defaultdict(int)
    threads: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for event in document["traceEvents"]:
        phases[event["ph"]] += 1
        assert isinstance(event["name"], str) and isinstance(event["pid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            key = event["tid"] if event["name"].startswith("thread") else event["pid"]
            if event["name"] in names:
                assert key not in names[event["name"]], "two threads share a number"
                names[event["name"]][key] = event["args"]["name"]
            else:
                assert isinstance(event["args"]["sort_index"], int)
            continue
        assert event["ph"] in "XC" and event["pid"] in names["process_name"]
        assert type(event["ts"]) in (int, float) and 0 <= event["ts"] < math.inf
        if event["ph"] == "C":
            (value,) = event["args"].values()
            assert type(value) in (int, float) and math.isfinite(value)
            continue
        assert event["tid"] in names["thread_name"] and event["tid"] not in names["process_name"]
        assert type(event["dur"]) in (int, float) and 0 <= event["dur"] < math.inf
        assert isinstance(event["cat"], str)
        # the importer multiplies and cuts, in this order
        start, length = int(event["ts"] * 1000), int(event["dur"] * 1000)
        threads[event["tid"]].append((start, start + length))
    for slices in threads.values():
        check_nesting(slices)
    return dict(phases)


def check_nesting(slices: list[tuple[int, int]]) -> None:
    """Import slices as the importer does, which drops slices that overlap in part."""
    open_: list[tuple[int, int]] = []
    for start, end in sorted(slices, key=lambda s: s[0]):  # stable, as the importer sorts
        while open_ and open_[-1][1] <= start and open_[-1] != (start, end):
            open_.pop()
        assert not open_ or end <= open_[-1][1], f"{(start, end)} crosses {open_[-1]}"
        open_.append((start, end))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_slices_that_overlap_are_all_drawn(tmp_path: Path, seed: int) -> None:
    # Perfetto drops a slice that crosses another's end, by one nanosecond of rounding, too: the
    # busiest moments of a run would be missing
    timeline = tangled(seed)
    write_trace(tmp_path / "t.json", {"measured": timeline}, ABOUT)
    document = whole(tmp_path / "t.json")
    assert check_events(document)["X"] == len(timeline.slices)
    back = read_trace(tmp_path / "t.json").timelines["measured"]
    start_s = timeline.start_s
    wanted = sorted((s.track, s.start_s - start_s, s.seconds) for s in timeline.slices)
    got = sorted((s.track, s.start_s, s.seconds) for s in back.slices)
    for one, other in zip(wanted, got, strict=True):
        assert one[0] == other[0]
        assert abs(one[1] - other[1]) < 2e-9 and abs(one[2] - other[2]) < 2e-9


def test_the_check_itself_finds_what_perfetto_would_drop() -> None:
    check_nesting([(0, 10), (0, 10), (2, 5), (5, 10), (10, 10), (10, 20)])
    for slices in ([(0, 10), (5, 11)], [(0, 10), (2, 9), (8, 10)]):
        with pytest.raises(AssertionError):
            check_nesting(slices)


def test_a_run_follows_perfettos_rules(tmp_path: Path) -> None:
    timelines = {"predicted": run(), "measured": run(slower=1.02)}
    write_trace(tmp_path / "t.json.gz", timelines, ABOUT)
    phases = check_events(whole(tmp_path / "t.json.gz"))
    assert phases["X"] == sum(len(t.slices) for t in timelines.values())
    assert phases["C"] == sum(len(t.counts) for t in timelines.values()) > 0


def test_tracks_stand_in_the_order_in_which_light_passes_them(tmp_path: Path) -> None:
    timeline = Timeline()
    tracks = [*reversed(TRACKS), "bench 10/input", "bench 2/input", "bench 2/feed", "of its own"]
    for number, track in enumerate(tracks):
        timeline.add(track, "x", number, number + 1.0)
    timeline.add("input 2", "a track with that name", 0.0, 1.0)
    for start in (2.0, 2.5, 3.0):  # three at once, on a track whose second row has a taken name
        timeline.add("input", "y", start, start + 2)
    write_trace(tmp_path / "t.json", {"measured": timeline}, ABOUT)
    document = whole(tmp_path / "t.json")
    check_events(document)
    threads = [e for e in document["traceEvents"] if e["name"].startswith("thread_")]
    names = [e["args"]["name"] for e in threads if e["name"] == "thread_name"]
    at = names.index("input")
    assert names[at : at + 3] == ["input", "input 3", "input 4"]
    plain = [name for name in names if not name.startswith(("input ", "bench", "of"))]
    assert plain == list(TRACKS)
    assert [n for n in names if n.startswith("bench")] == [
        *("bench 2/feed", "bench 2/input", "bench 10/input")
    ]
    orders = [e["args"]["sort_index"] for e in threads if e["name"] == "thread_sort_index"]
    assert orders == sorted(orders)
    back = read_trace(tmp_path / "t.json").timelines["measured"]
    assert sum(item.track == "input" for item in back.slices) == 4


def test_a_trace_comes_back(tmp_path: Path) -> None:
    measured = run()
    measured.left_out = 7
    timelines = {"predicted": run(slower=0.9), "measured": measured}
    write_trace(tmp_path / "t.json", timelines, {**ABOUT, "schema": 99, "light_s": float("nan")})
    trace = read_trace(tmp_path / "t.json")
    assert list(trace.timelines) == ["predicted", "measured"] and not trace.is_mock
    assert trace.about["model"] == "digits" and trace.about["lightloom"]
    back = trace.timelines["measured"]
    assert back.left_out == 7 and trace.timelines["predicted"].left_out == 0
    assert whole(tmp_path / "t.json")["otherData"]["timelines"]["measured"]["left_out"] == 7

    def rounded(timeline: Timeline) -> list[Any]:
        start_s = timeline.start_s
        slices = [
            (s.track, round(s.start_s - start_s, 8), s.name, round(s.seconds, 8), dict(s.details))
            for s in timeline.slices
        ]
        return sorted(slices, key=str)

    assert rounded(back) == rounded(measured)
    counts = [(c.name, round(c.at_s, 8), c.value) for c in back.counts]
    assert counts == [(c.name, round(c.at_s - 1000, 8), c.value) for c in measured.counts]


def test_a_mock_is_named_wherever_it_is_shown(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.json", {"measured": run()}, {**ABOUT, "is_mock": True})
    document = whole(tmp_path / "t.json")
    assert document["otherData"]["is_mock"] is True
    (name,) = (e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name")
    assert name == "measured (MOCK)"
    trace = read_trace(tmp_path / "t.json")
    assert list(trace.timelines) == ["measured"] and trace.is_mock
    assert "MOCK" in picture(excerpt(trace)) and "MOCK: simulated" in trace_page(trace)
    with pytest.raises(ValueError, match="is_mock"):
        write_trace(tmp_path / "t.json", {}, {"model": "digits"})


def test_the_same_run_gives_the_same_bytes_and_gz_is_small(tmp_path: Path) -> None:
    for name in ("a.json", "a.json.gz", "b.JSON.GZ"):
        write_trace(tmp_path / name, {"measured": run()}, ABOUT)
    plain, one, other = ((tmp_path / n).read_bytes() for n in ("a.json", "a.json.gz", "b.JSON.GZ"))
    assert one == other and gzip.decompress(one) == plain and len(one) < len(plain) / 5
    assert b"\r" not in plain
    (tmp_path / "a.json.gz").rename(tmp_path / "of any name")
    assert is_trace(tmp_path / "of any name")
    assert len(read_trace(tmp_path / "of any name").timelines["measured"].slices) > 0


def test_a_trace_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    class Refuses:
        def __str__(self) -> str:
            raise RuntimeError("not now")

    path = tmp_path / "t.json"
    write_trace(path, {"measured": run()}, ABOUT)
    before = path.read_bytes()
    timeline = run()
    timeline.add("host", "last", 0.0, 1e4, what=Refuses())
    with pytest.raises(RuntimeError):
        write_trace(path, {"measured": timeline}, ABOUT)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot write the trace"):
        write_trace(tmp_path / "no" / "t.json", {"measured": run()}, ABOUT)
    with pytest.raises(InputError, match="cannot write the trace"):
        write_trace(tmp_path, {"measured": run()}, ABOUT)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "span", [(0.0, float("nan")), (float("nan"), 1.0), (0.0, float("inf")), (1.0, 0.5)]
)
def test_invalid_times_are_refused(tmp_path: Path, span: tuple[float, float]) -> None:
    timeline = run()
    timeline.add("host", "odd", *span)
    with pytest.raises(ValueError, match="'odd'"):
        write_trace(tmp_path / "t.json", {"measured": timeline}, ABOUT)
    timeline = run()
    timeline.count("queue", span[0] if math.isnan(span[0]) else float("inf"), 0.0)
    with pytest.raises(ValueError, match="'queue'"):
        write_trace(tmp_path / "t.json", {"measured": timeline}, ABOUT)
    assert not list(tmp_path.iterdir())


def test_an_empty_trace_is_a_trace(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.json", {"measured": Timeline()}, ABOUT)
    assert check_events(whole(tmp_path / "t.json")) == {"M": 2}
    trace = read_trace(tmp_path / "t.json")
    with pytest.raises(InputError, match="no slice"):
        excerpt(trace)


def nasty() -> Timeline:
    timeline = Timeline()
    odd = {
        "nan": float("nan"),
        "huge": 2**70,
        "numpy": np.float32(0.5),
        "ids": np.uint64(2**64 - 1),
        "list": [1, float("inf"), {"a": {1, 2}}],
        "none": None,
        NASTY: NASTY,
    }
    for number in range(3):
        details = {**odd, "layer": 0, "step": f"layer.0.{NASTY}", "kind": NASTY}
        timeline.add(NASTY, NASTY, number, number + 0.9, **details)
        timeline.add("detector", NASTY, number + 0.2, number + 0.4, **details)
    timeline.add("detector", "odd", 9.0, 9.1, layer=[1], step=["a"], kind={}, micro_batch="x")
    timeline.count(NASTY, 1.0, 0.5)
    return timeline


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    about = {**ABOUT, "model": NASTY, NASTY: NASTY}
    write_trace(tmp_path / "t.json", {"measured": nasty(), NASTY: nasty()}, about)
    text = (tmp_path / "t.json").read_text("ascii")
    assert "\\ud800" not in text and "NaN" not in text and "Infinity" not in text
    document = whole(tmp_path / "t.json")
    check_events(document)
    details = next(e for e in document["traceEvents"] if e["ph"] == "X")["args"]
    assert details["nan"] == "nan" and details["numpy"] == 0.5 and details["none"] is None
    assert all(abs(v) < 2**63 for v in details.values() if isinstance(v, int))
    trace = read_trace(tmp_path / "t.json")
    page = trace_page(trace, name=NASTY)
    assert "<script" not in page and "alert(1)" in page
    check_page(page)
    assert not re.search("[\x00-\x08\x0b-\x1f]", page)
    ElementTree.fromstring(picture(excerpt(trace)))  # a browser refuses SVG that is not XML


def shots(number: int) -> Timeline:
    timeline = Timeline()
    for shot in range(number):
        now = shot * 1e-3
        details = {"layer": 0, "step": "layer.0.mlp.up", "kind": "MLP", "shot": shot}
        timeline.add("input", "settle", now, now + 0.6e-3, **details)
        timeline.add("detector", "expose", now + 0.6e-3, now + 0.9e-3, **details)
    return timeline


@pytest.mark.slow
def test_two_hundred_thousand_slices_take_little_time(tmp_path: Path) -> None:
    timeline = shots(100_000)
    start = time.process_time()
    write_trace(tmp_path / "t.json.gz", {"measured": timeline}, ABOUT)
    trace = read_trace(tmp_path / "t.json.gz")
    drawn = picture(excerpt(trace))
    assert time.process_time() - start < 90, "12 s on a busy machine of 2026"
    assert len(trace.timelines["measured"].slices) == 200_000
    assert len(drawn) < 100_000
    assert "100,000 slices" in drawn, "merged, and counted"


@pytest.mark.slow
def test_writing_never_holds_the_text(tmp_path: Path) -> None:
    # writing must not run out of memory after a long run
    timeline = shots(10_000)
    tracemalloc.start()
    write_trace(tmp_path / "t.json", {"measured": timeline}, ABOUT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "t.json").stat().st_size
    assert peak < 1.5 * size, (
        "sorting takes 1.3 times the size of the file; its text would be one more"
    )


# --- bad files ------------------------------------------------------------------------------------


def bad_trace(tmp_path: Path, content: str | bytes) -> str:
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert "bad.json" in message and "\n" not in message
    return message


@pytest.fixture
def good(tmp_path: Path) -> str:
    write_trace(tmp_path / "good.json", {"measured": run(layers=1)}, ABOUT)
    return (tmp_path / "good.json").read_text("ascii")


FOREIGN = [
    '{"traceEvents":[{"ph":"X","pid":1,"tid":1,"ts":0,"dur":1,"name":"a"}]}',
    '{"schemaVersion":1,\n "traceEvents": [\n{"ph":"X"}]}',
    '[{"name":"a","ph":"B","pid":1,"tid":1,"ts":0}]',
    '{"otherData":{},"traceEvents":[\n]}\n',
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_trace_of_another_program_is_refused(tmp_path: Path, content: str) -> None:
    assert "another program" in bad_trace(tmp_path, content)
    assert is_trace(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1, 2]", "no JSON", b"\x89PNG\r\n\x1a\n\x00\xff", "\ud7ff" * 9, "[" * 9999],
)
def test_a_file_that_is_not_a_trace_is_refused(tmp_path: Path, content: str | bytes) -> None:
    assert "is not a trace" in bad_trace(tmp_path, content)
    assert not is_trace(tmp_path / "bad.json")


def test_a_newer_schema_asks_for_an_update(tmp_path: Path, good: str) -> None:
    newer = good.replace(f'"schema":{SCHEMA}', f'"schema":{SCHEMA + 1}')
    assert "update lightloom" in bad_trace(tmp_path, newer)


def test_a_trace_that_was_cut_anywhere_is_refused(tmp_path: Path, good: str) -> None:
    head = good.index("\n") + 1
    for length in [*range(head, len(good), 97), len(good) - 1, len(good) - 3]:
        assert "cut off or damaged" in bad_trace(tmp_path, good[:length]), length
    packed = gzip.compress(good.encode())
    for length in range(20, len(packed) - 1, 53):
        assert "cut off or damaged" in bad_trace(tmp_path, packed[:length]), length
        assert is_trace(tmp_path / "bad.json")
    assert "damaged" in bad_trace(tmp_path, packed[:50] + b"\xff" * 30 + packed[80:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ts":0,', '"ts":-5,'),
        ('"ts":0,', '"ts":NaN,'),
        ('"ts":0,', '"ts":1e999,'),
        ('"ts":0,', '"ts":"0",'),
        ('"dur":10000', '"dur":-10000'),
        ('"ph":"X","pid":1,"tid":101', '"ph":"X","pid":1,"tid":999'),
        ('"name":"settle"', '"name":5'),
        ('"args":{"layer"', '"args":[{"layer"'),
        ('"timeline":"measured"', '"timeline":"unknown"'),
        ('{"ph":"C"', '{"ph":"M"'),
        ('"args":{"value":0.0}', '"args":{"value":[]}'),
        ('"dur":10000,', '"dur":10000,"deep":' + "[" * 100_000 + "]" * 100_000 + ","),
        ('"slices":', '"slices":1'),
        ('"left_out":0', '"left_out":"0"'),
        ('"is_mock":false', '"is_mock":null'),
    ],
)
def test_a_trace_that_was_changed_is_refused(tmp_path: Path, good: str, old: str, new: str) -> None:
    assert old in good
    assert "cut off or damaged at line" in bad_trace(tmp_path, good.replace(old, new, 1))


def test_a_reformatted_trace_is_refused(tmp_path: Path, good: str) -> None:
    assert "was reformatted" in bad_trace(tmp_path, json.dumps(json.loads(good), indent=1))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "no trace"), (tmp_path, "cannot read")):
        assert not is_trace(path)
        with pytest.raises(InputError, match=message):
            read_trace(path)


# --- the picture and its page ---------------------------------------------------------------------


def traced(**timelines: Timeline) -> Trace:
    return Trace(timelines, dict(ABOUT))


class Elements(HTMLParser):
    """Records open elements, and references to other files."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "onload"} & {name for name, _ in attributes}
        assert (dict(attributes).get("href") or "#").startswith("#")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(page: str) -> list[list[str]]:
    """Check that a page is well formed and self-contained; return the rows of its tables."""
    reader = Elements()
    reader.feed(page)
    reader.close()
    assert not reader.open
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    return reader.rows


def test_the_layer_in_the_middle_that_is_whole_is_shown() -> None:
    assert excerpt(traced(measured=run(layers=7))).layer == 3
    cut = run(layers=7)
    whole_steps = 3 * len(cut.slices) // 7
    del cut.slices[whole_steps + 4 :]  # layers 0 to 2 are whole, of 3 a little is there
    assert excerpt(traced(measured=cut)).layer == 1
    # predicted and measured both hold it
    assert excerpt(traced(predicted=run(layers=7), measured=cut)).layer == 1


def test_the_first_pass_is_shown_alone() -> None:
    # 64 tokens pass a layer 64 times: one picture of all would be a blur
    trace = traced(predicted=run(passes=1), measured=run(passes=5))
    shown = excerpt(trace, 2)
    assert shown.passes == ((0, 0),)
    for view in shown.views:
        assert view.seconds == pytest.approx(LAYER_S)
    ours = [b for bars in shown.views[1].tracks.values() for b in bars if b.is_ours]
    assert {b.item.details["layer"] for b in ours} == {2}
    assert sum(b.item.name == "expose" for b in ours) == 20


def both(late_s: float) -> Timeline:
    """Two micro-batches, the second later by some seconds."""
    timeline = Timeline()
    for batch, late in ((0, 0.0), (1, late_s)):
        for s in run().slices:
            details = {**s.details, "micro_batch": batch}
            timeline.add(s.track, s.name, s.start_s + late, s.end_s + late, **details)
    return timeline


def test_micro_batches_that_overlap_are_shown_together() -> None:
    shown = excerpt(traced(measured=both(0.3)), 1)
    assert shown.passes == ((0, 0), (1, 0))
    assert shown.views[0].seconds == pytest.approx(LAYER_S + 0.3)
    shown = excerpt(traced(measured=both(0.7)), 1)  # when the second comes, the first has left
    assert shown.passes == ((0, 0),)
    assert shown.views[0].seconds == pytest.approx(LAYER_S)
    bars = [bar for some in shown.views[0].tracks.values() for bar in some]
    others = {b.item.details["micro_batch"] for b in bars if not b.is_ours}
    assert others == {0, 1}, "what else happened meanwhile is there, faintly"


def test_a_missing_layer_is_reported() -> None:
    with pytest.raises(InputError, match="holds no layer 9; it holds layers 0 to 3"):
        excerpt(traced(measured=run()), 9)
    bare = Timeline()
    bare.add("detector", "expose", 0.0, 1.0)
    assert excerpt(traced(measured=bare)).layer is None
    with pytest.raises(InputError, match="it holds no layers"):
        excerpt(traced(measured=bare), 0)


def test_the_table_says_how_long_each_track_was_busy() -> None:
    trace = traced(measured=run(slower=1.25), predicted=run())
    page = trace_page(trace, 2)
    rows = {row[0]: row[1:] for row in check_page(page) if row}
    # 20 shots: 12 ms of settling each, 8 of exposure and read-out, of a layer of 615 ms in whose
    # first 5 the layer before is exposed and read out
    assert rows["input"][:2] == ["240 ms", "39.0%"]
    assert rows["detector"][:2] == ["165 ms", "26.8%"]
    assert rows["host"][:2] == ["210 ms", "34.1%"] and rows["host"][3:] == ["34.1%", "-20.0%"]
    assert rows["the whole span"] == ["615 ms", "100.0%", "769 ms", "100.0%", "-20.0%"]
    assert "Time of layer 2: predicted 615 ms, measured 769 ms; -20.0% predicted" in page
    assert list(rows)[1:].index("host") < list(rows)[1:].index("detector")


def test_gaps_of_the_light_name_their_cause() -> None:
    (view,) = excerpt(traced(measured=run()), 2).views
    found = gaps(view)
    # the softmax, with the settling of the next shot and the read-out of the last
    assert found[0].seconds == pytest.approx(0.200 + 0.012 + 0.002)
    assert found[0].period_s == pytest.approx(PERIOD_S)
    assert found[0].meanwhile.startswith("host: layer.2.attention.softmax (93%)")
    # from the last exposure of the layer before: read-out, the norm, and settling
    assert found[1].seconds == pytest.approx(0.002 + 0.010 + 0.012)
    assert len(found) == 2, "14 ms from exposure to exposure is not a gap"
    assert "host: layer.2.attention.softmax (93%)" in trace_page(traced(measured=run()), 2)


def test_light_of_another_bench_fills_a_gap() -> None:
    timeline = run()
    for s in run().slices:
        if s.track == "detector":
            timeline.add(f"bench 2/{s.track}", s.name, s.start_s - 0.1, s.end_s - 0.1, **s.details)
    (view,) = excerpt(traced(measured=timeline), 2).views
    assert max(gap.seconds for gap in gaps(view)) < 0.2


def slices_of(root: ElementTree.Element) -> list[ElementTree.Element]:
    """Return the shapes of a picture that tell what they are."""
    return [shape for shape in root.iter(f"{SVG}path") if shape.find(f"{SVG}title") is not None]


def test_a_track_that_is_not_predicted_says_so() -> None:
    # it was shown as "-100.0%", as if its time had been predicted to be 0
    predicted, measured = run(), run()
    predicted.slices[:] = [s for s in predicted.slices if s.track != "weight"]
    measured.slices[:] = [s for s in measured.slices if s.track != "input"]
    rows = check_page(trace_page(traced(predicted=predicted, measured=measured), 2))
    assert [row[-1] for row in rows if row and row[0] == "weight"] == ["not predicted"]
    assert [row[-1] for row in rows if row and row[0] == "input"] == ["not measured"]
    assert [row[1:3] for row in rows if row and row[0] == "weight"] == [["-", "-"]]


def test_the_picture_shows_each_kind_and_merges_what_is_narrow() -> None:
    shown = excerpt(traced(predicted=run(), measured=run()), 1)
    root = ElementTree.fromstring(picture(shown))
    texts = [e.text or "" for e in root.iter(f"{SVG}text")]
    assert texts.index("predicted, 615 ms") < texts.index("measured, 615 ms")
    assert {"QKV", "softmax", "attention x V", "MLP", "norm"} <= set(texts)
    titles = [e.text or "" for e in root.iter(f"{SVG}title")]
    assert any("settle of layer.1.mlp.up: 12 ms" in title for title in titles)
    wide = float(root.get("viewBox", "").split()[2])
    for shape in slices_of(root):
        across = [float(x) for x in re.findall(r"[ML] ([\d.]+)", shape.get("d", ""))]
        assert 0 <= min(across) < max(across) <= wide
    style = root.find(f"{SVG}style")
    assert style is not None and "prefers-color-scheme: dark" in (style.text or "")


@pytest.mark.slow
def test_shots_of_a_hundred_thousand_stay_a_small_picture() -> None:
    # two steps whose shots alternate within every pixel, on two lanes that overlap
    timeline = Timeline()
    for shot in range(50_000):
        for number, kind in enumerate(("QKV", "MLP")):
            step = f"layer.0.{kind}"
            details = {"layer": 0, "step": step, "kind": kind, "micro_batch": number}
            start = shot + number / 2
            timeline.add("detector", "expose", start, start + 0.7, **details)
    drawn = picture(excerpt(traced(measured=timeline)))
    root = ElementTree.fromstring(drawn)
    assert len(slices_of(root)) < 2500
    titles = [e.text or "" for e in root.iter(f"{SVG}title")]
    counted = sum(int(n.replace(",", "")) for t in titles for n in re.findall(r": ([\d,]+) sl", t))
    assert counted == 100_000, "every slice is counted in one rectangle"


# --- the command ----------------------------------------------------------------------------------


def report(*arguments: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended.exit_code, ended.output


def written(folder: Path, name: str, about: Mapping[str, Any] = ABOUT) -> Path:
    write_trace(folder / name, {"predicted": run(), "measured": run(slower=1.1)}, about)
    return folder / name


def test_report_draws_a_trace_whatever_its_name(tmp_path: Path) -> None:
    code, output = report(written(tmp_path, "run.json.gz"))
    assert code == 0 and str(tmp_path / "run.html") in output.replace("\n", "")
    check_page((tmp_path / "run.html").read_text("utf-8"))
    path = written(tmp_path, "named.calibration.json").rename(tmp_path / "bench.toml")
    code, _ = report(path, "--layer", 1, "--output", tmp_path / "picture.svg")
    assert code == 0
    root = ElementTree.parse(tmp_path / "picture.svg").getroot()
    assert root.tag == f"{SVG}svg" and "layer 1" in root.get("aria-label", "")


def test_what_report_cannot_draw_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path, "run.json")
    before = path.read_bytes()
    foreign = tmp_path / "foreign.json"
    foreign.write_text(FOREIGN[0], encoding="utf-8")
    for arguments, message in (
        ((path, "--layer", 77), "no layer 77"),
        ((path, "--output", path), "the trace itself"),
        ((path, "--output", tmp_path / "no" / "page.html"), "cannot write"),
        ((foreign,), "another program"),
        ((tmp_path / "bench.toml", "--layer", 1), "--layer belongs to a trace"),
        ((tmp_path / "none.json",), "no file"),
    ):
        code, output = report(*arguments)
        assert code == 2 and message in output and output.count("\n") == 1, output
    assert path.read_bytes() == before
