"""`lightloom init`, `check`, `devices` and `run --bench` as an operator uses them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightloom.backends.bench import example_file

Ended = subprocess.CompletedProcess[str]

REAL = """
schema = 1
layout = "imaged"
coherence = "incoherent"
limits = {{ timeout_s = 1.5 }}
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


def lightloom(folder: Path, *arguments: str, **environment: str) -> Ended:
    command = [sys.executable, "-m", "lightloom", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def write(folder: Path, *changes: tuple[str, str], layout: str = "imaged") -> None:
    text = example_file(layout, tiny=True)
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    (folder / "bench.toml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("layout", ["imaged", "line", "block"])
def test_what_init_writes_passes_its_check(tmp_path: Path, layout: str) -> None:
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
        (("here.toml",), "here.toml is there already"),
        (("x.toml", "--layout", "spiral"), "unknown layout 'spiral'; choose from imaged"),
        (("x.toml", "--clock", "sundial"), "'sundial'"),
        (("nowhere/x.toml",), "cannot write nowhere"),
    ],
)
def test_init_overwrites_nothing(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    # a bench file is an afternoon's work
    (tmp_path / "here.toml").write_text("mine")
    run = lightloom(tmp_path, "init", *arguments)
    assert run.returncode == 2 and says in run.stderr and "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["here.toml"]
    assert (tmp_path / "here.toml").read_text() == "mine"


def test_a_run_says_what_it_is_and_what_was_repeated(tmp_path: Path) -> None:
    # a simulated result taken for a real one, and repeats that nobody hears of
    fault = '\nfaults = [{ kind = "stale", at = [5, 9] }]'
    write(tmp_path, ('driver = "simulated-camera"', f'driver = "simulated-camera"{fault}'))
    run = lightloom(tmp_path, "run", "--bench", "bench.toml", "--limit", "1", "--json")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["is_mock"] and report["backend"] == "bench"
    assert report["profile"] == "simulated imaged bench" and "bench.toml" in report["profile_title"]
    assert report["remarks"][1].startswith("done about faults: retry 2; ")
    assert report["remarks"][2:] == ["2 shots were repeated: stale 2"]
    assert report["is_calibrated"] and "own truth" in report["remarks"][0]


_BAD = {
    "unknown key": (("[limits]", "[limits]\ncolour = 1"), "unknown key 'limits.colour'"),
    "wrong unit": (('exposure_s = "2 ms"', 'exposure_s = "5 mW"'), "exposure_s = '5 mW'"),
    "no role": (("[instruments.source]", "[instruments.power_meter]"), "instruments.source is m"),
    "reversed": (('["10 us", "1 s"]', '["1 s", "1 ms"]'), "limits: exposure_s = [1, 0.001] is"),
    "time-out": (
        ('timeout_s = "5 s"', "timeout_s = 0.001"),
        "longer than limits.timeout_s = 0.001",
    ),
    "no fit": (("block = [4, 4]", "block = [99, 99]"), "99 x 99 elements"),
    "beyond the sensor": (
        ("seed = 0", "camera_registration = { scale = 2.0 }"),
        "pixels of the weight modulator that are seen",
    ),
    "another world": (("seed = 0", 'layout = "line"'), "world.layout = 'line'"),
    "coherent": (('= "incoherent"', '= "coherent"'), "coherence = 'coherent'"),
    "no TOML": (("schema = 1", "schema ="), "not valid TOML"),
    "uncalibrated": (('= "known"', '= "may.json"'), "is not calibrated (no file may.json)"),
    "half real": (
        ('driver = "simulated-source"', 'driver = "ni-daq"'),
        "instruments.source.driver = 'ni-daq' drives a daq",
    ),
}


def test_a_bench_is_planned_and_a_run_leaves_a_trace(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "bench.toml").open("a", encoding="utf-8") as stream:
        stream.write('light = "timing"\n')
    asked = ("plan", "--bench", "bench.toml", "--json")
    planned = lightloom(tmp_path, *asked)
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["bottleneck"] and 0 < plan["utilisation"]["detector"] <= 1
    assert plan["frames"]["detector"] == plan["shots"] > plan["frames"]["weight"] > 0
    assert 0 < plan["seconds_bench"] <= 1.01 * plan["seconds_in_turn"]
    run = ("run", "--bench", "bench.toml", "--limit", "1", "--no-reference", "--json")
    made = lightloom(tmp_path, *run, "--trace", "trace.json.gz")
    assert made.returncode == 0, made.stderr
    drawn = lightloom(tmp_path, "report", "trace.json.gz", "--layer", "0")
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
    (tmp_path / "real.toml").write_text(REAL.format(port=1), encoding="utf-8")
    ended = lightloom(tmp_path, *arguments)
    assert ended.returncode == 2 and says in " ".join(ended.stderr.split()), ended.stderr
    assert ended.stderr.count("\n") <= 3 and not list(tmp_path.glob("trace*"))


@pytest.mark.parametrize("mistake", _BAD)
def test_a_bad_bench_file_is_one_sentence(tmp_path: Path, mistake: str) -> None:
    change, says = _BAD[mistake]
    write(tmp_path, change)
    run = lightloom(tmp_path, "run", "--bench", "bench.toml", "--limit", "1")
    assert run.returncode == 2 and run.stdout == ""
    (sentence,) = run.stderr.strip().splitlines()
    assert says in sentence and "bench.toml" in sentence


def test_two_instruments_on_one_port_are_found(tmp_path: Path) -> None:
    # the same port under two drivers' names: replies would be mixed up
    text = REAL.format(port=9) + '[instruments.power_meter]\ndriver = "scpi-power-meter"\n'
    (tmp_path / "bench.toml").write_text(text + 'address = "tcpip::127.0.0.1::9::SOCKET"\n')
    run = lightloom(tmp_path, "check", "--bench", "bench.toml")
    assert run.returncode == 2 and "have one address, 'tcpip::127.0.0.1::9::SOCKET'" in run.stderr


def test_a_real_bench_is_not_run_before_it_is_calibrated(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(REAL.format(port=9))
    run = lightloom(tmp_path, "run", "--bench", "bench.toml")
    assert run.returncode == 2 and "the bench is not calibrated" in run.stderr


@pytest.fixture(params=["closed", "silent", "garbage", "half a line"])
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
    says = {"closed": "refused", "silent": "did not answer"}.get(request.param, "")
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
    (tmp_path / "bench.toml").write_text(REAL.format(port=port))
    check = lightloom(tmp_path, "check", "--bench", "bench.toml", "--json")
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
            (tmp_path / "bench.toml").write_text(REAL.format(port=9))
            check = lightloom(tmp_path, "check", "--bench", "bench.toml", "--json", DISPLAY=display)
        finally:
            process.terminate()
    assert check.returncode == 1
    first = json.loads(check.stdout)["findings"][0]
    assert "monitor" in first["detail"] and "7" in first["detail"]


_WATCHED = """
import sys
from pathlib import Path
from lightloom.instruments.simulated.devices import SimulatedSource
before = SimulatedSource._light
def light(self):
    before(self)
    Path("light").write_text("on" if self.world.power_w else "off")
SimulatedSource._light = light
from lightloom.cli import main
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_that_is_stopped_leaves_the_light_off(tmp_path: Path, name: str) -> None:
    # Ctrl-C, a job manager's stop, and a terminal that is closed
    write(tmp_path, layout="line")
    command = [sys.executable, "-c", _WATCHED, "run", "--bench", "bench.toml"]
    light = tmp_path / "light"
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        end = time.monotonic() + 60
        while not light.exists() or light.read_text() != "on":
            assert run.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        time.sleep(0.3)
        run.send_signal(getattr(signal, name))
        run.send_signal(getattr(signal, name))  # somebody is impatient
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and "stopped by the operator" in errors
    assert "Traceback" not in errors and light.read_text() == "off"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ('{ kind = "dropped", rate = 1.0 }', "instruments.detector"),
        ('{ kind = "garbage", rate = 1.0 }', "bright as it should be"),
    ],
)
def test_a_fault_that_lasts_ends_a_run_with_a_sentence(
    tmp_path: Path, fault: str, says: str
) -> None:
    write(
        tmp_path,
        ('driver = "simulated-camera"', f'driver = "simulated-camera"\nfaults = [{fault}]'),
    )
    run = lightloom(tmp_path, "run", "--bench", "bench.toml", "--limit", "1")
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
    write(tmp_path)
    run = lightloom(tmp_path, "run", "--bench", "bench.toml", *option)
    assert run.returncode == 2 and says in run.stderr


def test_a_script_that_forgets_its_bench_leaves_no_light(tmp_path: Path) -> None:
    write(tmp_path)
    script = _WATCHED.replace("from lightloom.cli import main\nmain()", "import lightloom")
    script += 'lightloom.open_backend("bench.toml").warm_up()\n'
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "light").read_text() == "off"


def test_devices_prints_one_document(tmp_path: Path) -> None:
    run = lightloom(tmp_path, "devices", "--json")
    assert run.returncode == 0
    assert {"kind", "address", "description", "toml"} == set(json.loads(run.stdout)["devices"][0])
