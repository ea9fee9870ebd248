"""`lightloom init`, `check`, `devices` and `run --bench` as an operator uses them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_factory import FAST_512, fault, write_bench
from commands import Ended, called, started
from waiting import wait_until
from watched_light import WATCHED, WATCHED_COMMAND, shots, went_off

REAL = """
schema = 1
layout = "imaged"
coherence = "incoherent"
limits = {{ timeout_s = {timeout_s} }}
[instruments.input]
driver = "display-slm"
monitor = 7
[instruments.weight]
driver = "display-slm"
monitor = 8
[instruments.detector]
driver = "genicam-camera"
producer = "nowhere.cti"
[instruments.source]
driver = "scpi-source"
address = "TCPIP::127.0.0.1::{port}::SOCKET"
max_power_w = "5 mW"
"""


def real(port: int, timeout_s: float = 1.5) -> str:
    """Return the text of a bench file of real instruments, whose source is behind a port."""
    return REAL.format(port=port, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("layout", "lightloom"), [("imaged", started), ("line", called), ("single-pixel", called)]
)
def test_what_init_writes_passes_its_check(
    tmp_path: Path, layout: str, lightloom: Callable[..., Ended]
) -> None:
    # the first thing that a newcomer does
    made = lightloom(tmp_path, "init", "bench.toml", "--layout", layout, "--tiny")
    assert made.returncode == 0 and "lightloom check --bench bench.toml" in made.stdout
    check = lightloom(tmp_path, "check", "--bench", "bench.toml", "--json")
    assert check.returncode == 0, check.stderr
    findings = json.loads(check.stdout)["findings"]
    assert len(findings) == 14 and all(finding["passed"] for finding in findings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("here.toml",), "here.toml already exists"),
        (("x.toml", "--layout", "spiral"), "unknown layout 'spiral'; choose from imaged"),
        (("x.toml", "--clock", "sundial"), "'sundial'"),
        (("nowhere/x.toml",), "cannot write nowhere"),
    ],
)
def test_init_overwrites_nothing(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    # a bench file is an afternoon's work
    (tmp_path / "here.toml").write_text("mine")
    run = called(tmp_path, "init", *arguments)
    assert run.returncode == 2 and says in run.stderr and "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["here.toml"]
    assert (tmp_path / "here.toml").read_text() == "mine"


def test_a_run_says_what_it_is_and_what_was_repeated(tmp_path: Path) -> None:
    # a simulated result taken for a real one, and repeats that nobody hears of
    # with 512 x 512 pixels a run needs fewer shots, so less time, than with 96 x 64
    write_bench(tmp_path, instruments__detector__faults=fault("stale", [5, 9]), **FAST_512)
    run = called(tmp_path, "run", "--bench", "bench.toml", "--limit", "1", "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["is_mock"] and report["backend"] == "bench"
    assert report["profile"] == "simulated imaged bench" and "bench.toml" in report["profile_title"]
    assert report["remarks"][1].startswith("recoveries from faults: retry 2; ")
    assert report["remarks"][2:] == ["2 repeated shots: stale 2"]
    assert report["is_calibrated"] and "own truth" in report["remarks"][0]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"limits__colour": 1}, "unknown key 'limits.colour'"),
    "wrong unit": ({"exposure_s": "5 mW"}, "exposure_s = '5 mW'"),
    "no role": (
        {
            "instruments__source": None,
            "instruments__power_meter": {"driver": "simulated-source"},
        },
        "instruments.source is m",
    ),
    "reversed": ({"limits__exposure_s": ["1 s", "1 ms"]}, "limits: exposure_s = [1, 0.001] is"),
    "time-out": ({"limits__timeout_s": 0.001}, "longer than limits.timeout_s = 0.001"),
    "no fit": ({"encoding__block": [99, 99]}, "99 x 99 elements"),
    "beyond the sensor": (
        {"world__camera_registration": {"scale": 2.0}},
        "visible pixels of the weight modulator",
    ),
    "another world": ({"world__layout": "line"}, "world.layout = 'line'"),
    "coherent": ({"coherence": "coherent"}, "coherence = 'coherent'"),
    "uncalibrated": ({"calibration": "may.json"}, "is not calibrated (no file may.json)"),
    "half real": (
        {"instruments__source__driver": "ni-daq"},
        "instruments.source.driver = 'ni-daq' drives a daq",
    ),
}


def test_a_bench_is_planned_and_a_run_leaves_a_trace(tmp_path: Path) -> None:
    # with small elements a run needs fewer shots
    write_bench(tmp_path, world__light="timing", encoding__element_px=1)
    asked = ("plan", "--bench", "bench.toml", "--json")
    planned = called(tmp_path, *asked)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["bottleneck"] and 0 < plan["utilisation"]["detector"] <= 1
    assert plan["frames"]["detector"] == plan["shots"] > plan["frames"]["weight"] > 0
    assert 0 < plan["seconds_bench"] <= 1.01 * plan["seconds_in_turn"]
    run = ("run", "--bench", "bench.toml", "--limit", "1", "--no-reference", "--json")
    made = called(tmp_path, *run, "--trace", "trace.json.gz")
    assert made.returncode == 0, made.stderr
    drawn = called(tmp_path, "report", "trace.json.gz", "--layer", "0")
    assert drawn.returncode == 0, drawn.stderr
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "MOCK" in page and "predicted" in page and "measured" in page and "weight" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--trace", "trace.txt"), "a trace is called .json or .json.gz"),
        (("plan", "--trace", "nowhere/trace.json"), "no folder nowhere"),
        (("plan", "--batch", "4000", "--trace", "trace.json"), "a trace holds 300,000 at most"),
        (("plan", "--bench", "real.toml"), "has real instruments"),
    ],
)
def test_impossible_plans_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "real.toml").write_text(real(1), encoding="utf-8")
    ended = called(tmp_path, *arguments)
    assert ended.returncode == 2 and says in " ".join(ended.stderr.split()), ended.stderr
    assert ended.stderr.count("\n") <= 3 and not list(tmp_path.glob("trace*"))


@pytest.mark.parametrize("mistake", BAD)
def test_a_bad_bench_file_is_one_sentence(tmp_path: Path, mistake: str) -> None:
    change, says = BAD[mistake]
    write_bench(tmp_path, **change)
    assert_one_sentence(tmp_path, says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("schema = 1", 'schema = 1\ncalibration = "ground-truth"', "only a simulated bench has a"),
        ('max_power_w = "5 mW"', "", "max_power_w is missing; give the largest power"),
    ],
)
def test_a_real_bench_is_refused_before_anything_connects(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    # `check` would open every device of a lab, one after the other, for a mistake of the file
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        content = real(server.getsockname()[1]).replace(old, new)
        (tmp_path / "bench.toml").write_text(content, encoding="utf-8")
        ended = called(tmp_path, "check", "--bench", "bench.toml")
        assert ended.returncode == 2 and says in " ".join(ended.stderr.split()), ended.stderr
        assert not ended.stdout
        with pytest.raises(TimeoutError):
            server.accept()


def test_what_is_no_toml_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text("schema =\n", encoding="utf-8")
    assert_one_sentence(tmp_path, "not valid TOML")


def assert_one_sentence(folder: Path, says: str) -> None:
    run = called(folder, "run", "--bench", "bench.toml", "--limit", "1")
    assert run.returncode == 2 and run.stdout == ""
    (sentence,) = run.stderr.strip().splitlines()
    assert says in sentence and "bench.toml" in sentence


def test_two_instruments_on_one_port_are_found(tmp_path: Path) -> None:
    # the same port under two drivers' names: replies would be mixed up
    text = real(9) + '[instruments.power_meter]\ndriver = "scpi-power-meter"\n'
    (tmp_path / "bench.toml").write_text(text + 'address = "tcpip::127.0.0.1::9::SOCKET"\n')
    run = called(tmp_path, "check", "--bench", "bench.toml")
    assert run.returncode == 2 and "have one address, 'tcpip::127.0.0.1::9::SOCKET'" in run.stderr


def test_a_real_bench_is_not_run_before_it_is_calibrated(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(real(9))
    run = called(tmp_path, "run", "--bench", "bench.toml")
    assert run.returncode == 2 and "the bench is not calibrated" in run.stderr


def test_a_real_bench_ignores_the_world(tmp_path: Path) -> None:
    # lines that were left from a simulated bench would seem to work
    (tmp_path / "bench.toml").write_text(real(9) + "[world]\nseed = 1\n")
    checked = called(tmp_path, "check", "--bench", "bench.toml")
    assert "real instruments ignore the table [world]" in checked.stderr


@pytest.fixture(
    params=[
        "closed",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("silent", "garbage", "half a line")),
    ]
)
def partner(request: pytest.FixtureRequest) -> Iterator[tuple[int, str]]:
    """A port of this computer where nothing, nobody, or nonsense answers; and what is said."""
    server = socket.create_server(("127.0.0.1", 0))
    port, kept = server.getsockname()[1], []

    def answer() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return
            kept.append(link)
            if request.param == "garbage":
                link.sendall(b"\xff\xfe" * 40 + b"\n")
            if request.param == "half a line":
                link.sendall(b"ACME,Las")

    if request.param == "closed":
        server.close()
    thread = threading.Thread(target=answer)
    thread.start()
    says = {"closed": "cannot be reached", "silent": "did not reply"}.get(request.param, "")
    yield port, says
    if request.param != "closed":
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    thread.join()
    for link in kept:
        link.close()


def test_real_instruments_that_do_not_answer_are_lines(
    tmp_path: Path, partner: tuple[int, str]
) -> None:
    # one instrument that is off must not hide the state of the others, nor end in a traceback
    port, says = partner
    (tmp_path / "bench.toml").write_text(real(port))
    check = started(tmp_path, "check", "--bench", "bench.toml", "--json")
    assert check.returncode == 1 and "Traceback" not in check.stderr
    findings = json.loads(check.stdout)["findings"]
    assert [finding["what"].split(":")[0] for finding in findings] == [
        "input",
        "weight",
        "detector",
        "source",
    ]
    assert not any(finding["passed"] for finding in findings)
    assert "instruments.source" in findings[3]["detail"] and says in findings[3]["detail"]


@pytest.mark.slow
def test_a_monitor_that_does_not_exist_is_named(tmp_path: Path) -> None:
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed (Debian package xvfb)")
    pytest.importorskip("sdl2", reason="the package sdl2 is not installed")
    read, told = os.pipe()
    server = ["Xvfb", "-displayfd", str(told), "-screen", "0", "640x400x24", "-nolisten", "tcp"]
    with subprocess.Popen(server, pass_fds=[told], stderr=subprocess.DEVNULL) as process:
        try:
            os.close(told)
            with os.fdopen(read) as answer:
                display = f":{answer.readline().strip()}"
            (tmp_path / "bench.toml").write_text(real(9, timeout_s=30))  # however busy we are
            check = started(tmp_path, "check", "--bench", "bench.toml", "--json", DISPLAY=display)
        finally:
            process.terminate()
    assert check.returncode == 1
    first = json.loads(check.stdout)["findings"][0]
    assert "monitor" in first["detail"] and "7" in first["detail"]


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize(
    "name",
    ["SIGINT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGHUP"))],
)
def test_a_run_that_is_stopped_leaves_the_light_off(tmp_path: Path, name: str) -> None:
    # Ctrl-C, a job manager's stop, and a terminal that is closed
    write_bench(tmp_path, "line")
    command = [sys.executable, "-c", WATCHED_COMMAND, "run", "--bench", "bench.toml"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            wait_until(lambda: shots(tmp_path) > 30 or run.poll() is not None, 120)
            assert run.poll() is None
            run.send_signal(getattr(signal, name))
            run.send_signal(getattr(signal, name))  # somebody is impatient
            _, errors = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 130 and "stopped by the operator" in errors
    assert "Traceback" not in errors and went_off(tmp_path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [("dropped", "instruments.detector"), ("garbage", "bright as expected")],
)
def test_a_fault_that_lasts_ends_a_run_with_a_sentence(
    tmp_path: Path, kind: str, says: str
) -> None:
    write_bench(tmp_path, instruments__detector__faults=fault(kind, rate=1.0))
    run = called(tmp_path, "run", "--bench", "bench.toml", "--limit", "1")
    assert run.returncode == 3 and run.stdout == "" and "Traceback" not in run.stderr
    assert says in run.stderr


@pytest.mark.parametrize(
    ("option", "says"),
    [(("--set", "rows=3"), "belong to a mock"), (("--backend", "digital"), "two backends")],
)
def test_a_bench_and_another_backend_contradict(
    tmp_path: Path, option: tuple[str, str], says: str
) -> None:
    # an option that is passed over in silence is a wrong result that nobody sees
    write_bench(tmp_path)
    run = called(tmp_path, "run", "--bench", "bench.toml", *option)
    assert run.returncode == 2 and says in run.stderr


def test_a_script_that_forgets_its_bench_leaves_no_light(tmp_path: Path) -> None:
    write_bench(tmp_path)
    script = WATCHED + 'import lightloom\nlightloom.open_backend("bench.toml").warm_up()\n'
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert went_off(tmp_path)


def test_devices_prints_one_document(tmp_path: Path) -> None:
    run = called(tmp_path, "devices", "--json")
    assert run.returncode == 0
    assert {"kind", "address", "description", "toml"} == set(json.loads(run.stdout)["devices"][0])
