"""Options that several commands share, each with its help, and how their lists are read."""

from collections.abc import Sequence as Several
from pathlib import Path
from typing import Annotated

import typer

from ..instruments import InputError
from ..instruments.environment import switch_cache_off

SEVERAL = "Repeat the option for several."  # in the help of an option that is a list

ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="Model: digits, glimmer, a Hugging Face folder, a GGUF file, or a hub name."
    ),
]
Width = Annotated[int | None, typer.Option(help="Use a GPT-2 of this width instead of --model.")]
Depth = Annotated[int, typer.Option(help="Layers of the GPT-2 of --width.")]
Batch = Annotated[int, typer.Option(help="Images or sequences in one pass.")]
Sequence = Annotated[
    int | None,
    typer.Option(
        help="Tokens in each sequence (default: 128, or the context of the model if shorter)."
    ),
]
NewTokens = Annotated[int, typer.Option(help="Tokens to generate after each sequence.")]
BackendName = Annotated[str, typer.Option("--backend", help="Backend: mock or digital.")]
ProfileName = Annotated[
    str | None,
    typer.Option("--profile", help="Bench profile: a name or a TOML file (default: slm-camera)."),
]
ProfileNames = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", help=f"Bench profile: a name or a TOML file (default: slm-camera). {SEVERAL}"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=f"Set one field of the profile. {SEVERAL}"),
]
Placement = Annotated[
    str,
    typer.Option(
        help="Which products go to light: paper, projections, all-optical, host, fastest, "
        "least-energy, or a file of rules (.toml)."
    ),
]
BenchFile = Annotated[Path, typer.Option("--bench", help="Bench file.")]
BenchFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--bench",
        help="Run on the instruments of this bench file. Repeat the option to share the work.",
    ),
]
Attended = Annotated[
    bool,
    typer.Option(
        "--attended", help="State that a person is at the bench, though not at this terminal."
    ),
]
TraceFile = Annotated[
    Path | None,
    typer.Option(help="Write a timeline for ui.perfetto.dev to this file (.json or .json.gz)."),
]
Journal = Annotated[Path, typer.Argument(help="Journal that run --record wrote.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise, and of sampling.", min=0)]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads for arithmetic (default: OMP_NUM_THREADS, or all).", min=1),
]


def _switch_cache(is_off: bool) -> bool:
    if is_off:
        switch_cache_off()
    return is_off


NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Neither use nor keep ranges and encoded weights of other runs (see doctor).",
        callback=_switch_cache,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


def split_values(text: str | None) -> list[str]:
    """Return the values V1,V2,... of an option; none where it is not given."""
    return [] if text is None else [value.strip() for value in text.split(",")]


def split_settings(option: str, texts: Several[str], form: str) -> dict[str, list[str]]:
    """Return the values of each key of an option KEY=V1,V2,... that is given several times.

    Parameters
    ----------
    form : of the option, for messages

    Raises
    ------
    InputError : for a text of another form, and a key that is given twice
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, _, values = text.partition("=")
        if not values.strip():
            raise InputError(f"{option} {text!r} is not {form}")
        key = key.strip().replace("-", "_")
        if key in found:
            raise InputError(f"{option} {key} is given twice; list its values after one")
        found[key] = split_values(values)
    return found
