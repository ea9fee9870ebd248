"""What a bench does about faults: as its file says, counted, bounded, and never a wrong number."""

from __future__ import annotations

import contextlib
import itertools
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from lightloom.backends.bench import BenchBackend, example_file, load_bench, safety
from lightloom.backends.bench import shots as shots_module
from lightloom.backends.bench.decoding import chi_square_limit
from lightloom.backends.bench.policy import DEFAULTS, KINDS, Policy
from lightloom.backends.bench.recorder import QUALITY
from lightloom.backends.bench.shots import TileJob
from lightloom.backends.calibration import align, calibrate, store
from lightloom.benchmarks.campaign import Outcome, Watch
from lightloom.instruments import (
    Disconnected,
    InputError,
    InterlockOpen,
    Paused,
    WrongLight,
    WrongSum,
)
from lightloom.instruments.simulated import LightPath
from made_benches import LAYOUTS, Memory, bench_text, numbers

Make = Callable[..., BenchBackend]
SIZES = {"imaged": (6, 9, 20), "line": (2, 6, 30), "block": (2, 3, 16)}
LIGHT = {"imaged": "2e9", "line": "4e7", "block": "2e10"}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    opened: list[BenchBackend] = []

    def open_one(layout: str = "imaged", more: str = "", **changes: str) -> BenchBackend:
        path = tmp_path / f"bench{len(opened)}.toml"
        changes = {"electrons_per_pixel_j": LIGHT[layout], **changes}
        path.write_text(bench_text(layout, **changes) + more, encoding="utf-8")
        opened.append(BenchBackend(load_bench(path)))
        opened[-1].recorder = Memory()
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


def product(layout: str) -> tuple[np.ndarray, np.ndarray]:
    outputs, rows, length = SIZES[layout]
    return numbers(rows, length), numbers(outputs, length, seed=4)


def assert_right(backend: BenchBackend, layout: str) -> None:
    """Multiply: no output beyond 6 sigma of its own noise and grey steps (chance 1e-7 a test)."""
    x, w = product(layout)
    result = backend.matmul(x, w)
    assert result.variance is not None
    steps = 2 * np.sqrt(x.shape[1] / 12) / 255 * np.abs(x).max() * np.abs(w).max()
    sigma = np.sqrt(result.variance) + steps
    assert (np.abs(result.y - x @ w.T) < 6 * sigma).all()


def notes(backend: BenchBackend) -> list[tuple[str, str]]:
    assert isinstance(backend.recorder, Memory)
    return [(fault.kind, fault.remedy) for fault in backend.recorder.faults]


# --- the table -----------------------------------------------------------------------------------


