"""Files, replies and arguments that nearly are what they should be are refused, or read rightly.

First what fuzzing has brought to light; then hypothesis makes inputs, and looks for the smallest
one that fails. The whole campaign is `python tests/robustness fuzz`.
"""

import json
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from bench_factory import bench_text, load_example, write_bench
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightloom.backends.bench import BenchBackend, load_bench
from lightloom.backends.bench.binding import begin_calibration
from lightloom.backends.calibration import align, calibrate, store
from lightloom.backends.optics.calibration_file import Calibration
from lightloom.instruments import InputError, ProtocolError, create
from lightloom.instruments.drivers.serial_daq import SerialDaq, framed, unframed
from lightloom.instruments.drivers.visa import numbers_in
from lightloom.models.families import llama, vit
from lightloom.models.tokenizer import read_tokenizer
from lightloom.scheduler.energy.constants import load_constants
from robustness.fuzz.campaign import TARGETS
from robustness.fuzz.trying import Target, WrongNumberError, attempt_once, fuzz
from scpi_devices import Device, Meter, Multimeter, RedPitaya, serve

# --- what was found ------------------------------------------------------------------------------

DEEP = f"{'[' * 30_000}{']' * 30_000}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"world__seed": True}, "world.seed = True is not usable: true and false"),
        ({"encoding__element_px": True}, "encoding.element_px = True"),
        ({"encoding__block": [True, 4]}, "encoding.block"),
        ({"limits__retries": False}, "limits.retries = False"),
        ({"world__extinction_ratio": math.inf}, "world.extinction_ratio = inf"),
        ({"instruments__source__driver": [1]}, r"unknown driver \[1\]"),
        ({"limits__timeout_s": 10**400}, "give a finite number of s"),
        ({"encoding": "x" * 3000}, "x ... x"),
    ],
)
def test_bench_files(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    assert_refused(write_bench(tmp_path, **change), complaint)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [(f"deep = {DEEP}", "nested too deeply"), (f"long = {'9' * 5000}", "not valid TOML")],
)
def test_texts_of_bench_files(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bench.toml"
    path.write_text(f"{line}\n{bench_text()}", encoding="utf-8")
    assert_refused(path, complaint)


def assert_refused(path: Path, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        load_bench(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_a_number_that_was_changed_in_a_calibration_is_found(tmp_path: Path) -> None:
    # A figure of the header would have been used as if it had been measured.
    with load_example(tmp_path) as bench:
        made = begin_calibration(bench)
    path = tmp_path / "bench.calibration.json"
    made.write(path)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["binding"]["power_w"] == 0.001
    path.write_text(text.replace('"power_w": 0.001', '"power_w": 0.002'), encoding="utf-8")
    with pytest.raises(InputError, match="was changed after it was written"):
        Calibration.read(path)
    path.write_text(json.dumps(json.loads(text)), encoding="utf-8")  # only laid out anew
    assert Calibration.read(path).binding == made.binding


@pytest.mark.parametrize(
    "text",
    [
        *("1_0", "nan", "inf", "1e400", "9.9E+37", "-9.9E37", "9.91E37", "0.001abc", "0x10", ""),
        *("1,,2", "\u0661", "1 2", "--1", "1e"),
    ],
)
def test_what_is_no_number_is_none(text: str) -> None:
    # "1_0" was read as 10, and SCPI's words for "out of range" as light or volts.
    assert numbers_in(text) == []
    assert numbers_in("+1.5, -.5e-3,2.") == [1.5, -0.5e-3, 2.0]


def test_light_below_the_drift_of_a_zero_is_refused(tmp_path: Path) -> None:
    # A run would be paused, or go on, by light that cannot be.
    with serve(Meter()) as served:
        served.fault = lambda line, reply: b"-0.1\n" if line == "MEAS:POW?" else _line(reply)
        meter: Any = create("scpi-power-meter", "meter", {"address": served.address})
        with meter, pytest.raises(ProtocolError, match=r"'-0.1 W' to .* instead of a power"):
            meter.read_power()


def _line(reply: str | None) -> bytes | None:
    return None if reply is None else f"{reply}\n".encode()


@pytest.mark.parametrize(
    ("device", "dialect", "question", "reply", "complaint"),
    [
        (Multimeter, "multimeter", "READ?", b"9.9E+37\n", "instead of 1 number"),
        (Multimeter, "multimeter", "READ?", b"2e3\n", "2000 V is not a possible reading"),
        (RedPitaya, "red-pitaya", "ACQ:TPOS?", b"16380.5\n", "a position below 16384"),
        (RedPitaya, "red-pitaya", "ACQ:TPOS?", b"-1\n", "a position below 16384"),
    ],
)
def test_scans_that_cannot_be_are_refused(
    device: Any, dialect: str, question: str, reply: bytes, complaint: str
) -> None:
    # An overload was taken for volts, half a sample's place for a whole one.
    with serve(device()) as served:
        served.fault = lambda line, answer: reply if line == question else _line(answer)
        options = {"address": served.address, "dialect": dialect}
        daq: Any = create("scpi-daq", "daq", options)
        with daq, pytest.raises(ProtocolError, match=complaint):
            daq.read((0,), 1, 50 if dialect == "multimeter" else 1e6)


@pytest.mark.parametrize(
    ("key", "value"), [("inputs", "-1"), ("bits", "0"), ("bits", "1_0"), ("rate_hz", "0:0")]
)
def test_a_board_that_cannot_be_is_refused(key: str, value: str) -> None:
    # int() takes "1_0", and a board without bits gave volts all the same.
    words = "protocol=1 inputs=4 outputs=2 lines=8 counters=1 bits=10 samples=256 in_uv=0:5 "
    words += "out_uv=0:5 rate_hz=1:1000 maker=a model=b serial=c firmware=d"
    with serve(Board(words)) as served, board(served.port) as daq:
        assert daq.identity.maker == "a"
    changed = [f"{key}={value}" if word.startswith(f"{key}=") else word for word in words.split()]
    with (
        serve(Board(" ".join(changed))) as served,
        pytest.raises(ProtocolError, match="does not report its data"),
    ):
        board(served.port).connect()


class Board(Device):
    """Speaks the line protocol of `serial-daq`, and only says what it has."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def reply(self, line: str) -> str:
        asked = unframed(">", line.encode() + b"\n")
        assert asked is not None and asked[1:] == ["ID"]
        return framed("<", f"{asked[0]} OK {self.words}").decode().strip()


def board(port: int) -> SerialDaq:
    address = f"socket://127.0.0.1:{port}"
    return SerialDaq("daq", SerialDaq.Options(address=address, restart_time_s=0))


def test_a_tokenizer_that_makes_its_reader_panic_is_refused(tmp_path: Path) -> None:
    # The package is written in Rust; its panics are no Exceptions, and went through every handler.
    path = tmp_path / "tokenizer.json"
    model = {"type": "BPE", "continuing_subword_prefix": "nan", "vocab": {"l": 0, "i": 1, "li": 2}}
    document = {"version": "1.0", "model": {**model, "merges": [["l", "i"]]}}
    document |= {"added_tokens": [], "normalizer": None, "pre_tokenizer": None}
    path.write_text(json.dumps(document | {"post_processor": None, "decoder": None}))
    with pytest.raises(InputError, match="is not a tokenizer"):
        read_tokenizer(path)


def test_a_constant_of_hundreds_of_digits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'[constants]\nadc_j = {{ value = 1{"0" * 400}, unit = "pJ", source = "x" }}\n')
    with pytest.raises(InputError, match="too large for a constant"):
        load_constants(str(path))


@pytest.mark.parametrize("count", [10**9, 0, -1, True, "3", None, 2.0])
def test_a_model_of_a_thousand_million_classes_is_refused(count: object) -> None:
    # Each had its name made, until the memory was full.
    with pytest.raises(ValueError, match="is not a number of classes"):
        vit.read_config({"model_type": "vit", "num_labels": count})


@pytest.mark.parametrize("key", ["head_dim", "num_key_value_heads"])
def test_heads_without_width_or_number_are_refused(key: str) -> None:
    # A scale of 0 ** -0.5, or a division by no heads.
    document = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    document |= {"intermediate_size": 8, "max_position_embeddings": 8, "model_type": "llama"}
    assert llama.read_config(document).width == 8
    with pytest.raises(InputError, match=f"configuration: {key} = 0"):
        llama.read_config({**document, key: 0})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    bench = load_example(tmp_path_factory.mktemp("calibrated"), as_found=True, seed=3)
    aligned = align(bench)
    with bench:
        store(bench, aligned)
    return Path(bench.path), calibrate(load_bench(bench.path))


@pytest.mark.parametrize(
    ("step", "name", "value", "complaint"),
    [
        (
            "photon_transfer",
            "gain_e_per_count",
            math.nan,
            "gain_e_per_count = nan in step photon_transfer",
        ),
        ("photon_transfer", "read_noise_e", -1.0, "read_noise_e = -1"),
        ("drift", "reference_every", math.inf, "reference_every = inf"),
        ("settling", "input_wait_s", -1.0, "input_wait_s = -1"),
        ("align", "camera_map", 0.0, "a camera_map with a magnification of 0"),
        ("response_curves", "weight", 0.5, "the same light for all grey levels of the weight"),
        ("dark_frames", "bad", None, r"has bad of shape \("),
        ("flat_field", "offset_e", None, r"has offset_e of shape \("),
        ("flat_field", "pairs_e", math.nan, "has nan in pairs_e of step flat_field"),
        ("flat_field", "marker_e_input", 0.0, "markers of input frames without light"),
    ],
)
def test_what_no_calibration_measures_is_refused(
    calibrated: tuple[Path, Calibration],
    tmp_path: Path,
    step: str,
    name: str,
    value: float | None,
    complaint: str,
) -> None:
    # Each was a traceback, or numbers that are none.
    source, found = calibrated
    path = tmp_path / "bench.toml"
    path.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    old = found.steps[step]
    if name in old.arrays:
        array = old.arrays[name]
        array = array.ravel()[1:] if value is None else np.full_like(array, value)
        new = replace(old, arrays={**old.arrays, name: array})
    else:
        assert value is not None
        figures = [replace(f, value=value) if f.name == name else f for f in old.figures]
        new = replace(old, figures=tuple(figures))
    steps = [new if one is old else one for one in found.steps.values()]
    Calibration(found.binding, found.created_at, steps).write(tmp_path / "bench.calibration.json")
    backend = BenchBackend(load_bench(path))
    with closing(backend), pytest.raises(InputError, match=complaint):
        backend.open()


# --- what is looked for anew ---------------------------------------------------------------------

QUICK = {  # inputs of each target: the whole takes half a minute
    "calibrations in use": 0,
    "command lines": 0,
    "journals": 0,
    "sweep outputs": 20,
}
LONG = ("damaged journals",)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.name in LONG else [])
        for one in TARGETS
    ],
)
def test_nothing_but_a_sentence_or_the_right_numbers(target: Target, tmp_path: Path) -> None:
    # A user would see a traceback, wait for ever, or compute with a number that nobody meant.
    inputs = QUICK.get(target.name, 40)
    if not inputs:
        pytest.skip("takes long: a campaign has it")

    @settings(
        max_examples=inputs,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def look(random: Random) -> None:
        attempt_once(attempt, random)

    with target.open(tmp_path) as attempt:
        look()


@pytest.mark.campaign
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_share_of_the_campaign(target: Target) -> None:
    count = fuzz(target, max(round(4000 * target.share), 8), seed=1)
    assert not count.findings, [f.trace for f in count.findings.values()]
    assert count.accepted and count.refused  # else nothing was tried


def test_inputs_come_again() -> None:
    # A finding that cannot be made again cannot be mended.
    target = next(target for target in TARGETS if target.name == "power meters")
    first, again = (fuzz(target, 50, seed=3) for _ in range(2))
    assert (first.accepted, first.refused) == (again.accepted, again.refused)


def test_a_reader_that_fails_is_found() -> None:
    # A campaign that finds nothing must be one that would have found something.
    kinds = {0: True, 1: InputError("no"), 2: ValueError("oh"), 3: WrongNumberError("5")}

    def attempts(folder: Path) -> Iterator[Any]:
        def attempt(random: Random) -> bool:
            outcome = kinds[random.randrange(4)]
            if isinstance(outcome, Exception):
                raise outcome
            return True

        yield attempt

    count = fuzz(Target("sample", 1.0, attempts), 200, seed=0)
    assert {key.split()[0] for key in count.findings} == {"ValueError", "WrongNumberError"}
    assert count.accepted + count.refused + count.failed == count.inputs == 200
