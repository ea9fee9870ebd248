"""Sweeps: the same numbers whoever runs them, nothing lost, every mistake found before it costs."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightloom.backends import load_profile
from lightloom.benchmarks.sweep import Results, Sweep, make_sweep, run_sweep
from lightloom.benchmarks.sweep_points import Inputs, SweepPoint, ranges
from lightloom.instruments import InputError
from lightloom.models import load_arrays, load_model
from lightloom.scheduler.cluster.workers import Failure, open_workers
from rich.console import Console
from typer.testing import CliRunner
from waiting import wait_until

import lightloom
from lightloom.cli.app import app
from lightloom.report.terminal.sweep import show_sweep

psutil = pytest.importorskip("psutil")  # comes with Dask

TINY = ("--limit", "2", "--light", "1e3,1e4", "--seed", "0,1")
LONG = (  # without ranges, so that points are short
    *("--profile", "ideal", "--placement", "projections", "--limit", "1"),
    *("--seed", ",".join(map(str, range(60)))),
)
CLUSTER = """
import asyncio, sys
version, workers = sys.argv[1], int(sys.argv[2])
if version == "none":
    sys.modules["lightloom"] = None
else:
    import lightloom
    lightloom.__version__ = version
from distributed import Scheduler, Worker

async def main():
    quiet = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    async with Scheduler(port=0, **quiet) as scheduler:
        held = [await Worker(scheduler.address, nthreads=1, **quiet) for _ in range(workers)]
        print(scheduler.address, flush=True)
        await scheduler.finished()

asyncio.run(main())
"""


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lightloom", "sweep", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )


def sweep(*arguments: object, status: int = 0) -> tuple[str, str]:
    process = started(*arguments)
    out, error = process.communicate(timeout=300)
    assert process.returncode == status, error
    return out, error


def refused(*arguments: object) -> str:
    """The sentence that a mistake ends in, in this process: status 2 and one line."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(variable, "1")  # as the command sets them
        run = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    assert run.exit_code == 2 and not run.stdout, run.output
    assert len([line for line in run.stderr.splitlines() if line.strip()]) == 1, run.stderr
    return run.stderr


def numbers(document: dict[str, Any]) -> list[Any]:
    """What may not depend on who ran a sweep: all but what was timed."""
    found = []
    for point in document["points"]:
        stats = {key: value for key, value in point["stats"].items() if key != "seconds"}
        light = [point["energy"]["joules_per_token"][scope] for scope in ("compute", "light")]
        found.append((point["name"], point["quality"], stats, light))
    return found


def wait_for_points(path: Path, process: subprocess.Popen[str], count: int = 1) -> None:
    def has_points() -> bool:
        assert process.poll() is None, process.communicate()
        return path.exists() and len(json.loads(path.read_bytes())["points"]) >= count

    wait_until(has_points, timeout_s=120)


