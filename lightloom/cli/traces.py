"""The timeline that `run` and `plan` write with --trace."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..instruments import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from ..instruments import Timeline
    from ..scheduler.runs import Plan

_MOST_SHOTS = 300_000  # of a prediction: more make a file that no viewer opens


def check_trace(path: Path) -> None:
    """Refuse a trace that could not be written, before hours are spent on it."""
    from ..instruments.files import check_output
    from ..scheduler.runs.trace import KIND

    if not path.name.lower().endswith((".json", ".json.gz")):
        raise InputError(f"--trace {path}: a trace is called .json or .json.gz")
    check_output(path, KIND)


def write_trace(
    path: Path | None, planned: "Plan", measured: "Timeline | None", console: "Console"
) -> None:
    """Write what was predicted, and what was measured where something ran; None writes nothing."""
    if path is None:
        return
    from ..instruments import Timeline
    from ..scheduler.runs.trace import write_trace as write

    timelines = {}
    shots = planned.prediction.shots
    if shots <= _MOST_SHOTS:
        timelines["predicted"] = Timeline()
        planned.predict(timeline=timelines["predicted"])
    if measured is not None:
        timelines["measured"] = measured
    if not timelines:
        raise InputError(
            f"--trace: the plan takes {shots:,} shots, and a trace holds {_MOST_SHOTS:,} at "
            "most; give a smaller --batch or --sequence"
        )
    about = {
        "model": planned.model.name,
        "profile": planned.profile.name,
        "placement": planned.placement,
        "is_mock": planned.backend.is_mock,
        "predicted_shots": shots,
    }
    write(path, timelines, about)
    told = f"wrote {path}; see it in ui.perfetto.dev, or with: lightloom report {path}"
    console.print(told, markup=False)
