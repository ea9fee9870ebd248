"""The calibration file is used only with the bench it was measured on."""

import base64
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_factory import load_example, write_bench
from commands import called, started
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from lightloom.backends.bench import Bench, BenchFile
from lightloom.backends.bench.binding import begin_calibration, check_calibration, path_for
from lightloom.backends.optics import calibration_file
from lightloom.backends.optics.calibration_file import (
    Calibration,
    Figure,
    Plot,
    Step,
    leaves,
    path_of,
)
from lightloom.instruments import Identity, InputError, Region
from lightloom.instruments.file_keys import keys_of
from lightloom.instruments.files import sealed

from lightloom.report.calibration import calibration_page

FINISHED = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOON = FINISHED + timedelta(minutes=30)
DAY_S = 86400.0
BINDING = {
    "layout": "imaged",
    "instruments": {"input": {"serial": "a"}},
    "encoding": {"kind": "abs-split"},
    "exposure_s": 2e-3,
    "power_w": 1e-3,
    "is_simulated": True,
}


def step(name: str = "dark_frames", **changes: Any) -> Step:
    made = Step(
        name=name,
        figures=(Figure("dark_e", 12.5, 0.25, "e", "residual 1 %"),),
        arrays={"map": np.arange(6.0).reshape(2, 3)},
        plots=(Plot("Dark counts", "image", "map"),),
        shots=40,
        seconds=1.5,
        computing_s=0.25,
        light_j=0.0,
        finished_at=FINISHED.isoformat(),
    )
    return replace(made, **changes)


def calibration(*steps: Step) -> Calibration:
    return Calibration(BINDING, FINISHED.isoformat(), steps or (step(),))


@contextmanager
def opened(folder: Path, layout: str = "imaged", **changes: Any) -> Iterator[Bench]:
    """Open a bench that has no calibration."""
    with load_example(folder, layout, calibration=None, **changes) as bench:
        yield bench


def assert_same(one: Step, other: Step) -> None:
    # by repr: NaN equals NaN, and -0.0 is not 0.0
    for key in set(Step.__dataclass_fields__) - {"arrays"}:
        assert repr(getattr(one, key)) == repr(getattr(other, key)), key
    assert list(one.arrays) == list(other.arrays)
    for name, array in one.arrays.items():
        assert array.dtype.newbyteorder("=") == other.arrays[name].dtype
        np.testing.assert_array_equal(array, other.arrays[name], strict=False)
        assert array.shape == other.arrays[name].shape


# --- round trip -----------------------------------------------------------------------------------

NAMES = st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text)
DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="="),
    arrays_of.unsigned_integer_dtypes(endianness="="),
    arrays_of.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
)
FIGURES = st.builds(
    Figure, NAMES, st.floats(), st.none() | st.floats(), st.text(max_size=5), st.text(max_size=9)
)


@st.composite
def any_step(draw: st.DrawFn) -> Step:
    shapes = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    held = draw(st.dictionaries(NAMES, arrays_of.arrays(DTYPES, shapes), max_size=3))
    flat = [name for name, array in held.items() if array.ndim == 1]
    plots = []
    for name, array in held.items():
        fits = ["histogram"] + ["line", "points"] * (array.ndim in (1, 2))
        kind = draw(st.sampled_from(fits + ["image"] * (array.ndim == 2)))
        over = [None, *(x for x in flat if held[x].shape == array.shape[-1:])]
        x = draw(st.sampled_from(over if array.ndim else [None]))
        plots.append(Plot(draw(st.text(max_size=5)), kind, name, x, "x", draw(st.text(max_size=5))))
    return Step(
        name=draw(NAMES),
        figures=tuple(draw(st.lists(FIGURES, max_size=3, unique_by=lambda figure: figure.name))),
        arrays=held,
        plots=tuple(plots),
        shots=draw(st.integers(0, 10**9)),
        seconds=draw(st.floats(0, 1e9)),
        computing_s=draw(st.floats(0, 1e9)),
        light_j=draw(st.floats(0, 1e9)),
        finished_at=draw(st.datetimes(timezones=st.just(UTC))).isoformat(),
        notes=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(any_step(), max_size=3, unique_by=lambda step: step.name))