def workers_of(process: subprocess.Popen[str]) -> list[Any]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture
def cluster() -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """Starts a Dask cluster of a version of lightloom, in a process of its own."""
    processes = []

    def start(version: str, workers: int) -> tuple[str, subprocess.Popen[str]]:
        command = [sys.executable, "-c", CLUSTER, version, str(workers)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip(), process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The tiny sweep in one process."""
    document: dict[str, Any] = json.loads(sweep(*TINY, "--workers", 0, "--json")[0])
    return document


# ------------------------------------------------------------------------- the same numbers


def test_points_hold_what_a_run_gives(alone: dict[str, Any]) -> None:
    assert alone["schema"] == 1 and alone["is_mock"] and alone["count"] == 4
    names = [point["name"] for point in alone["points"]]
    assert names[0] == "digits slm-camera photons_full_scale=1000 seed=0"
    assert names == list(dict.fromkeys(names))
    command = [sys.executable, "-m", "lightloom", "run", "--limit", "2", "--seed", "1", "--json"]
    command += ["--set", "photons_full_scale=1e4", "--threads", "1"]
    run = json.loads(subprocess.check_output(command, text=True, encoding="utf-8"))
    point = alone["points"][3]
    assert point["quality"] == run["quality"]
    assert point["stats"]["photons"] == run["stats"]["photons"]  # to the bit
    assert point["throughput"]["unit"] == "images per second"
    assert (
        point["energy"]["joules_per_token"]["light"] == run["energy"]["joules_per_token"]["light"]
    )


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_workers(alone: dict[str, Any]) -> None:
    out, error = sweep(*TINY, "--workers", 2, "--json")
    assert numbers(json.loads(out)) == numbers(alone)
    assert "Traceback" not in error and "WARNING" not in error


@pytest.mark.slow
def test_a_dask_cluster_elsewhere_gives_the_same(alone: dict[str, Any], cluster: Any) -> None:
    address, _ = cluster(lightloom.__version__, 1)
    out, _ = sweep(*TINY, "--scheduler", address, "--json")
    assert numbers(json.loads(out)) == numbers(alone)


def test_ranges_do_not_depend_on_the_light() -> None:
    # a sweep computes them once for all light levels; a bit of difference would stay unseen
    def found(**settings: Any) -> dict[str, Any]:
        profile = load_profile().with_settings(settings)
        return ranges("test", SweepPoint("p", "digits", "slm-camera", {}, 0, "paper", profile))

    for encoding, detection in (("abs-split", "balanced"), ("offset", "per-reading")):
        bench = {"encoding": encoding, "detection": detection}
        first = found(**bench, photons_full_scale=1e3)
        assert len(first) > 10
        other = found(**bench, photons_per_mac=0.3)
        for name, there in first.items():
            np.testing.assert_array_equal(other[name].readout, there.readout)
            np.testing.assert_array_equal(other[name].weight, there.weight)


def test_the_table_shows_accuracy_in_percent_under_whole_names() -> None:
    # a reader would compare 0.1 with the 10 % of `run`, and search for "photons_full_s"
    images = Inputs(load_arrays(load_model("digits").source / "data.safetensors")["images"][:1])
    made = make_sweep(
        {"encodings": ["abs-split", "offset"], "light": [1e3, 1e4], "seeds": [0, 1], "limit": 1}
    )
    points, impossible = made.points()
    with open_workers(0) as workers:
        results = Results(made, points, impossible, {"digits": images}, None)
        document = run_sweep(results, {"digits": images}, workers, lambda *_: None)
    for point in document["points"]:
        point["quality"] |= {"metric": "accuracy", "digital": 1.0, "optical": 0.1}
    shown = io.StringIO()
    show_sweep(Console(file=shown, width=100), document, [])
    lines = shown.getvalue().splitlines()
    rows = [line.split() for line in lines if line.strip().startswith(("abs-split", "offset"))]
    assert [row[3:5] for row in rows] == [["100.00%", "10.00%"]] * 8
    assert any("photons_full_scale" in line for line in lines), lines


def test_images_without_labels_are_held_against_the_digital_ones() -> None:
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"][:3]
    inputs = {"digits": Inputs(images)}
    asked = make_sweep({"light": [1e9], "profiles": ["ideal"]})
    points, _ = asked.points()
    with open_workers(0) as workers:
        results = Results(asked, points, {}, inputs, None)
        document = run_sweep(results, inputs, workers, lambda *_: None)
    quality = document["points"][0]["quality"]
    assert quality == {"metric": "agreement with digital", "digital": 1.0, "optical": 1.0}


# ------------------------------------------------------------------------------ nothing lost


@pytest.mark.slow
def test_the_points_of_a_killed_worker_run_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    process = started(*LONG, "--workers", 2, "--output", path, "--json")
    wait_for_points(path, process)
    workers = workers_of(process)
    assert len(workers) == 2
    workers[0].kill()
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    points = json.loads(out)["points"]
    assert len(points) == 60 and all(point["status"] == "done" for point in points)
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to a process there")
def test_a_stopped_sweep_leaves_no_process_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    process = started(*LONG, "--workers", 2, "--output", path)
    wait_for_points(path, process)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    start = time.monotonic()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "points left" in error, error
    assert "Traceback" not in error and time.monotonic() - start < 30
    assert not any(worker.is_running() for worker in workers)
    kept = json.loads(path.read_bytes())["points"]
    assert 1 <= len(kept) < 60
    out, _ = sweep(*LONG, "--workers", 0, "--output", path, "--json")
    points = json.loads(out)["points"]
    assert len(points) == 60
    assert [point for point in points if point["name"] in {p["name"] for p in kept}] == kept


@pytest.mark.slow
def test_a_cluster_that_is_gone_ends_the_sweep(tmp_path: Path, cluster: Any) -> None:
    address, there = cluster(lightloom.__version__, 1)
    path = tmp_path / "out.json"
    process = started(*LONG, "--scheduler", address, "--output", path)
    wait_for_points(path, process)
    there.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2 and "is gone" in error, error
    assert "Traceback" not in error and json.loads(path.read_bytes())["points"]


def test_a_mistake_at_one_point_does_not_end_the_others() -> None:
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"][:2]
    asked = make_sweep({"models": ["digits", "digits/gone"], "profiles": ["ideal"]})
    points, _ = asked.points()
    inputs = dict.fromkeys(asked.models, Inputs(images))
    with open_workers(0) as workers:
        results = Results(asked, points, {}, inputs, None)
        document = run_sweep(results, inputs, workers, lambda *_: None)
    assert [point["status"] for point in document["points"]] == ["done", "failed"]
    assert "digits/gone" in document["points"][1]["error"]
    assert [point.model for point in results.left] == ["digits/gone"]  # to be tried again


def test_a_failed_task_fails_what_needs_it() -> None:
    def wrong() -> None:
        raise InputError("no such thing")

    with open_workers(0) as workers:
        first = workers.submit(wrong)
        tasks = [workers.submit(len, first), workers.submit(len, "abc")]
        assert dict(workers.finished(tasks)) == {0: Failure("no such thing"), 1: 3}


# -------------------------------------------------------------------------------- closed doors


def test_local_workers_listen_on_loopback_alone_and_to_us_alone() -> None:
    # a port of Dask runs any code that it is sent: by other users of this machine too
    from distributed import Client

    with open_workers(1, offers={"bench": 1}) as workers:
        here = psutil.Process()
        listening = [
            connection
            for process in (here, *here.children(recursive=True))
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening and all(found.laddr.ip == "127.0.0.1" for found in listening)
        address = workers.address  # type: ignore[attr-defined]
        assert address.startswith("tls://127.0.0.1:")
        with pytest.raises(OSError):
            Client(address.replace("tls", "tcp"), timeout=2, set_as_default=False)
        tasks = [workers.submit(pow, 2, n, needs={"bench": 1}) for n in range(3)]
        assert dict(workers.finished(tasks)) == {0: 1, 1: 2, 2: 4}


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("version", "workers", "message"),
    [
        ("0.0.9", 1, "has lightloom 0.0.9, but here it is"),
        ("none", 1, "cannot load lightloom"),
        pytest.param(lightloom.__version__, 0, "has no workers", marks=pytest.mark.slow),
    ],
)
def test_workers_that_do_not_fit_are_refused(
    cluster: Any, version: str, workers: int, message: str
) -> None:
    address, _ = cluster(version, workers)
    with pytest.raises(InputError, match=message) as caught, open_workers(0, address):
        pass
    assert address in str(caught.value) or "the worker tcp://127.0.0.1:" in str(caught.value)


@pytest.mark.slow
def test_what_listens_and_says_nothing_is_no_scheduler() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with (
            pytest.raises(InputError, match="not answer as a Dask scheduler"),
            open_workers(0, address),
        ):
            pass
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers at 'tcp://127.0.0.1:1'"),
        (("--scheduler", "nonsense"), "'nonsense' is not an address"),
        (("--scheduler", "tls://127.0.0.1:1"), "needs certificates"),
        (("--scheduler", "x:1", "--workers", "2"), "has its own workers"),
        (("gone.toml",), "cannot read the sweep 'gone.toml'"),
        (("--output", "no/such/folder/out.json"), "out.json"),
        (("--set", "readout_range=ideal,per-row", "--text", "book.txt"), "'text' is of no use"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused("--limit", 1, *arguments)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"model": ["digits"]}, "no key 'model'"),
        ({"models": []}, "models is an empty list"),
        ({"models": "digits"}, "models = 'digits' is not a list"),
        ({"models": [3]}, "models: 3 is not a name"),
        ({"profiles": []}, "profiles is an empty list"),
        ({"light": []}, "light is an empty list"),
        ({"encodings": ["offset", "offset"]}, "encoding names offset twice"),
        ({"light": [1e3, "1000"]}, "photons_full_scale names 1000 twice"),
        ({"light": [True]}, "photons_full_scale: True"),
        ({"light": [1e3], "set": {"photons_full_scale": [1]}}, "is given twice"),
        ({"set": {"colour": ["red"]}}, "'colour' is not a field of a profile"),
        ({"set": {"title": ["x"]}}, "'title' is not a field of a profile"),
        ({"set": {"rows": 4}}, "set.rows = 4 is not a list"),
        ({"set": []}, "set = []"),
        ({"seeds": [-1]}, "seeds: -1"),
        ({"seeds": ["a"]}, "seeds: 'a'"),
        ({"seeds": [1, 1]}, "seeds names 1 twice"),
        ({"limit": 0}, "limit = 0"),
        ({"placement": "sun"}, "unknown placement 'sun'"),
        ({"text": 3}, "text = 3"),
        ({"seeds": list(range(1001)), "set": {"rows": list(range(2, 102))}}, "100,100 points"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_sweep(document)
    assert message in str(caught.value)


def test_unknown_profiles_are_refused() -> None:
    with pytest.raises(InputError, match="unknown profile 'sun'"):
        Sweep(profiles=("sun",)).points()


def test_impossible_points_are_named_before_anything_runs(tmp_path: Path) -> None:
    asked = ("--set", "rows=1,8", "--encoding", "abs-split,offset", "--limit", 1, "--workers", 0)
    asked += ("--placement", "projections", "--profile", "ideal")
    error = refused(*asked, "--output", tmp_path / "out.json")
    assert "1 of 4 points cannot be" in error and "rows=1" in error and "--skip-imp" in error
    assert not (tmp_path / "out.json").exists()
    document = json.loads(sweep(*asked, "--skip-impossible", "--json")[0])
    assert len(document["points"]) == 3 and "rows = 1" in document["impossible"][0]["why"]
    assert "1 of 1 point cannot be" in refused("--set", "rows=0", "--skip-impossible")


def test_a_file_names_a_sweep_and_options_go_before_it(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text('profiles = ["ideal"]\nlight = [1e3, "none"]\nlimit = 3\n[set]\nrows = [8]\n')
    out, _ = sweep(path, "--limit", 1, "--set", "length=64", "--workers", 0)
    assert "2 points" in out and "MOCK" in out and "none" in out
    path.write_text("light = [")
    assert "is not valid TOML" in refused(path)


def test_a_file_of_another_sweep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    model = load_model("digits")
    images = load_arrays(model.source / "data.safetensors")["images"]

    def opened(document: dict[str, Any], limit: int = 2) -> Results:
        asked = make_sweep({"profiles": ["ideal"], **document})
        points, impossible = asked.points()
        return Results(asked, points, impossible, {"digits": Inputs(images[:limit])}, path)

    first = opened({})
    first.add(first.left[0], {"quality": {}})
    first.write()
    assert not opened({}).left
    with pytest.raises(InputError, match="another sweep: its seeds"):
        opened({"seeds": [1]})
    with pytest.raises(InputError, match="other inputs"):
        opened({}, limit=3)
    for content, message in (
        ("{", "is not a file of a sweep"),
        ("[]", "is not a file of a sweep"),
        (path.read_text().replace(f'"{lightloom.__version__}"', '"0.0.9"'), "of lightloom 0.0.9"),
        (path.read_text().replace('"schema": 1', '"schema": 9'), "schema 9"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            opened({})


def test_without_dask_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(lightloom.LightloomError, match=r"lightloom\[cluster\]"), open_workers(2):
        pass
