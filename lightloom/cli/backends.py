"""The backend that the options of a command name."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..instruments import InputError

if TYPE_CHECKING:
    from ..backends import Backend


def chosen_backend(
    name: str,
    profile: str | None,
    settings: list[str] | None,
    seed: int,
    bench: list[Path] | None = None,
    uncalibrated: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> "Backend":
    """Return the backend that the options name.

    Raises
    ------
    InputError : for options that do not go together, or a backend or a profile that is unknown
    """
    from ..backends import DEFAULT, MockBackend, load_profile, open_backend, parse_setting

    if bench or scheduler is not None:
        if profile or settings:
            raise InputError("--profile and --set belong to a mock; a bench file says it all")
        if name == "digital":
            raise InputError("--bench and --backend digital are two backends; give one of them")
        return _open_benches(bench or [], uncalibrated, workers, scheduler)
    if uncalibrated or workers is not None:
        option = "--uncalibrated" if uncalibrated else "--workers"
        raise InputError(f"{option} is for a bench: give --bench too")
    if name == "digital":
        if profile or settings:
            raise InputError("--profile and --set belong to a mock; the digital backend has none")
        return open_backend("digital")
    if name != "mock":
        raise InputError(f"unknown --backend {name!r}; choose digital or mock")
    loaded = load_profile(DEFAULT if profile is None else profile)
    if settings:
        loaded = loaded.with_settings(dict(parse_setting(text) for text in settings))
    return MockBackend(loaded, seed)


def _open_benches(
    paths: list[Path], uncalibrated: bool, workers: int | None, scheduler: str | None
) -> "Backend":
    from ..backends.bench import open_benches

    if scheduler is not None and (paths or workers is not None):
        raise InputError("--scheduler has its own benches; give it, or --bench and --workers")
    if workers and workers != len(paths):
        raise InputError(f"--workers {workers}: benches take a process each, here {len(paths)}")
    if scheduler is None and not workers:
        return open_benches(paths, uncalibrated)
    from ..scheduler.cluster.remote_benches import RemoteBenches

    return RemoteBenches(paths, scheduler, uncalibrated)


def declare_attended(attended: bool) -> None:
    """Tell every bench that this process or its workers open that a person is there.

    A person who reads this terminal counts without the option.
    """
    from ..backends.bench import safety

    if attended or safety.is_attended():
        os.environ[safety.ATTENDED] = "1"
