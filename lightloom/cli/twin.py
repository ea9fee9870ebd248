"""`lightloom twin`: a profile of the mock from the calibration of a bench."""

from pathlib import Path
from typing import Annotated

import typer

from ..instruments import limit_threads
from .options import Json
from .output import print_json

CalibrationFile = Annotated[
    Path, typer.Argument(help="Calibration file that `lightloom calibrate` wrote (.json).")
]
NewProfile = Annotated[
    Path, typer.Option(help="New profile (.toml); its arrays are written beside it.")
]


def command(calibration: CalibrationFile, output: NewProfile, json_: Json = False) -> None:
    """Write the profile of a mock that multiplies like a calibrated bench: its twin.

    Example: lightloom twin bench.calibration.json --output my-bench.profile.toml
    """
    limit_threads(None)
    from ..backends import twin

    profile = twin(calibration, output)
    assert profile.twin is not None
    if json_:
        print_json(
            {
                "schema": 1,
                "profile": str(output),
                "arrays": profile.twin.file,
                "calibration": str(calibration),
                "calibrated_at": profile.twin.calibrated_at,
                "is_mock": True,
                "is_simulated": profile.twin.is_simulated,
            }
        )
        return
    print(
        f"wrote {output} and {Path(profile.twin.file).name}: {profile.twin.remark}; next: "
        f"lightloom run --profile {output}"
    )