def test_the_content_of_a_step_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.calibration.json"
    Calibration(BINDING, FINISHED.isoformat(), steps).write(path)
    back = Calibration.read(path)
    assert back.binding == BINDING and back.created_at == FINISHED.isoformat()
    assert list(back.steps) == [step.name for step in steps]
    for one, other in zip(steps, back.steps.values(), strict=True):
        assert_same(one, other)


def test_array_views_are_read_back_with_their_values(tmp_path: Path) -> None:
    whole = np.arange(24.0).reshape(4, 6)
    views = {"turned": whole.T, "every_second": whole[::2, ::-2], "one": whole[:, 3]}
    views["foreign"] = whole.astype(whole.dtype.newbyteorder("S"))
    made = step(arrays=views, plots=())
    calibration(made).write(tmp_path / "views.json")
    assert_same(made, Calibration.read(tmp_path / "views.json").steps["dark_frames"])


def test_the_header_is_standard_json_with_all_entries(tmp_path: Path) -> None:
    path = tmp_path / "bench.calibration.json"
    calibration(step(figures=(Figure("odd", np.nan, np.inf, "µm"),))).write(path)
    text = path.read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    header = json.loads(text, parse_constant=refuse)
    assert header["schema"] == 2 and header["kind"] == "lightloom calibration"
    assert header["steps"][0]["arrays"] == [{"name": "map", "shape": [2, 3], "dtype": "float64"}]
    assert "µm" in text and text.count("\n") > 40  # people read it
    assert (tmp_path / header["data"]["file"]).stat().st_size == header["data"]["bytes"]


def test_a_step_is_replaced_in_its_place_and_asked_by_name() -> None:
    held = calibration(step("dark_frames"), step("flat_field"))
    held.add(step("dark_frames", figures=(Figure("dark_e", 3.0, None, "e"),)))
    assert list(held.steps) == ["dark_frames", "flat_field"]
    assert held.figure("dark_frames", "dark_e") == 3.0
    assert held.array("flat_field", "map").shape == (2, 3)
    with pytest.raises(InputError, match="lacks the step 'response_curves'"):
        held.figure("response_curves", "gamma")
    with pytest.raises(InputError, match="'dark_frames' holds no figure 'gamma'"):
        held.figure("dark_frames", "gamma")
    with pytest.raises(InputError, match="'dark_frames' holds no array 'gamma'"):
        held.array("dark_frames", "gamma")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "a/b"}, "not a name"),
        ({"arrays": {"map": np.array(["text"])}}, "not stored"),
        ({"arrays": {"map": np.array([{}])}}, "not stored"),
        ({"arrays": {}}, "missing array 'map'"),
        ({"plots": (Plot("", "line", "map", "gone"),)}, "missing array 'gone'"),
        ({"arrays": {"map": np.zeros(3)}}, "cannot draw"),
        ({"plots": (Plot("", "line", "map", "map"),)}, "cannot draw"),
        ({"figures": (Figure("a", 1.0, None, ""),) * 2}, "two figures"),
    ],
)
def test_a_step_that_cannot_be_stored_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        step(**changes)


# --- writing --------------------------------------------------------------------------------------


class Crash(BaseException):
    """A power failure: none of our code runs afterwards."""


@pytest.mark.parametrize("calls", range(9))
@pytest.mark.parametrize("failure", [Crash(), OSError(28, "No space left on device")])
def test_a_write_that_fails_anywhere_leaves_the_former_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, failure: BaseException
) -> None:
    path = tmp_path / "bench.calibration.json"
    calibration(step("old")).write(path)
    left, replaced, before = iter(range(calls)), [], Path.replace

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise failure
            result = original(*args, **kwargs)
            replaced.extend([result] if original is before else [])
            return result

        return call

    with monkeypatch.context() as patched:
        for place, name in ((os, "fsync"), (Path, "replace"), (Path, "open"), (Path, "unlink")):
            patched.setattr(place, name, failing(getattr(place, name)))
        new = calibration(step("new", arrays={"map": np.ones((2, 3))}))
        try:
            new.write(path)
        except (Crash, InputError) as error:
            assert isinstance(failure, Crash) or "No space left" in str(error)
    (held,) = Calibration.read(path).steps
    assert held == ("new" if len(replaced) == 2 else "old")
    new.write(path)
    assert list(Calibration.read(path).steps) == ["new"]
    assert len(list(tmp_path.iterdir())) == 2  # no file of a failed write remains