def test_every_kind_has_remedies_and_ends_in_a_pause() -> None:
    assert set(DEFAULTS) == set(KINDS.values())
    policy = Policy({}, retries=2)
    for kind in DEFAULTS:
        used: Counter[str] = Counter()
        names = []
        while not names or names[-1] != "pause":
            names.append(policy.remedy(kind, used).name)
            used[kind] += 1
        assert len(names) < 10 and names.count("retry") <= 4
    assert policy.remedy("interlock", Counter()).name == "pause"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('faults__stale = "retry many"', "whole number"),
        ('faults__stale = "pray"', "is no remedy; remedies are retry"),
        ('faults__stale = "pause, retry"', "nothing comes after pause"),
        ('faults__stale = "wait 3 mW"', "want a number of s"),
        ('faults__stale = "wait"', "takes a time"),
        ('faults__stale = "retry 1000"', "more than 100"),
        ('faults__gremlin = "pause"', "gremlin is no kind of fault"),
        ('faults__interlock = "retry"', "re-armed on site"),
        ('faults__stale = "realign"', "nothing to measure"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(tmp_path: Path, line: str, words: str) -> None:
    key, value = line.split(" = ", 1)
    path = tmp_path / "bad.toml"
    path.write_text(bench_text(**{key: value}), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        load_bench(path)
    assert "bad.toml" in str(caught.value)


def test_an_error_knows_its_instrument_and_leaves_it_behind(make: Make) -> None:
    # one that goes to another process cannot take a device along
    backend = make()
    backend.open()
    backend.bench.camera.unplug()  # type: ignore[attr-defined]
    with pytest.raises(Disconnected) as caught:
        backend.bench.camera.arm()
    assert caught.value.instrument is backend.bench.camera
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.instrument is None and str(again) == str(caught.value)
    paused = pickle.loads(pickle.dumps(Paused("no", "stale", "camera", "look")))
    assert (paused.kind, paused.device, paused.advice) == ("stale", "camera", "look")


# --- remedies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("role", ["input", "weight", "detector"])
def test_a_device_that_was_unplugged_is_connected_again(make: Make, layout: str, role: str) -> None:
    at = 2 if role == "weight" else 3
    backend = make(
        layout, **{f"instruments__{role}__faults": f'[{{ kind = "lost", at = [{at}] }}]'}
    )
    assert_right(backend, layout)
    assert backend.remedies == {"reconnect": 1} and backend.lost_s >= 0
    assert notes(backend) == [("disconnected", "reconnect")]
    assert isinstance(backend.recorder, Memory)
    assert backend.recorder.faults[0].device == f"instruments.{role}"


def test_a_source_that_was_lost_emits_again_and_one_that_tripped_does_not(make: Make) -> None:
    # a loss of connection is no reason to stay dark; a trip is none to emit
    ask = '[[suspend]]\nwhat = "interlock"\nevery = "0 s"\n'
    backend = make(more=ask, instruments__source__faults='[{ kind = "lost", at = [3] }]')
    assert_right(backend, "imaged")
    assert notes(backend)[0] == ("disconnected", "reconnect")
    backend = make(more=ask, instruments__source__faults='[{ kind = "tripped", at = [3] }]')
    with pytest.raises(Paused, match="re-arm the source on site") as caught:
        assert_right(backend, "imaged")
    assert caught.value.kind == "interlock" and notes(backend) == [("interlock", "pause")]
    assert backend.bench.world is not None and backend.bench.world.power_w == 0
    with pytest.raises(InterlockOpen, match="latched off"):
        BenchBackend(load_bench(backend.bench.path)).open()
    safety.rearm(backend.bench.path)
    again = BenchBackend(load_bench(backend.bench.path))
    with again.bench:
        again.bench.source.rearm()  # type: ignore[attr-defined]


def test_darkness_in_the_middle_is_an_interlock_and_no_reason_to_retry(make: Make) -> None:
    backend = make(instruments__source__faults='[{ kind = "tripped", at = [2] }]')
    backend.open()
    assert backend.bench.world is not None
    backend.bench.source._tripped = True  # type: ignore[attr-defined]
    backend.bench.source._disable()
    with pytest.raises(Paused, match="the interlock is open"):
        assert_right(backend, "imaged")
    assert notes(backend) == [("interlock", "pause")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_host_computes_what_light_does_not_give(make: Make, layout: str) -> None:
    backend = make(
        layout,
        faults__timeout='"host"',
        instruments__detector__faults='[{ kind = "silent", at = [3, 5] }]',
    )
    assert_right(backend, layout)
    assert backend.remedies == {"host": 2}
    backend.profile  # noqa: B018 (what a report asks for)
    assert any("2 were computed by the host" in remark for remark in backend.remarks)


def test_what_is_skipped_is_marked_and_as_if_dark(make: Make) -> None:
    backend = make(
        faults__timeout='"skip"', instruments__detector__faults='[{ kind = "silent", rate = 1.0 }]'
    )
    x, w = product("imaged")
    result = backend.matmul(x, w)
    assert result.stats.marked == result.stats.shots > 0
    assert np.abs(result.y).max() < 0.02 * np.abs(x @ w.T).max()
    backend.profile  # noqa: B018
    assert any("MARKED" in remark for remark in backend.remarks)


def test_waiting_takes_the_bench_s_time(make: Make) -> None:
    backend = make(
        faults__incomplete='"wait 7 s, pause"',
        instruments__detector__faults='[{ kind = "incomplete", at = [3] }]',
    )
    assert_right(backend, "imaged")
    assert backend.remedies == {"wait": 1} and 7 <= backend.lost_s < 8


def test_somebody_who_holds_a_device_is_waited_for(make: Make) -> None:
    faults = '[{ kind = "lost", at = [4] }, { kind = "held", at = [2, 3] }]'
    backend = make(instruments__detector__faults=faults)
    assert_right(backend, "imaged")
    assert {kind for kind, _ in notes(backend)} == {"disconnected", "in-use"}
    assert backend.remedies["reconnect"] <= 3 and backend.remedies["wait"] == 1


def test_nothing_is_tried_for_ever(make: Make) -> None:
    # each shot goes through each list once, whatever comes together
    faults = ", ".join(
        f'{{ kind = "{kind}", rate = 0.5, seed = {seed} }}'
        for seed, kind in enumerate(("silent", "incomplete", "stale", "overflow", "garbage"))
    )
    backend = make(
        instruments__detector__faults=f"[{faults}]",
        instruments__input__faults='[{ kind = "frozen", rate = 0.5 }]',
        limits__retries="2",
    )
    with pytest.raises(Paused) as caught:
        for _ in range(20):
            assert_right(backend, "imaged")
    assert "tried: " in str(caught.value) and "the bench is safe" in str(caught.value)
    assert backend.bench.world is not None and backend.bench.world.power_w == 0
    with pytest.raises(Paused):  # whoever comes later hears why, too
        assert backend.shots is not None
        backend.shots.run(TileJob("later", 1, 1, lambda _: None, lambda _: None))  # type: ignore[arg-type,return-value]


# --- pairs ---------------------------------------------------------------------------------------

_STRIKES = {
    "imaged": [
        ("input", "frozen"),
        ("input", "late"),
        ("input", "silent"),
        ("input", "lost"),
        ("weight", "frozen"),
        ("weight", "lost"),
        ("detector", "dropped"),
        ("detector", "incomplete"),
        ("detector", "stale"),
        ("detector", "silent"),
        ("detector", "overflow"),
        ("detector", "garbage"),
        ("detector", "lost"),
    ],
    "block": [
        ("input", "frozen"),
        ("input", "lost"),
        ("weight", "frozen"),
        ("weight", "silent"),
        ("detector", "silent"),
        ("detector", "lost"),
    ],
}
_STRIKES["line"] = _STRIKES["imaged"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_of_faults_leave_no_wrong_number(make: Make, layout: str) -> None:
    # the second one strikes what is done about the first
    chance = np.random.Generator(np.random.Philox(11))
    pairs = list(itertools.combinations(_STRIKES[layout], 2))
    chosen = chance.choice(len(pairs), min(12, len(pairs)), replace=False)
    for number in chosen:
        first = int(chance.integers(3, 6))
        changes: dict[str, str] = {}
        for step, (role, kind) in enumerate(pairs[number]):
            at = max(first - 2, 2) if role == "weight" else first
            key = f"instruments__{role}__faults"
            fault = f'{{ kind = "{kind}", at = [{at + step}], delay_s = 0.003 }}'
            changes[key] = changes.get(key, "[").rstrip("]") + f"{fault}, ]"
        backend = make(layout, **changes)
        assert_right(backend, layout)
        backend.close()


def wrong_numbers(backend: BenchBackend, layout: str, rows: int = 12) -> tuple[int, int]:
    """Multiply, many inputs; give the wrong numbers that left a shot, and the shots repeated."""
    outcome = Outcome()
    Watch(backend, outcome)
    outputs, _, length = SIZES[layout]
    with contextlib.suppress(Paused):
        backend.matmul(numbers(rows, length), numbers(outputs, length, seed=4))
    backend.close()
    return outcome.wrong, sum(backend.faults.values())


@pytest.mark.parametrize("layout", ["imaged", "block"])
@pytest.mark.parametrize(("role", "at"), [("input", 3), ("weight", 2), ("weight", 1)])
def test_an_exposure_that_sees_two_frames_gives_no_number(
    make: Make, layout: str, role: str, at: int
) -> None:
    # a frame that comes late, in the last tenth of an exposure, spoils numbers by a tenth
    repeated = 0
    for tenth in range(20):
        late = f'[{{ kind = "late", at = [{at}], delay_s = {0.002 + 2e-4 * tenth} }}]'
        backend = make(layout, **{f"instruments__{role}__faults": late})
        wrong, again = wrong_numbers(backend, layout, rows=4)
        assert wrong == 0, tenth
        repeated += again
    assert repeated > 20


@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_a_modulator_that_lags_behind_gives_no_wrong_number(
    make: Make, monkeypatch: pytest.MonkeyPatch, layout: str, lag: int
) -> None:
    # a driver with a queue shows each frame some frames later; markers of 2 bits repeat after four
    backend = make(layout)
    backend.open()
    world = backend.bench.world
    assert world is not None
    show, waiting, count = world.show, deque[tuple[str, np.ndarray, float]](), itertools.count()

    def lagging(role: str, levels: np.ndarray, from_s: float) -> None:
        if role != "input":
            show(role, levels, from_s)
            return
        waiting.append((role, levels, from_s))
        while len(waiting) > (lag if 8 <= next(count) < 40 else 0):
            held = waiting.popleft()
            show(role, held[1], from_s)

    monkeypatch.setattr(world, "show", lagging)
    wrong, repeated = wrong_numbers(backend, layout)
    assert wrong == 0 and repeated > 3


def test_light_of_a_photodiode_that_changes_within_an_exposure_is_refused(make: Make) -> None:
    # it has no marker: what is unsteadier than noise is no number. 1e-4 of steady exposures are
    # refused: 0.3 of 3,000, more than 5 of which chance gives once in 10 million
    backend = make("block", electrons_per_pixel_j="1e11")
    backend.open()
    assert backend.shots is not None
    decoder, chance = backend.shots.decoder, np.random.Generator(np.random.Philox(3))
    electrons = 5e5 / 16
    noise = np.sqrt(electrons + decoder.optics.read_noise_e**2 / 16)
    steady = electrons + noise * chance.standard_normal((3000, 16))
    moving = steady[:100] * np.where(np.arange(16) < 5, 1.0, 0.5)

    def refused(samples: np.ndarray) -> int:
        count = 0
        for window in samples / decoder.optics.gain_e_per_count:
            try:
                decoder._check_steady(window)
            except WrongLight:
                count += 1
        return count

    assert refused(steady) <= 5
    assert refused(moving) == len(moving)


# --- who is to blame -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("blamed", "role", "kind"),
    [
        ("input", "input", "frozen"),
        ("weight", "weight", "frozen"),
        ("detector", "detector", "stale"),
    ],
)
def test_a_lasting_fault_is_bisected_to_its_device(
    make: Make, layout: str, blamed: str, role: str, kind: str
) -> None:
    if layout == "block" and kind == "stale":
        pytest.skip("a photodiode has no frames")
    fault = f'[{{ kind = "{kind}", at = {list(range(4, 400))} }}]'
    # connecting a detector anew makes its next frame fresh, which would hide that it is stale
    changes = {f"instruments__{role}__faults": fault, "faults__stale": '"retry, pause"'}
    backend = make(layout, **changes)
    with pytest.raises(Paused) as caught:
        for _ in range(4):
            assert_right(backend, layout)
    assert caught.value.device == f"instruments.{blamed}", str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_beam_that_is_blocked_is_no_modulator_s_fault(make: Make, layout: str) -> None:
    backend = make(layout)
    backend.open()
    world = backend.bench.world
    assert world is not None
    world.options = world.options.model_copy(update={"covered": True})
    with pytest.raises(Paused, match="no light arrives") as caught:
        assert_right(backend, layout)
    assert caught.value.device == "instruments.source"


# --- plausibility --------------------------------------------------------------------------------


def test_a_dark_level_that_moves_is_noticed(make: Make) -> None:
    # an offset of some counts in every pixel is a number in every slot, and no marker says so
    backend = make("line")
    assert_right(backend, "line")
    assert isinstance(backend.recorder, Memory)
    dark = np.concatenate([s.quality[:, QUALITY.index("dark")] for s in backend.recorder.segments])
    assert np.isfinite(dark).all() and np.abs(dark).max() < 6
    camera = backend.bench.camera
    assert camera.offset_counts is not None
    camera.offset_counts += 0.8
    with pytest.raises(Paused, match="dark level"):
        assert_right(backend, "line")


def test_more_light_than_elements_pass_is_no_number(make: Make) -> None:
    backend = make()
    backend.open()
    assert backend.shots is not None
    decoder = backend.shots.decoder
    most = decoder.passed_e_most()
    decoder._check_possible(most)
    decoder._check_possible(np.zeros(len(most)))
    for wrong in (1.2 * most, -0.2 * most):
        with pytest.raises(WrongLight, match="its elements pass"):
            decoder._check_possible(np.where(np.arange(len(most)) == 3, wrong, most / 2))


@pytest.mark.parametrize("layout", ["imaged", "line"])
def test_references_are_woven_in_and_tell_a_slot_that_changed(
    make: Make, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    # a speck of dust on one slot dims it for ever, and no marker sees it. By chance a reference is
    # refused once in a million
    from lightloom.backends.bench import backend as backend_module

    monkeypatch.setattr(backend_module, "_REFERENCE_EVERY", 4)
    backend = make(layout, electrons_per_pixel_j="4e8" if layout == "line" else "2e9")
    assert_right(backend, layout)
    assert backend.references >= 2 and backend.faults == {}
    world = backend.bench.world
    assert world is not None and backend.shots is not None
    even = world._evenness()
    even[backend.layout.elements // backend.layout.length == 1] *= 0.7
    world._pictures.clear()
    with pytest.raises(Paused, match=r"reference shot .* slot [01] "):
        for _ in range(8):
            assert_right(backend, layout)


def test_the_limit_of_chi_square_is_one_in_a_million() -> None:
    # scipy's chi2.isf(1e-6, f)
    for freedom, wanted in ((1, 23.93), (10, 48.28), (100, 180.79), (1000, 1234.9)):
        assert chi_square_limit(freedom) == pytest.approx(wanted, rel=0.2 if freedom == 1 else 0.03)


# --- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wrong_sum_of_a_whole_weight_frame_takes_its_shots_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    # which of them is wrong nobody knows; those of other weights stay
    monkeypatch.setattr(shots_module, "SEGMENT", 4)
    backend = make(layout)
    backend.open()
    slots, length = backend.layout.slots, backend.layout.length
    rows = 1 if backend.layout.shares_input else slots
    seen: list[tuple[int, int]] = []

    def check(weight: int, vector: int, electrons: np.ndarray) -> float:
        seen.append((weight, vector))
        if len(seen) in (2, 11):  # a shot, and the last of the second weight frame
            raise WrongSum("wrong", "shot" if len(seen) == 2 else "tile")
        return 1.5

    level = {role: backend.curves[role].levels(np.array([[0.2]]))[0, 0] for role in backend.curves}
    dtype = np.uint8
    job = TileJob(
        "sums",
        2,
        5,
        lambda tile: np.full((slots, length), level["weight"], dtype),
        lambda vector: np.full((rows, length), level["input"], dtype),
        check=check,
    )
    result = backend.submit(job).result()
    assert backend.faults == {"wrong-sum": 6} and result.stats.retries == 6
    again = [vector for weight, vector in seen[11:] if weight == 1]
    assert len(seen[11:]) == 5 == len(again) and set(again) == set(range(5))
    assert isinstance(backend.recorder, Memory)
    kept = backend.recorder.known("sums")
    assert kept is not None
    places = backend.shots.plan.visited(job, 10)  # type: ignore[union-attr]
    np.testing.assert_array_equal(result.electrons[places[:, 0], places[:, 1]], kept.electrons)
    checksum = backend.recorder.segments[-1].quality[:, QUALITY.index("checksum")]
    assert (checksum[np.isfinite(checksum)] == 1.5).all()


# --- monitors ------------------------------------------------------------------------------------

_WARM = """
[instruments.monitor]
driver = "simulated-thermometer"
excursions = [{ from_s = 0.01, until_s = 120.0, factor = 2.0 }]

[[suspend]]
what = "monitor"
scale = 100.0
low = 15.0
high = 30.0
every = "10 ms"
back_for = "5 s"
"""
_TIRED = """
[instruments.power_meter]
driver = "simulated-power-meter"
excursions = [{ from_s = 0.01, factor = 0.5 }]

[[suspend]]
what = "power_meter"
low = "0.9 mW"
every = "10 ms"
at_most = "60 s"
"""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_warm_room_suspends_a_run_until_it_is_cool_again(
    make: Make, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(shots_module, "SEGMENT", 4)
    backend = make(layout, more=_WARM)
    start_s = backend.clock.now_s()
    assert_right(backend, layout)
    assert 124 < backend.clock.now_s() - start_s < 135
    assert set(backend.faults) == {"suspended"} and 1 <= backend.faults["suspended"] <= 4
    assert notes(backend) == [("suspended", "wait")]
    attempts = np.concatenate(
        [s.quality[:, QUALITY.index("attempts")] for s in backend.recorder.segments]  # type: ignore[union-attr]
    )
    assert (attempts == 2).sum() == backend.faults["suspended"]


def test_a_source_that_stays_tired_pauses_the_run(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shots_module, "SEGMENT", 4)
    backend = make(more=_TIRED)
    with pytest.raises(Paused, match=r"power_meter read 0\.0005, outside 0\.0009") as caught:
        assert_right(backend, "imaged")
    assert caught.value.kind == "suspended"
    assert backend.bench.world is not None and backend.bench.world.power_w == 0


def test_a_monitor_that_does_not_answer_pauses_the_run(make: Make) -> None:
    silent = _TIRED.replace('meter"\n', 'meter"\nfaults = [{ kind = "silent", rate = 1.0 }]\n', 1)
    backend = make(more=silent)
    with pytest.raises(Paused, match=r"instruments\.power_meter"):
        assert_right(backend, "imaged")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('what = "monitor"\nhigh = 3.0', "there is no instruments.monitor"),
        ('what = "moon"\nhigh = 3.0', "suspend.0.what"),
        ('what = "interlock"\ncolour = 1', "colour"),
    ],
)
def test_a_suspender_that_cannot_be_asked_is_refused(
    tmp_path: Path, table: str, words: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(bench_text() + f"\n[[suspend]]\n{table}\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        load_bench(path)


# --- a photodiode, whose light references alone tell --------------------------------------------


def _dim(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """Halve the light of some exposures of a photodiode, counted from 1."""
    see, count = LightPath.on_photodiode, itertools.count(1)

    def seen(self: LightPath, *at: Any) -> float:
        return see(self, *at) * (0.5 if first <= next(count) <= last else 1.0)

    monkeypatch.setattr(LightPath, "on_photodiode", seen)


def test_dim_shots_between_two_references_are_taken_again(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a reference, 9 inputs by 4 rails, and a reference, which meets dim light once
    backend = make("block")
    backend.open()
    _dim(monkeypatch, 5, 1 + 9 * 4 + 1)
    x, w = np.abs(product("block")[0].repeat(3, axis=0)), product("block")[1]
    result = backend.matmul(x, w)
    assert result.variance is not None
    steps = 2 * np.sqrt(x.shape[1] / 12) / 255 * np.abs(x).max() * np.abs(w).max()
    assert (np.abs(result.y - x @ w.T) < 6 * (np.sqrt(result.variance) + steps)).all()
    assert backend.faults == {"wrong-light": 9 * 4 + 1}


def test_dim_shots_that_were_kept_are_forgotten(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shots_module, "SEGMENT", 8)
    backend = make("block")
    backend.open()
    _dim(monkeypatch, 5, 10_000)
    x, w = np.abs(product("block")[0].repeat(6, axis=0)), product("block")[1]
    with pytest.raises(Paused, match="wrong-light"):
        backend.matmul(x, w)
    assert isinstance(backend.recorder, Memory)
    assert backend.recorder.segments == []  # two were kept before the next reference told


def test_a_guess_asks_no_reference(tmp_path: Path) -> None:
    # how bright a photodiode's light should be nobody knows before it is calibrated
    path = tmp_path / "bench.toml"
    path.write_text(example_file("block", tiny=True, as_found=True), encoding="utf-8")
    backend = BenchBackend(load_bench(path), uncalibrated=True)
    try:
        assert np.isfinite(backend.matmul(*product("block")).y).all()
        assert backend.references == 0 and backend.faults == {}
    finally:
        backend.close()


# --- measured anew -------------------------------------------------------------------------------


@pytest.mark.parametrize("remedy", ["realign", "recalibrate"])
def test_a_bench_is_measured_anew_and_its_products_begin_again(tmp_path: Path, remedy: str) -> None:
    # numbers laid out for the bench as it was, and light of the bench as it is, do not go together
    path = tmp_path / "bench.toml"
    text = example_file("imaged", tiny=True, as_found=True, seed=3)
    path.write_text(text, encoding="utf-8")
    bench = load_bench(path)
    with bench:
        store(bench, align(bench))
    calibrate(bench)
    fault = 'faults = [{ kind = "garbage", at = [9] }]'
    text = text.replace('driver = "simulated-camera"', f'driver = "simulated-camera"\n{fault}')
    text = text.replace("[faults]", f'[faults]\nwrong-light = "{remedy}, pause"')
    path.write_text(text, encoding="utf-8")
    backend = BenchBackend(load_bench(path))
    memory = backend.recorder = Memory()
    x, w = numbers(30, 20), numbers(6, 20, seed=4)
    try:
        backend.open()
        ends: list[Event] = [Event() for _ in range(3)]
        waits = [backend.begin(x, w, done=end.set) for end in ends]  # some wait in the queue
        found = []
        for wait, end in zip(waits, ends, strict=True):
            found.append(wait())
            assert end.wait(timeout=10)
        remarks = backend.remarks
    finally:
        backend.close()
    exact = x @ w.T
    for result in found:
        assert result.variance is not None
        z = (result.y - exact) / np.sqrt(result.variance)
        assert np.sqrt(np.mean(z**2)) < 2  # grey steps and calibration add to noise
    assert backend.remedies == {remedy: 1}
    assert [(fault.kind, fault.remedy) for fault in memory.faults] == [("wrong-light", remedy)]
    assert {s.job.split("/")[1] for s in memory.segments if s.is_last} >= {"0.1"}
    assert any(remedy in remark for remark in remarks) or not remarks
