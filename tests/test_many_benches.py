"""Several benches multiply as one: the same numbers, one task per bench, all dark on a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bench_factory import bench_text, changed, fault
from lightloom.backends import Address, Backend, Geometry, Ranges
from lightloom.backends.bench import BenchGroup, open_benches
from lightloom.backends.bench.sharding import Sharding
from lightloom.instruments import InputError, InstrumentError, NotConnected
from lightloom.scheduler.cluster import bench_worker
from lightloom.scheduler.cluster.remote_benches import RemoteBenches
from lightloom.scheduler.cluster.workers import Cluster, WorkersLost, open_workers
from typer.testing import CliRunner
from waiting import wait_until

from lightloom.cli.app import app

pytest.importorskip("distributed")

Write = Callable[..., list[Path]]


def real(first: int, second: int, producer: Path, port: int) -> str:
    """A bench of real devices: monitors of modulators, a camera's producer, a source's port."""
    instruments = {
        "input": {"driver": "display-slm", "monitor": first},
        "weight": {"driver": "display-slm", "monitor": second},
        "detector": {"driver": "genicam-camera", "producer": str(producer)},
        "source": {
            "driver": "scpi-source",
            "address": f"ASRL{port}::INSTR",
            "max_power_w": "5 mW",
        },
    }
    return changed("", schema=1, layout="imaged", coherence="incoherent", instruments=instruments)


def text(**changes: Any) -> str:
    """A bench file of tiny instruments with real timing and exact light."""
    return bench_text(world__light="timing", **changes)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def files(*contents: str) -> list[Path]:
        paths = [tmp_path / f"bench{number}.toml" for number in range(1, len(contents) + 1)]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content, encoding="utf-8")
        return paths

    return files


@contextmanager
def opened(*backends: Backend) -> Iterator[tuple[Backend, ...]]:
    with ExitStack() as stack:
        yield tuple(stack.enter_context(backend) for backend in backends)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape, dtype=np.float32)


# what is sharded -> x and w: heads, weight frames (a tiny frame holds 16 outputs), rows
PRODUCTS = {
    "matrices": (numbers(1, 3, 2, 20), numbers(2, 3, 5, 20)),
    "outputs": (numbers(3, 3, 20), numbers(4, 50, 20)),
    "rows": (numbers(5, 5, 20), numbers(6, 7, 20)),
}


def check_numbers(backend: Backend, one: Backend) -> None:
    """Check for the numbers of one bench: grey levels and names of shots are the same."""
    for number, (x, w) in enumerate(PRODUCTS.values()):
        at = Address(f"product.{number}", np.arange(x[..., 0].size, dtype=np.uint64))
        found, wanted = backend.matmul(x, w, at), one.matmul(x, w, at)
        exact = x @ np.swapaxes(w, -1, -2)
        assert np.abs(wanted.y - exact).max() < 0.02 * np.abs(exact).max()  # 8 bits a factor
        np.testing.assert_allclose(found.y, wanted.y, rtol=1e-6, atol=1e-6)
        assert found.variance is not None and found.variance.shape == found.y.shape
        assert found.stats.macs == wanted.stats.macs


# ------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("by", PRODUCTS)
def test_joined_shards_are_the_product(by: str) -> None:
    x, w = PRODUCTS[by]
    stacked, rows = w.reshape(-1, *w.shape[-2:]), x.reshape(-1, *x.shape[-2:])
    sharding = Sharding.of(stacked.shape, Geometry(32, 16, is_divisible=True, parts=2), 2)
    assert sharding.by == by
    ranges = Ranges(np.ones((1, 1)), np.abs(w).max(axis=-1, keepdims=True))
    parts = sharding.weights(stacked, ranges)
    for part, own in parts:
        assert own is not None and own.weight is not None
        assert np.broadcast_to(own.weight, part.shape).shape == part.shape
    at = Address("x", np.zeros(rows.shape[:2], dtype=np.uint64))
    operands = sharding.operands(rows, at)
    assert len(operands) == 2
    for part, address in operands:
        assert address.rows.shape == part.shape[:2]


def test_a_group_gives_the_numbers_of_one_bench(write: Write) -> None:
    paths = write(text(), text(), text())
    with opened(open_benches(paths[:1]), open_benches(paths[1:])) as (one, group):
        assert isinstance(group, BenchGroup)
        check_numbers(group, one)
        assert all(bench.bench.shots for bench in group.benches.values())
        assert len(group.remarks) == 2


@pytest.mark.slow
def test_processes_give_the_numbers_of_one_bench_and_get_weights_once(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(text(), text(), text())
    sent: list[Any] = []
    submit = Cluster.submit

    def recording(self: Cluster, function: Any, *arguments: Any, **options: Any) -> Any:
        if function is bench_worker.multiply:
            sent.extend((options["worker"], shard) for shard in arguments[2])
        return submit(self, function, *arguments, **options)

    monkeypatch.setattr(Cluster, "submit", recording)
    one, remote = open_benches(paths[:1]), RemoteBenches(paths[1:])
    with opened(one, remote):
        check_numbers(remote, one)
        assert remote.is_mock and remote.is_calibrated
        assert remote.geometry == one.geometry and remote.profile.rows == one.profile.rows
        x, w = PRODUCTS["outputs"]
        sent.clear()
        prepared = remote.prepare(w)
        for finish in [remote.begin(x, prepared) for _ in range(40)]:  # more than may be pending
            finish()
        assert len(sent) == 80 and len({worker for worker, _ in sent}) == 2
        assert all(shard.weights.array is None for _, shard in sent)  # the workers have them
        assert remote.queues is not None
        address = remote.queues.connection.benches[0].address
        remote.queues.connection.cluster.ask([address], bench_worker.release)
        check_numbers(remote, one)  # a worker that has dropped weights asks for them again
    assert len(remote.remarks) == 2 and "bench3.toml" in remote.remarks[1]
    with opened(remote):  # closed, it can be opened again
        check_numbers(remote, one)


# -------------------------------------------------------------------------- one task uses a bench


@pytest.fixture
def here(write: Write, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Dask cluster in this process, whose only worker runs two tasks and offers one bench."""
    from distributed import LocalCluster

    monkeypatch.setenv(bench_worker.VARIABLE, str(write(text())[0]))
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        host="127.0.0.1",
        protocol="tcp://",
        resources={"bench": 1},
        dashboard_address=None,
        worker_dashboard_address="127.0.0.1:0",
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    )
    with cluster:
        yield cluster.scheduler_address
    assert bench_worker._bench is None  # a worker that stops leaves no light on