def test_only_data_of_this_calibration_is_removed(tmp_path: Path) -> None:
    others = ["bench.calibration.safetensors", "bench2.calibration.0123456789ab.safetensors"]
    for name in others:
        (tmp_path / name).write_bytes(b"another program's")
    path = tmp_path / "bench.calibration.json"
    calibration().write(path)
    calibration(step(arrays={"map": np.ones((2, 2))})).write(path)
    data = json.loads(path.read_text("utf-8"))["data"]["file"]
    assert {item.name for item in tmp_path.iterdir()} == {path.name, data, *others}


def test_a_reader_during_a_write_gets_one_whole_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `report` while `calibrate` runs: the pair may change between header and arrays
    path = tmp_path / "bench.calibration.json"
    calibration(step("old")).write(path)
    before, looks = Path.read_bytes, []

    def read_bytes(self: Path) -> bytes:
        looks.append(self)
        content = before(self)
        if len(looks) == 1:
            calibration(step("new", arrays={"map": np.ones((2, 3))})).write(path)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert list(Calibration.read(path).steps) == ["new"]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write the calibration"):
        calibration().write(tmp_path / "nowhere" / "bench.calibration.json")


# --- reading --------------------------------------------------------------------------------------


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    header = json.loads(path.read_text(encoding="utf-8"))
    edit(header)
    header.pop("sha256", None)  # as a program without a seal would write it
    path.write_text(json.dumps(sealed(header)), encoding="utf-8")


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda h: h.update(schema=3), "schema = 3 is newer than 2"),
        (lambda h: h.update(schema="1"), "schema = '1'"),
        (lambda h: h.update(kind="lightloom run"), "is not a calibration"),
        (lambda h: h.pop("binding"), "binding is missing"),
        (lambda h: h["binding"].update(instruments=[]), "binding.instruments"),
        (lambda h: h.update(more=1), "unknown key 'more'"),
        (lambda h: h.update(created_at="2026-03-01T12:00:00"), "needs its zone"),
        (lambda h: h.update(created_at="yesterday"), "created_at = 'yesterday'"),
        (lambda h: h["steps"][0].update(shots="40"), "steps.0.shots = '40'"),
        (lambda h: h["steps"][0]["figures"][0].update(value="12.5"), "figures.0.value = '12.5'"),
        (lambda h: h["steps"][0]["figures"][0].update(name=7), "figures.0.name = 7"),
        (lambda h: h["steps"][0]["plots"][0].update(kind="pie"), "plots.0.kind = 'pie'"),
        (lambda h: h["steps"][0]["plots"][0].update(y="gone"), "missing array 'gone'"),
        (lambda h: h["steps"][0]["arrays"][0].update(shape=[3, 2]), "array dark_frames/map"),
        (lambda h: h["steps"][0]["arrays"][0].update(dtype="int8"), "array dark_frames/map"),
        (lambda h: h["steps"][0].update(arrays=[], plots=[]), "array dark_frames/map"),
        (lambda h: h["steps"].append(h["steps"][0]), "two steps have one name"),
        (lambda h: h["data"].update(file="../bench.safetensors"), "data.file"),
        (lambda h: h["data"].update(file="gone.safetensors"), "keep both files together"),
        (lambda h: h["data"].update(sha256="0" * 64), "is damaged"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_one_sentence(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], complaint: str
) -> None:
    path = tmp_path / "bench.calibration.json"
    calibration().write(path)
    edited(path, edit)
    with pytest.raises(InputError, match=re.escape(complaint)) as caught:
        Calibration.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no calibration file"),
        (b"", "not JSON"),
        (b"\x80\x04K\x01.", "not JSON"),  # a pickle
        (b'{"schema": 1', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "is not a calibration"),
    ],
)
def test_a_file_that_is_not_a_header_is_one_sentence(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "bench.calibration.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        Calibration.read(path)
    with pytest.raises(InputError, match="cannot read the calibration"):
        Calibration.read(tmp_path)


def test_every_damaged_byte_of_the_arrays_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "bench.calibration.json"
    calibration().write(path)
    (data,) = tmp_path.glob("*.safetensors")
    whole = data.read_bytes()
    for place in range(len(whole)):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match="is damaged"):
            Calibration.read(path)
    data.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is damaged"):
        Calibration.read(path)
    data.write_bytes(whole)
    Calibration.read(path)


# --- binding --------------------------------------------------------------------------------------


