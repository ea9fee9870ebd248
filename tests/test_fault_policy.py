"""Recoveries from faults: as the bench file says, counted, bounded, and without wrong numbers."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import shutil
from collections import Counter, deque
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from bench_factory import (
    LAYOUTS,
    BenchMaker,
    change_bench,
    fault,
    load_example,
    numbers,
)
from lightloom.backends.bench import BenchBackend, load_bench, model_origin, safety, shot_plan
from lightloom.backends.bench.checkpoint import QUALITY
from lightloom.backends.bench.decoding import chi_square_limit
from lightloom.backends.bench.fault_policy import DEFAULTS, KINDS, FaultPolicy
from lightloom.backends.bench.shot_plan import TileJob
from lightloom.backends.optics.layouts.base import ImageReading
from lightloom.instruments import (
    ChecksumMismatch,
    Disconnected,
    InputError,
    InterlockOpen,
    Paused,
    UnexpectedIntensity,
)
from lightloom.instruments.simulated import LightPath
from memory_journal import Memory
from robustness.fault_campaign import Outcome, Watch

SIZES = {"imaged": (6, 9, 20), "line": (2, 6, 30), "single-pixel": (2, 3, 16)}
LIGHT = {"imaged": 2e9, "line": 4e7, "single-pixel": 2e10}  # electrons per pixel and J


def recorded(make_bench: BenchMaker, layout: str = "imaged", /, **changes: Any) -> BenchBackend:
    """Return a bench with enough light, whose segments and faults are recorded in memory."""
    changes = {"world__electrons_per_pixel_j": LIGHT[layout], **changes}
    backend = make_bench(layout, **changes)
    backend.recorder = Memory()
    return backend


def product(layout: str) -> tuple[np.ndarray, np.ndarray]:
    outputs, rows, length = SIZES[layout]
    return numbers(rows, length), numbers(outputs, length, seed=4)


def assert_right(backend: BenchBackend, layout: str) -> None:
    """Assert that outputs are within 6 sigma of noise and grey-level steps (chance 1e-7 a test)."""
    x, w = product(layout)
    result = backend.matmul(x, w)
    assert result.variance is not None
    steps = 2 * np.sqrt(x.shape[1] / 12) / 255 * np.abs(x).max() * np.abs(w).max()
    sigma = np.sqrt(result.variance) + steps
    assert (np.abs(result.y - x @ w.T) < 6 * sigma).all()


def notes(backend: BenchBackend) -> list[tuple[str, str]]:
    assert isinstance(backend.recorder, Memory)
    return [(note.kind, note.recovery) for note in backend.recorder.faults]


# --- the table -----------------------------------------------------------------------------------


def test_every_kind_has_recoveries_and_ends_in_a_pause() -> None:
    assert set(DEFAULTS) == set(KINDS.values())
    policy = FaultPolicy({}, retries=2)
    for kind in DEFAULTS:
        used: Counter[str] = Counter()
        names = []
        while not names or names[-1] != "pause":
            names.append(policy.recovery(kind, used).name)
            used[kind] += 1
        assert len(names) < 10 and names.count("retry") <= 4
    assert policy.recovery("interlock", Counter()).name == "pause"


@pytest.mark.parametrize(
    ("kind", "recoveries", "words"),
    [
        ("stale", "retry many", "whole number"),
        ("stale", "pray", "is not a recovery; recoveries are retry"),
        ("stale", "pause, retry", "nothing comes after pause"),
        ("stale", "wait 3 mW", "give a number of s"),
        ("stale", "wait", "takes a time"),
        ("stale", "retry 1000", "more than 100"),
        ("gremlin", "pause", "gremlin is not a kind of fault"),
        ("interlock", "retry", "re-armed on site"),
        ("stale", "realign", "nothing to measure"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(
    tmp_path: Path, kind: str, recoveries: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_example(tmp_path / "bad.toml", **{f"faults__{kind}": recoveries})
    assert "bad.toml" in str(caught.value)


def test_an_error_knows_its_instrument_and_leaves_it_behind(make_bench: BenchMaker) -> None:
    # an error that is sent to another process cannot include a device
    backend = recorded(make_bench)
    backend.open()
    backend.bench.camera.unplug()  # type: ignore[attr-defined]
    with pytest.raises(Disconnected) as caught:
        backend.bench.camera.arm()
    assert caught.value.instrument is backend.bench.camera
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.instrument is None and str(again) == str(caught.value)
    paused = pickle.loads(pickle.dumps(Paused("no", "stale", "camera", "look")))
    assert (paused.kind, paused.device, paused.advice) == ("stale", "camera", "look")


# --- recoveries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("role", ["input", "weight", "detector"])
def test_a_device_that_was_unplugged_is_connected_again(
    make_bench: BenchMaker, layout: str, role: str
) -> None:
    at = 2 if role == "weight" else 3
    faults = {f"instruments__{role}__faults": fault("lost", [at])}
    backend = recorded(make_bench, layout, **faults)
    assert_right(backend, layout)
    assert backend.recoveries == {"reconnect": 1} and backend.counts.lost_s >= 0
    assert notes(backend) == [("disconnected", "reconnect")]
    assert isinstance(backend.recorder, Memory)
    assert backend.recorder.faults[0].device == f"instruments.{role}"


def test_a_source_that_was_lost_emits_again_and_one_that_tripped_does_not(
    make_bench: BenchMaker,
) -> None:
    # after a lost connection a source may emit again; after a trip it must not
    ask = [{"what": "interlock", "every": "0 s"}]
    lost, tripped = fault("lost", [3]), fault("tripped", [3])
    backend = recorded(make_bench, suspend=ask, instruments__source__faults=lost)
    assert_right(backend, "imaged")
    assert notes(backend)[0] == ("disconnected", "reconnect")
    backend = recorded(make_bench, suspend=ask, instruments__source__faults=tripped)
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


def test_a_source_that_trips_during_a_run_is_an_interlock_fault_and_not_retried(
    make_bench: BenchMaker,
) -> None:
    backend = recorded(make_bench, instruments__source__faults=fault("tripped", [2]))
    backend.open()
    assert backend.bench.world is not None
    backend.bench.source.trip()  # type: ignore[attr-defined]
    with pytest.raises(Paused, match="the interlock is open"):
        assert_right(backend, "imaged")
    assert notes(backend) == [("interlock", "pause")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_host_computes_shots_without_an_exposure(make_bench: BenchMaker, layout: str) -> None:
    backend = recorded(
        make_bench,
        layout,
        faults__timeout="host",
        instruments__detector__faults=fault("silent", [3, 5]),
    )
    assert_right(backend, layout)
    assert backend.recoveries == {"host": 2}
    backend.profile  # noqa: B018 (what a report asks for)
    assert any("2 were computed by the host" in remark for remark in backend.remarks)


def test_a_skipped_shot_is_marked_and_has_the_numbers_of_a_dark_tile(
    make_bench: BenchMaker,
) -> None:
    backend = recorded(
        make_bench,
        faults__timeout="skip",
        instruments__detector__faults=fault("silent", rate=1.0),
    )
    x, w = product("imaged")
    result = backend.matmul(x, w)
    assert result.stats.marked == result.stats.shots > 0
    assert np.abs(result.y).max() < 0.02 * np.abs(x @ w.T).max()
    backend.profile  # noqa: B018
    assert any("MARKED" in remark for remark in backend.remarks)


def test_waiting_takes_the_bench_s_time(make_bench: BenchMaker) -> None:
    backend = recorded(
        make_bench,
        faults__incomplete="wait 7 s, pause",
        instruments__detector__faults=fault("incomplete", [3]),
    )
    assert_right(backend, "imaged")
    assert backend.recoveries == {"wait": 1} and 7 <= backend.counts.lost_s < 8


def test_a_held_device_is_waited_for(make_bench: BenchMaker) -> None:
    faults = fault("lost", [4]) + fault("held", [2, 3])
    backend = recorded(make_bench, instruments__detector__faults=faults)
    assert_right(backend, "imaged")
    assert {kind for kind, _ in notes(backend)} == {"disconnected", "in-use"}
    assert backend.recoveries["reconnect"] <= 3 and backend.recoveries["wait"] == 1


def test_recoveries_are_bounded(make_bench: BenchMaker) -> None:
    # each shot uses the list of each kind once, for every combination of faults
    kinds = ("silent", "incomplete", "stale", "overflow", "garbage")
    faults = [{"kind": kind, "rate": 0.5, "seed": seed} for seed, kind in enumerate(kinds)]
    backend = recorded(
        make_bench,
        instruments__detector__faults=faults,
        instruments__input__faults=fault("frozen", rate=0.5),
        limits__retries=2,
    )
    with pytest.raises(Paused) as caught:
        for _ in range(20):
            assert_right(backend, "imaged")
    assert "tried: " in str(caught.value) and "the bench is safe" in str(caught.value)
    assert backend.bench.world is not None and backend.bench.world.power_w == 0
    with pytest.raises(Paused):  # later jobs get the same reason
        backend.setup.runner.run(TileJob("later", 1, 1, lambda _: None, lambda _: None))  # type: ignore[arg-type,return-value]


# --- pairs ---------------------------------------------------------------------------------------

_FAULTS = {
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
    "single-pixel": [
        ("input", "frozen"),
        ("input", "lost"),
        ("weight", "frozen"),
        ("weight", "silent"),
        ("detector", "silent"),
        ("detector", "lost"),
    ],
}
_FAULTS["line"] = _FAULTS["imaged"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_of_faults_leave_no_wrong_number(make_bench: BenchMaker, layout: str) -> None:
    # the second fault occurs during the recovery from the first
    chance = np.random.Generator(np.random.Philox(11))
    pairs = list(itertools.combinations(_FAULTS[layout], 2))
    chosen = chance.choice(len(pairs), min(12, len(pairs)), replace=False)
    for number in chosen:
        first = int(chance.integers(3, 6))
        changes: dict[str, list[dict[str, Any]]] = {}
        for step, (role, kind) in enumerate(pairs[number]):
            at = max(first - 2, 2) if role == "weight" else first
            faults = changes.setdefault(f"instruments__{role}__faults", [])
            faults += fault(kind, [at + step], delay_s=0.003)
        backend = recorded(make_bench, layout, **changes)
        assert_right(backend, layout)
        backend.close()


def wrong_numbers(backend: BenchBackend, layout: str, rows: int = 12) -> tuple[int, int]:
    """Multiply many inputs; return the number of wrong shots, and of retries."""
    outcome = Outcome()
    Watch(backend, outcome)
    outputs, _, length = SIZES[layout]
    with contextlib.suppress(Paused):
        backend.matmul(numbers(rows, length), numbers(outputs, length, seed=4))
    backend.close()
    return outcome.wrong, sum(backend.faults.values())


@pytest.mark.parametrize(
    ("layout", "role", "at"),
    [
        ("imaged", "input", 3),
        ("single-pixel", "weight", 2),
        pytest.param("imaged", "weight", 2, marks=pytest.mark.slow),
        pytest.param("imaged", "weight", 1, marks=pytest.mark.slow),
        pytest.param("single-pixel", "input", 3, marks=pytest.mark.slow),
        pytest.param("single-pixel", "weight", 1, marks=pytest.mark.slow),
    ],
)
def test_an_exposure_of_two_frames_is_rejected(
    make_bench: BenchMaker, layout: str, role: str, at: int
) -> None:
    # a frame that is shown late, in the last tenth of an exposure, changes numbers by a tenth
    repeated = 0
    for tenth in range(20):
        late = fault("late", [at], delay_s=0.002 + 2e-4 * tenth)
        backend = recorded(make_bench, layout, **{f"instruments__{role}__faults": late})
        wrong, again = wrong_numbers(backend, layout, rows=4)
        assert wrong == 0, tenth
        repeated += again
    assert repeated > 20


@pytest.mark.parametrize("layout", ["imaged", "line"])
@pytest.mark.parametrize("lag", [1, 2, 3, 4])
def test_a_modulator_that_lags_behind_gives_no_wrong_number(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout: str, lag: int
) -> None:
    # a driver with a queue shows each frame some frames later; markers of 2 bits repeat after four
    backend = recorded(make_bench, layout)
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


def test_light_of_a_photodiode_that_changes_within_an_exposure_is_refused(
    make_bench: BenchMaker,
) -> None:
    # it has no marker, so samples that differ by more than noise are refused. Of steady exposures,
    # 1e-4 are refused: 0.3 of 3,000, and more than 5 of them once in 10 million
    backend = recorded(make_bench, "single-pixel", world__electrons_per_pixel_j=1e11)
    backend.open()
    decoder, chance = backend.setup.runner.decoder, np.random.Generator(np.random.Philox(3))
    electrons = 5e5 / 16
    noise = np.sqrt(electrons + decoder.optics.read_noise_e**2 / 16)
    steady = electrons + noise * chance.standard_normal((3000, 16))
    moving = steady[:100] * np.where(np.arange(16) < 5, 1.0, 0.5)

    def refused(samples: np.ndarray) -> int:
        count = 0
        for window in samples / decoder.optics.gain_e_per_count:
            try:
                decoder.bench.detector.check_steady(window[None], decoder.optics)
            except UnexpectedIntensity:
                count += 1
        return count

    assert refused(steady) <= 5
    assert refused(moving) == len(moving)


# --- diagnosis -----------------------------------------------------------------------------------


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
    make_bench: BenchMaker, layout: str, blamed: str, role: str, kind: str
) -> None:
    if layout == "single-pixel" and kind == "stale":
        pytest.skip("a photodiode has no frames")
    faults = {f"instruments__{role}__faults": fault(kind, range(4, 400))}
    # a reconnected detector gives a fresh frame, which would hide the stale ones
    backend = recorded(make_bench, layout, faults__stale="retry, pause", **faults)
    with pytest.raises(Paused) as caught:
        for _ in range(4):
            assert_right(backend, layout)
    assert caught.value.device == f"instruments.{blamed}", str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_blocked_beam_is_not_blamed_on_a_modulator(make_bench: BenchMaker, layout: str) -> None:
    backend = recorded(make_bench, layout)
    backend.open()
    world = backend.bench.world
    assert world is not None
    world.options = world.options.model_copy(update={"covered": True})
    with pytest.raises(Paused, match="no light arrives") as caught:
        assert_right(backend, layout)
    assert caught.value.device == "instruments.source"


# --- plausibility --------------------------------------------------------------------------------


def test_a_dark_level_that_moves_is_noticed(make_bench: BenchMaker) -> None:
    # an offset of some counts in every pixel changes every slot, and no marker shows it
    backend = recorded(make_bench, "line")
    assert_right(backend, "line")
    assert isinstance(backend.recorder, Memory)
    dark = np.concatenate([s.quality[:, QUALITY.index("dark")] for s in backend.recorder.segments])
    assert np.isfinite(dark).all() and np.abs(dark).max() < 6
    camera = backend.bench.camera
    assert camera.offset_counts is not None
    camera.offset_counts += 0.8
    with pytest.raises(Paused, match="dark level"):
        assert_right(backend, "line")


def test_more_light_than_elements_pass_is_refused(make_bench: BenchMaker) -> None:
    backend = recorded(make_bench)
    backend.open()
    decoder = backend.setup.runner.decoder
    most = decoder.model.passed_e_most()
    decoder.check_possible(most)
    decoder.check_possible(np.zeros(len(most)))
    for wrong in (1.2 * most, -0.2 * most):
        with pytest.raises(UnexpectedIntensity, match="its elements pass"):
            decoder.check_possible(np.where(np.arange(len(most)) == 3, wrong, most / 2))


@pytest.mark.parametrize("layout", ["imaged", "line"])
def test_references_detect_a_slot_that_changed(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    # a speck of dust dims one slot permanently, and no marker shows it. By chance a reference is
    # refused once in a million
    monkeypatch.setattr(model_origin, "REFERENCE_EVERY", 4)
    light = 4e8 if layout == "line" else 2e9
    backend = recorded(make_bench, layout, world__electrons_per_pixel_j=light)
    assert_right(backend, layout)
    assert backend.setup.references >= 2 and backend.faults == {}
    read = backend.optical_model.layout.read

    def dusty(taken: np.ndarray) -> ImageReading:
        found = read(taken)
        found.electrons[1] *= 0.7
        return found

    monkeypatch.setattr(backend.optical_model.layout, "read", dusty)
    with pytest.raises(Paused, match=r"reference shot .* slot [01], "):
        for _ in range(8):
            assert_right(backend, layout)


def test_the_limit_of_chi_square_is_one_in_a_million() -> None:
    # scipy's chi2.isf(1e-6, f)
    for freedom, wanted in ((1, 23.93), (10, 48.28), (100, 180.79), (1000, 1234.9)):
        assert chi_square_limit(freedom) == pytest.approx(wanted, rel=0.2 if freedom == 1 else 0.03)


# --- sums ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checksum_mismatch_of_a_weight_frame_takes_its_shots_again(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    # the wrong shot is unknown; shots of other weight frames stay
    monkeypatch.setattr(shot_plan, "SEGMENT", 4)
    backend = recorded(make_bench, layout)
    backend.open()
    slots, length = backend.optical_model.layout.slots, backend.optical_model.layout.length
    rows = 1 if backend.optical_model.layout.shares_input else slots
    seen: list[tuple[int, int]] = []

    def check(weight: int, vector: int, electrons: np.ndarray) -> float:
        seen.append((weight, vector))
        if len(seen) in (2, 11):  # a shot, and the last of the second weight frame
            raise ChecksumMismatch("wrong", "shot" if len(seen) == 2 else "tile")
        return 1.5

    level = {
        role: backend.optical_model.curves[role].levels(np.array([[0.2]]))[0, 0]
        for role in backend.optical_model.curves
    }
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
    assert backend.faults == {"checksum-mismatch": 6} and result.stats.retries == 6
    again = [vector for weight, vector in seen[11:] if weight == 1]
    assert len(seen[11:]) == 5 == len(again) and set(again) == set(range(5))
    assert isinstance(backend.recorder, Memory)
    kept = backend.recorder.known("sums")
    assert kept is not None
    places = job.visits[:10]
    np.testing.assert_array_equal(result.electrons[places[:, 0], places[:, 1]], kept.electrons)
    checksum = backend.recorder.segments[-1].quality[:, QUALITY.index("checksum")]
    assert (checksum[np.isfinite(checksum)] == 1.5).all()


# --- monitors ------------------------------------------------------------------------------------

_WARM = {
    "instruments__monitor": {
        "driver": "simulated-thermometer",
        "excursions": [{"from_s": 0.01, "until_s": 120.0, "factor": 2.0}],
    },
    "suspend": [
        {
            "what": "monitor",
            "scale": 100.0,
            "low": 15.0,
            "high": 30.0,
            "every": "10 ms",
            "back_for": "5 s",
        }
    ],
}
_DIM_SOURCE = {
    "instruments__power_meter": {
        "driver": "simulated-power-meter",
        "excursions": [{"from_s": 0.01, "factor": 0.5}],
    },
    "suspend": [{"what": "power_meter", "low": "0.9 mW", "every": "10 ms", "at_most": "60 s"}],
}


@pytest.mark.parametrize(
    "layout", ["imaged", "single-pixel", pytest.param("line", marks=pytest.mark.slow)]
)
def test_a_warm_room_suspends_a_run_until_it_is_cool_again(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setattr(shot_plan, "SEGMENT", 4)
    backend = recorded(make_bench, layout, **_WARM)
    start_s = backend.clock.now_s()
    assert_right(backend, layout)
    assert 124 < backend.clock.now_s() - start_s < 135
    assert set(backend.faults) == {"suspended"} and 1 <= backend.faults["suspended"] <= 4
    assert notes(backend) == [("suspended", "wait")]
    attempts = np.concatenate(
        [s.quality[:, QUALITY.index("attempts")] for s in backend.recorder.segments]  # type: ignore[union-attr]
    )
    assert (attempts == 2).sum() == backend.faults["suspended"]


def test_a_source_that_stays_dim_pauses_the_run(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shot_plan, "SEGMENT", 4)
    backend = recorded(make_bench, **_DIM_SOURCE)
    with pytest.raises(Paused, match=r"power_meter read 0\.0005, outside 0\.0009") as caught:
        assert_right(backend, "imaged")
    assert caught.value.kind == "suspended"
    assert backend.bench.world is not None and backend.bench.world.power_w == 0


def test_a_monitor_that_does_not_answer_pauses_the_run(make_bench: BenchMaker) -> None:
    silent = fault("silent", rate=1.0)
    backend = recorded(make_bench, **_DIM_SOURCE, instruments__power_meter__faults=silent)
    with pytest.raises(Paused, match=r"instruments\.power_meter"):
        assert_right(backend, "imaged")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"what": "monitor", "high": 3.0}, "there is no instruments.monitor"),
        ({"what": "moon", "high": 3.0}, "suspend.0.what"),
        ({"what": "interlock", "colour": 1}, "colour"),
    ],
)
def test_a_monitor_that_cannot_be_read_is_refused(
    tmp_path: Path, table: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        load_example(tmp_path / "bad.toml", suspend=[table])


# --- a photodiode, whose brightness only references measure --------------------------------------


def _dim(monkeypatch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """Halve the light of some exposures of a photodiode, counted from 1."""
    see, count = LightPath.on_photodiode, itertools.count(1)

    def seen(self: LightPath, *at: Any) -> float:
        return see(self, *at) * (0.5 if first <= next(count) <= last else 1.0)

    monkeypatch.setattr(LightPath, "on_photodiode", seen)


def test_dim_shots_between_two_references_are_taken_again(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a reference, 9 inputs by 4 rails, and a reference, which is dim once
    backend = recorded(make_bench, "single-pixel")
    backend.open()
    _dim(monkeypatch, 5, 1 + 9 * 4 + 1)
    x, w = np.abs(product("single-pixel")[0].repeat(3, axis=0)), product("single-pixel")[1]
    result = backend.matmul(x, w)
    assert result.variance is not None
    steps = 2 * np.sqrt(x.shape[1] / 12) / 255 * np.abs(x).max() * np.abs(w).max()
    assert (np.abs(result.y - x @ w.T) < 6 * (np.sqrt(result.variance) + steps)).all()
    assert backend.faults == {"unexpected-intensity": 9 * 4 + 1}


def test_dim_shots_that_were_recorded_are_deleted(
    make_bench: BenchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shot_plan, "SEGMENT", 8)
    backend = recorded(make_bench, "single-pixel")
    backend.open()
    _dim(monkeypatch, 5, 10_000)
    x, w = np.abs(product("single-pixel")[0].repeat(6, axis=0)), product("single-pixel")[1]
    with pytest.raises(Paused, match="unexpected-intensity"):
        backend.matmul(x, w)
    assert isinstance(backend.recorder, Memory)
    assert backend.recorder.segments == []  # two were recorded before the next reference


def test_an_uncalibrated_bench_takes_no_reference(make_bench: BenchMaker) -> None:
    # without a calibration, the expected brightness is unknown
    backend = make_bench("single-pixel", uncalibrated=True, as_found=True)
    assert np.isfinite(backend.matmul(*product("single-pixel")).y).all()
    assert backend.setup.references == 0 and backend.faults == {}


# --- recalibration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recovery", ["realign", pytest.param("recalibrate", marks=pytest.mark.slow)]
)
def test_a_bench_is_recalibrated_and_its_products_restart(
    tmp_path: Path, calibrated_folder: Path, recovery: str
) -> None:
    # frames for the old calibration and shots of the new one must not be mixed
    path = shutil.copytree(calibrated_folder, tmp_path / "calibrated") / "bench.toml"
    recoveries = {"faults__unexpected-intensity": f"{recovery}, pause"}
    change_bench(path, instruments__detector__faults=fault("garbage", [9]), **recoveries)
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
        # grey-level steps and calibration errors add to the noise: 0.95 to 1.09 over seeds
        assert np.sqrt(np.mean(z**2)) < 2
    assert backend.recoveries == {recovery: 1}
    assert [(note.kind, note.recovery) for note in memory.faults] == [
        ("unexpected-intensity", recovery)
    ]
    assert {s.job.split("/")[1] for s in memory.segments if s.is_last} >= {"0.1"}
    assert any(recovery in remark for remark in remarks) or not remarks
