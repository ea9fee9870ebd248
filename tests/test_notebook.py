"""What a person sees in a notebook: short texts of public objects, names, `plan` by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.backends import load_profile
from lightloom.backends.optics.calibration_file import Calibration
from lightloom.instruments import CameraFrame, Samples, errors
from lightloom.models import load_arrays, load_model, sized_model
from lightloom.scheduler.runs.tables import plan_tables

import lightloom
from lightloom.report.terminal.console import PrintableConsole, show_tables

IMAGES = np.zeros((2, 1, 8, 8), dtype=np.float32)


def is_short(text: str) -> bool:
    lines = text.splitlines()
    return len(lines) <= 5 and max(map(len, lines)) <= 100


def test_plan_run_and_report_fit_in_five_lines() -> None:
    # a plan printed at a prompt was 15,000 characters of steps
    model = load_model("digits")
    plan = lightloom.plan(model, "mock", batch=2)
    data = load_arrays(model.source / "data.safetensors")
    run = plan.run(data["images"][:2], data["labels"][:2])
    report, account = run.report(), plan.energy()
    assert all(is_short(repr(what)) for what in (model, plan, run, report, account))
    for part in (
        "digits",
        "mock",
        "slm-camera",
        "paper",
        "1 pass",
        "MACs",
        "% on light",
        "predicted: ",
    ):
        assert part in repr(plan)
    for part in ("accuracy", "digital", "took"):
        assert part in repr(run)
    for part in (
        "MOCK",
        "accuracy",
        "images per second (meas",
        "on the bench (predicted)",
        "J for",
    ):
        assert part in repr(report)
    for part in ("vit", "k parameters", "2 layers", "width 40", "4 heads", "model.safetensors"):
        assert part in repr(model)


def test_smaller_records_are_short(calibrated_folder: Path) -> None:
    for profile in ("ideal", "slm-camera"):
        assert profile in repr(load_profile(profile)) and is_short(repr(load_profile(profile)))
        assert str(load_profile(profile)) == repr(load_profile(profile))
    calibration = Calibration.read(calibrated_folder / "bench.calibration.json")
    assert is_short(repr(calibration)) and "simulated bench" in repr(calibration)
    assert all(is_short(repr(step)) for step in calibration.steps.values())
    plan = lightloom.plan("glimmer")
    assert repr(plan.decided).startswith("Placement paper: ")
    backend = lightloom.open_backend("mock")
    assert repr(backend.prepare(np.ones((4, 3)))) == "PreparedWeights(shape=(4, 3))"
    result = backend.matmul(np.ones((2, 3)), np.ones((4, 3)))
    assert repr(result).startswith("MatmulResult: y of shape [2, 4], ")


def test_frames_and_samples_do_not_list_their_numbers() -> None:
    frame = CameraFrame(np.arange(600).reshape(20, 30), 7, 1.0, 0.002)
    assert repr(frame) == "CameraFrame 7: 20 x 30 counts from 0 to 599, exposed for 0.002 s"
    samples = Samples(np.zeros((2, 5000)), 1e4, 0.0)
    assert repr(samples) == "Samples: 5,000 of each of 2 channels, at 10000 per second"
    address = lightloom.Address("qk", np.arange(1000))
    assert repr(address) == "Address qk: 1,000 rows, attempt 0"


def test_a_long_name_is_cut() -> None:
    model = sized_model(64, 1, name="long\n" * 100)
    assert is_short(repr(model)) and "none, only its shape" in repr(model)


def test_plan_takes_names_as_well_as_objects(small_model: Path) -> None:
    model, backend = load_model("digits"), lightloom.open_backend("mock")
    expected = lightloom.plan(model, backend, batch=4).as_dict()
    assert lightloom.plan("digits", "mock", batch=4).as_dict() == expected
    assert lightloom.plan(small_model, "mock:ideal").model.name == "small"
    assert lightloom.plan("gpt2").model.parameters > 1e8  # a shape without weights
    with pytest.raises(lightloom.InputError, match="no model 'nothing'"):
        lightloom.plan("nothing")


def test_every_error_is_a_name_of_the_front_door() -> None:
    # `except lightloom.Paused` is what a script writes
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, lightloom.LightloomError):
            assert getattr(lightloom, kind.__name__) is kind
            assert kind.__name__ in dir(lightloom)


@pytest.mark.parametrize("room", ["backends", "instruments", "models", "scheduler"])
def test_names_of_a_room_are_seen(room: str) -> None:
    module = __import__(f"lightloom.{room}", fromlist=["*"])
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lightloom.load_model(3), "3 is not a model's name or path"),  # type: ignore[arg-type]
        (lambda: lightloom.plan(None, "mock"), "None is not a model"),  # type: ignore[arg-type]
        (lambda: lightloom.plan("digits").run("x"), "'x' is not an array of images"),
        (lambda: lightloom.plan("digits").run(None), "None is not an array of images"),
        (lambda: lightloom.plan("digits").run(IMAGES, [0]), "do not fit 2 images"),
        (lambda: lightloom.plan("digits").run(IMAGES, [0, 11]), "label 11 is not one of the 10"),
        (lambda: lightloom.plan("digits").run(IMAGES, [0, 0.5]), "label 0.5 is not one of the 10"),
    ],
)
def test_a_mistake_in_a_notebook_is_one_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(lightloom.InputError, match=sentence):
        call()


def test_a_table_is_never_cut_where_a_number_stands() -> None:
    stream = io.StringIO()
    show_tables(PrintableConsole(stream, 60), plan_tables(lightloom.plan("digits")))
    text = stream.getvalue()
    assert "…" not in text and "27.2 k" in text and "92.8 ms" in text