def read_back(bench: Bench, *steps: Step) -> Calibration:
    """Return a calibration of a bench, read back from disk."""
    made, path = begin_calibration(bench), Path(bench.path).parent / "bench.calibration.json"
    for each in steps or (step(),):
        made.add(each)
    made.write(path)
    return Calibration.read(path)


def refusal(held: Calibration, bench: Bench, *wanted: str, **others: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_calibration(bench, held, wanted or ("dark_frames",), DAY_S, **{"now": SOON, **others})
    text = str(caught.value)
    assert "\n" not in text and bench.path in text
    return text


@pytest.mark.parametrize("layout", ["imaged", "line", "single-pixel"])
def test_the_same_bench_is_accepted(tmp_path: Path, layout: str) -> None:
    # 7 ms and 7000 us are two floats
    with opened(tmp_path, layout, exposure_s="7 ms") as bench:
        held = read_back(bench)
    with opened(tmp_path, layout, exposure_s="7000 us") as bench:
        check_calibration(bench, held, ("dark_frames",), DAY_S, SOON)
    assert held.is_simulated


SETTINGS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"exposure_s": "4 ms"}, "exposure_s = 0.004", "0.002", "the old exposure_s"),
    ({"power_w": "0.5 mW"}, "power_w = 0.0005", "0.001", "the old power_w"),
    ({"encoding__element_px": 1}, "encoding.element_px = 1", "2", "the old element_px"),
    ({"encoding__kind": "offset"}, 'encoding.kind = "offset"', '"abs-split"', "the old kind"),
    ({"encoding__block": [4, 2]}, "encoding.block = [4, 2]", "[4, 4]", "the old block"),
    ({"world__seed": 1}, 'instruments.input.serial = "SIM-', '"SIM-', "another bench"),
    (
        {"instruments__input__bit_depth": 6},
        "instruments.input.bit_depth = 6",
        "8",
        "the old bit_depth",
    ),
    (
        {"instruments__detector__serial": "77"},
        'instruments.detector.serial = "77"',
        '"SIM-',
        "connect the old instrument",
    ),
]


@pytest.mark.parametrize(("change", "here", "was", "way_out"), SETTINGS)
def test_another_bench_or_setting_is_named_with_both_values(
    tmp_path: Path, change: dict[str, Any], here: str, was: str, way_out: str
) -> None:
    with opened(tmp_path) as bench:
        held = read_back(bench)
    with opened(tmp_path, **change) as bench:
        text = refusal(held, bench)
    assert here in text and f"was made with {was}" in text and way_out in text
    assert "calibrate again" in text


def test_another_region_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        held = read_back(bench)
        bench.camera.configure(region=Region(0, 8, 64, 80))
        text = refusal(held, bench)
    assert "instruments.detector.region = [0, 8, 64, 80]" in text and "[0, 0, 64, 96]" in text


def test_another_range_of_a_daq_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path, "single-pixel") as bench:
        held = read_back(bench)
        bench.instruments["detector"].input_range_v = (-1.0, 1.0)  # type: ignore[attr-defined]
        assert "input_range_v = [-1.0, 1.0]" in refusal(held, bench)