# long enough for another task to begin
_NAP = "(time := __import__('time'), time.time(), time.sleep(0.1), time.time())[1::2]"
_MEET = "__import__('meeting').barrier.wait(timeout=30)"


def test_one_task_at_a_time_uses_a_bench(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting: Any = SimpleNamespace(barrier=Barrier(2))
    monkeypatch.setitem(sys.modules, "meeting", meeting)  # the worker is of this process
    with open_workers(0, here) as workers:
        tasks = [workers.submit(eval, _MEET) for _ in range(4)]
        places = sorted(place for _, place in workers.finished(tasks))
        assert places == [0, 0, 1, 1]  # the worker has two threads, whose tasks met
        tasks = [workers.submit(eval, _NAP, needs={"bench": 1}) for _ in range(4)]
        spans = sorted(span for _, span in workers.finished(tasks))
        assert all(first[1] <= later[0] for first, later in pairwise(spans))


def test_two_runs_share_a_bench_and_the_last_one_leaves_it_dark(here: str) -> None:
    x, w = PRODUCTS["rows"]
    with opened(RemoteBenches(address=here), RemoteBenches(address=here)) as (first, second):
        expected = first.matmul(x, w).y
        backend = bench_worker._bench.backend
        assert backend is not None and backend.bench.source.is_connected
        first.close()
        np.testing.assert_array_equal(second.matmul(x, w).y, expected)
        assert bench_worker._bench.backend is backend and backend.bench.source.is_connected
        second.close()
        assert bench_worker._bench is None and not backend.bench.source.is_connected


def test_a_run_that_has_ended_multiplies_no_more(here: str) -> None:
    # a task that was sent before the run was stopped must not switch the light on again
    remote = RemoteBenches(address=here)
    with opened(remote):
        assert remote.queues is not None
        bench_worker.end_run(remote.queues.connection.run)
        with pytest.raises(NotConnected, match="has ended"):
            bench_worker.multiply(remote.queues.connection.run, False, [])
        assert bench_worker._bench is None


def test_light_goes_off_without_products(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the process that began the run may have been killed
    monkeypatch.setattr(bench_worker, "IDLE_S", 0.2)
    x, w = PRODUCTS["rows"]
    with opened(RemoteBenches(address=here)) as (remote,):
        prepared = remote.prepare(w)
        first = remote.matmul(x, prepared).y
        wait_until(lambda: bench_worker._bench is None)
        np.testing.assert_array_equal(remote.matmul(x, prepared).y, first)  # and on again


# ------------------------------------------------------------------------------------- failures


LOST = {"instruments__weight__faults": fault("lost", [3]), "faults__disconnected": "pause"}


def test_when_one_bench_fails_all_are_dark(write: Write) -> None:
    paths = write(text(), text(**LOST))
    group = open_benches(paths)
    assert isinstance(group, BenchGroup)
    x, w = PRODUCTS["outputs"]
    with opened(group):
        assert all(bench.bench.source.is_connected for bench in group.benches.values())
        with pytest.raises(InstrumentError, match=r"bench2\.toml"):
            for _ in range(5):
                group.matmul(x, w)
        assert not any(bench.bench.source.is_connected for bench in group.benches.values())


def test_a_bench_that_cannot_be_opened_leaves_the_others_dark(write: Write) -> None:
    paths = write(text(), text(instruments__weight__faults=fault("held", [1])))
    group = open_benches(paths)
    assert isinstance(group, BenchGroup)
    with pytest.raises(InstrumentError, match=r"bench2\.toml"):
        group.open()
    assert not any(bench.bench.source.is_connected for bench in group.benches.values())


def asked(remote: RemoteBenches, code: str) -> dict[str, Any]:
    assert remote.queues is not None
    addresses = [bench.address for bench in remote.queues.connection.benches]
    return remote.queues.connection.cluster.ask(addresses, eval, code)


_MODULE = "__import__('sys').modules['lightloom.scheduler.cluster.bench_worker']"
_IS_DARK = f"{_MODULE}._bench is None"


@pytest.mark.slow
def test_an_error_on_one_worker_ends_the_run_and_all_are_dark(write: Write) -> None:
    paths = write(text(clock="real"), text(clock="real", **LOST))
    remote = RemoteBenches(paths)
    x, w = PRODUCTS["outputs"]
    with opened(remote):
        assert list(asked(remote, _IS_DARK).values()) == [False, False]
        begun = [remote.begin(x, w) for _ in range(6)]
        # no result has been asked for yet
        wait_until(lambda: all(asked(remote, _IS_DARK).values()))
        assert list(asked(remote, _IS_DARK).values()) == [True, True]
        with pytest.raises(InstrumentError, match=r"bench2\.toml.*lost|bench2\.toml.*gone"):
            for finish in begun:
                finish()
        assert remote.queues is not None and not remote.queues.connection.is_open


def kill(pid: int) -> None:
    os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.mark.slow
def test_the_shards_of_a_killed_worker_run_elsewhere(write: Write) -> None:
    remote = RemoteBenches(write(text(clock="real"), text(clock="real")))
    x, w = PRODUCTS["outputs"]
    exact = x @ w.T
    with opened(remote):
        prepared = remote.prepare(w)
        remote.matmul(x, prepared)
        processes = list(asked(remote, "__import__('os').getpid()").values())
        begun = [remote.begin(x, prepared) for _ in range(20)]
        kill(processes[1])
        for finish in begun:
            assert np.abs(finish().y - exact).max() < 0.02 * np.abs(exact).max()
        assert remote.repeated > 0
        for shape in PRODUCTS.values():  # and so do products that begin later
            assert remote.matmul(*shape).y.size
        kill(processes[0])
        with pytest.raises(WorkersLost, match=r"of all benches are lost|is gone"):
            remote.matmul(x, prepared)
    remarks = " ".join(remote.remarks)
    assert f"{remote.repeated} shards that it had were run again" in remarks
    assert "the light of bench 2 was switched off from here" in remarks


# ----------------------------------------------------------------------------- the command line


def run(*arguments: object, status: int = 0) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(variable, "1")  # as the command sets them
        done = CliRunner().invoke(app, ["run", "--limit", "1", *map(str, arguments)])
    assert done.exit_code == status, done.output
    if status == 2:
        assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1, done.stderr
        return done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_bench_of_a_cluster_is_taken(here: str) -> None:
    document = run("--scheduler", here, "--json")
    assert document["is_mock"] and document["stats"]["shots"] > 0
    assert any("bench1.toml" in note for note in document["remarks"])


@pytest.mark.slow
def test_benches_of_a_cluster_are_taken(write: Write) -> None:
    # as operators start them
    from distributed import Client

    paths = write(text(), text())
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    command += ["--port", "0", "--no-dashboard", "--scheduler-file"]
    where = paths[0].with_name("scheduler.json")
    processes = [subprocess.Popen([*command, str(where)], stderr=subprocess.DEVNULL)]
    try:
        wait_until(lambda: where.exists() and where.read_text(), timeout_s=60)
        address = json.loads(where.read_text())["address"]
        for path in paths:
            command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
            command += ["--no-nanny", "--nthreads", "1", "--resources", "bench=1"]
            command += ["--no-dashboard"]
            there = os.environ | {bench_worker.VARIABLE: str(path)}
            processes.append(subprocess.Popen(command, env=there, stderr=subprocess.DEVNULL))
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        document = run("--scheduler", address, "--json")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert document["is_mock"] and document["stats"]["shots"] > 0
    assert all(any(path.name in note for note in document["remarks"]) for path in paths)


def test_workers_without_a_bench_are_refused(
    here: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(bench_worker.VARIABLE)
    with pytest.raises(InputError, match=f"{bench_worker.VARIABLE} names no bench file"):
        RemoteBenches(address=here).open()
    monkeypatch.setenv(bench_worker.VARIABLE, str(tmp_path / "gone.toml"))
    with pytest.raises(InputError, match=r"gone\.toml"):
        RemoteBenches(address=here).open()
    from distributed import LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            processes=False,
            host="127.0.0.1",
            protocol="tcp://",
            dashboard_address=None,
            worker_dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as plain,
        pytest.raises(InputError, match="offers a bench; start them so"),
    ):
        RemoteBenches(address=plain.scheduler_address).open()


def test_mistakes_end_in_one_sentence(write: Write) -> None:
    first, other = write(text(), text(encoding__kind="offset"))
    both = ("--bench", first, "--bench", other)
    for workers in (0, 2):
        error = run(*both, "--workers", workers, status=2)
        assert "bench1.toml) has abs-split" in error and "bench2.toml) has offset" in error
    for arguments, message in (
        (("--bench", first, "--bench", "gone.toml"), "gone.toml"),
        (("--bench", first, "--workers", 2), "here 1"),
        (("--workers", 2), "--workers is for a bench"),
        (("--scheduler", "x:1", "--bench", first), "--scheduler has its own benches"),
        (("--scheduler", "x:1", "--workers", 2), "--scheduler has its own benches"),
        (("--scheduler", "tcp://127.0.0.1:1"), "no Dask scheduler answers"),
        (("--scheduler", "x:1", "--profile", "ideal"), "belong to a mock"),
    ):
        assert message in run(*arguments, status=2), arguments


def test_no_instrument_is_used_twice(write: Write) -> None:
    producer = write("")[0]
    paths = write(
        real(first=1, second=2, producer=producer, port=1),
        real(first=3, second=2, producer=producer, port=2),
    )
    error = run("--bench", paths[0], "--bench", paths[0], "--uncalibrated", status=2)
    assert "each bench has instruments of its own" in error and "bench1.toml" in error
    error = run("--bench", paths[0], "--bench", paths[1], "--uncalibrated", status=2)
    assert "bench2.toml): instruments.weight" in error