def test_every_part_of_the_binding_counts(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        held = read_back(bench)
        for key, _ in leaves(held.binding):
            other = Calibration(json.loads(json.dumps(held.binding)), held.created_at)
            *tables, last = key.split(".")
            table = other.binding
            for name in tables:
                table = table[name]
            del table[last]
            text = refusal(other, bench)
            assert f"{key} = " in text and "was made with nothing" in text
    assert set(held.binding["encoding"]) == set(BenchFile.model_fields["encoding"].default.__dict__)


def test_swapped_modulators_are_called_that(tmp_path: Path) -> None:
    one, other = (f"instruments__{role}__serial" for role in ("input", "weight"))
    with opened(tmp_path, **{one: "A1", other: "B2"}) as bench:
        held = read_back(bench)
    with opened(tmp_path, **{one: "B2", other: "A1"}) as bench:
        text = refusal(held, bench)
    assert "the input and weight modulators are swapped" in text
    assert "instruments.input is lightloom simulated tiny B2" in text
    with opened(tmp_path, **{one: "B2"}) as bench:  # one of them is another: no swap
        assert "modulators are swapped" not in refusal(held, bench)


def test_swapped_modulators_without_serials_are_known_by_their_shapes(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        for role in ("input", "weight"):
            bench.instruments[role].identity = Identity()
        bench.weight.shape = (32, 48)
        held = read_back(bench)
        check_calibration(bench, held, ("dark_frames",), DAY_S, SOON)
        bench.input.shape, bench.weight.shape = bench.weight.shape, bench.input.shape
        assert "modulators are swapped" in refusal(held, bench)
        bench.input.shape = bench.weight.shape
        assert "instruments.input.shape = [64, 96]" not in refusal(held, bench)
        assert "instruments.weight.shape = [64, 96]" in refusal(held, bench)


def test_missing_steps_are_named(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        held = read_back(bench, step("dark_frames"))
        text = refusal(held, bench, "align", "dark_frames", "flat_field")
    assert "lacks align, flat" in text and "--resume" in text


def test_a_calibration_expires_with_its_oldest_wanted_step(tmp_path: Path) -> None:
    old = step("align", finished_at=(FINISHED - timedelta(hours=20)).isoformat())
    with opened(tmp_path) as bench:
        held = read_back(bench, old, step("dark_frames"))
        check_calibration(
            bench, held, ("align", "dark_frames"), DAY_S, FINISHED + timedelta(hours=3.99)
        )
        check_calibration(bench, held, ("dark_frames",), DAY_S, FINISHED + timedelta(hours=23.99))
        text = refusal(held, bench, "align", "dark_frames", now=FINISHED + timedelta(hours=5))
        assert "step 'align'" in text and "25.0 hours old, and lasts 24 hours" in text
        assert "calibration_lasts_s" in text and "align and calibrate again" in text
        assert "in the future" in refusal(held, bench, now=FINISHED - timedelta(hours=1))
        check_calibration(
            bench, held, ("dark_frames",), DAY_S, FINISHED - timedelta(minutes=2)
        )  # clocks differ


def test_the_path_of_a_calibration(tmp_path: Path) -> None:
    assert path_of(None, "a/bench.toml") == Path("a/bench.calibration.json")
    path = write_bench(tmp_path, calibration=None)
    assert path_for(path) == tmp_path / "bench.calibration.json"
    path = write_bench(tmp_path, calibration="old/one.json")
    assert path_for(path) == tmp_path / "old" / "one.json"
    path = write_bench(tmp_path, calibration="ground-truth")
    with pytest.raises(InputError, match="remove that line"):
        path_for(path)


# --- the page -------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Reads a page as strictly as XML, and keeps its content."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.tags: set[str] = set()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for key, value in attrs:
            assert value is not None
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href", "data", "action"):
                self.links.append(value)
            if key == "aria-label":
                self.labels.append(value)
            self.links += re.findall(r"url\(([^)]*)\)", value)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def read_page(content: str) -> Reader:
    reader = Reader()
    reader.feed(content)
    reader.close()
    assert not reader.open, "elements are left open"
    return reader


NASTY = '</td><script>alert(1)</script> & "$x_1$" \''


def rich_calibration() -> Calibration:
    rng = np.random.default_rng(5)
    map_ = rng.normal(size=(20, 30))
    held = {
        "x": np.arange(40),
        "lines": rng.normal(size=(6, 40)),
        "many": rng.normal(size=6000),
        "map": map_,
        "large": rng.normal(size=(1000, 1400)).astype(np.float32),
        "bad": rng.random((8, 8)) < 0.1,
        "nothing": np.zeros((0, 0)),
        "unknown": np.full(9, np.nan),
        "same": np.ones(30),
        "tail": np.append(rng.normal(size=500), 1e4),
    }
    plots = [
        Plot("Six lines", "line", "lines", "x", NASTY, NASTY),
        Plot("Points " + NASTY, "points", "lines", "x"),
        Plot("Many points", "points", "many"),
        Plot("A map", "image", "map"),
        *(Plot(f"Image of {name}", "image", name) for name in ("large", "bad", "nothing")),
        *(Plot(f"Sample of {name}", "histogram", name) for name in ("map", "same", "tail", "bad")),
        *(Plot(f"Empty {kind}", kind, "unknown") for kind in ("line", "histogram")),
    ]
    figures = (
        Figure("gain", 2.34567, 0.0123, "e/count", NASTY),
        Figure("walk", 2.5e-7, np.nan, "1/shot"),
        Figure("pixels", 1234567.0, None, ""),
    )
    full = step("response_curves", figures=figures, arrays=held, plots=tuple(plots), notes=(NASTY,))
    return calibration(full, step("dark_frames", shots=1000), step("bare", figures=(), plots=()))


def test_the_page_of_a_calibration_is_complete_and_self_contained() -> None:
    made = rich_calibration()
    content = calibration_page(made)
    reader = read_page(content)
    plots = [plot for step in made.steps.values() for plot in step.plots]
    assert reader.labels == [plot.title for plot in plots]
    assert "".join(reader.texts["figcaption"]) == "".join(plot.title for plot in plots)
    assert len(reader.ids) == len(set(reader.ids)), "two parts have one name"
    for link in reader.links:
        assert link.startswith("data:image/png;base64,") or link[1:] in reader.ids, link
    for word in ("http:", "https:", "//", "@import", "<script", "<link", "<iframe"):
        assert word not in re.sub('base64,[^"]*', "", content), word
    cells = reader.texts["td"]
    for text in ("SIMULATED", "1,080", "2.346", "0.012", "e/count", NASTY):
        assert text in cells or any(text in part for part in (*cells, *reader.texts["p"])), text
    assert NASTY in reader.texts["li"] and NASTY in reader.texts["text"]


def test_the_picture_of_a_map_is_the_map() -> None:
    # otherwise a page with blank or wrong pictures would pass
    values = np.zeros((20, 30))
    values[3, 7] = 1.0
    held = calibration(step(arrays={"map": values}))
    pictures = re.findall(r'base64,([^"]*)"', calibration_page(held))
    sizes = []
    for picture in pictures:
        content = base64.b64decode("".join(picture.split()))
        assert content.startswith(b"\x89PNG")
        sizes.append(struct.unpack(">II", content[16:24]))
    assert (30, 20) in sizes
    matplotlib_image = pytest.importorskip("matplotlib.image")
    from io import BytesIO

    picture = pictures[sizes.index((30, 20))]
    pixels = matplotlib_image.imread(BytesIO(base64.b64decode("".join(picture.split()))), "png")
    pixels = pixels if pixels[3, 7, 0] != pixels[16, 7, 0] else pixels[::-1]
    bright = pixels[..., :3].sum(axis=2) > 1.5
    assert np.argwhere(bright).tolist() in ([[3, 7]], [[16, 7]])


# --- the command ----------------------------------------------------------------------------------


def test_report_takes_a_bench_file_or_a_calibration(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        read_back(bench)
    ended = called(tmp_path, "report", "bench.toml")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip() == "wrote bench.calibration.html"
    ended = called(tmp_path, "report", "bench.calibration.json", "--output", "other.html")
    assert ended.returncode == 0
    one, other = (
        (tmp_path / n).read_text("utf-8") for n in ("bench.calibration.html", "other.html")
    )
    assert one == other and "Dark counts" in one
    read_page(one)


def test_a_report_that_fails_is_one_sentence(tmp_path: Path) -> None:
    write_bench(tmp_path, calibration=None)
    ended = called(tmp_path, "report", "bench.toml")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "no calibration file bench.calibration.json" in ended.stderr
    calibration().write(tmp_path / "bench.calibration.json")
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "matplotlib.py").write_text("raise ImportError('not here')", encoding="utf-8")
    ended = started(tmp_path, "report", "bench.toml", PYTHONPATH=str(fake))
    assert ended.returncode == 2 and "pip install 'lightloom[report]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    ended = called(tmp_path, "report", "bench.toml", "--output", tmp_path / "no" / "page.html")
    assert ended.returncode == 2 and "cannot write" in ended.stderr


def test_the_reference_names_every_key(tmp_path: Path) -> None:
    with opened(tmp_path) as bench:
        read_back(bench)
    header = json.loads((tmp_path / "bench.calibration.json").read_text("utf-8"))
    page = Path(__file__).parents[1] / "docs" / "reference" / "calibration-file.md"
    text = page.read_text(encoding="utf-8")
    described = set(re.findall(r"`([^`]*)`", text))
    for model in re.findall(r"calibration_file:(\w+)", text):  # tables that the site shows
        described |= {key.name for key in keys_of(getattr(calibration_file, model))}
    (one,) = header["steps"]
    keys = {*header, *header["data"], *header["binding"]}
    keys |= {*one, *one["figures"][0], *one["plots"][0], *one["arrays"][0]}
    for table in header["binding"]["instruments"].values():
        keys |= set(table)
    assert keys <= described, keys - described
