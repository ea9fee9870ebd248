"""A sweep: models x profiles x settings x seeds, each point run on the mock, as data.

Settings are fields of a profile with the values that each takes; encodings and light levels are
two of them. The order of the points, their names and their numbers do not depend on who runs them.
With a file, finished points are kept, and the same sweep resumes from it.
"""

import hashlib
import itertools
import json
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import DEFAULT, OpticsProfile, load_profile, parse_setting
from ..backends.profile import LIGHT_WAYS
from ..instruments import InputError
from ..instruments.file_keys import FileKey, as_toml
from ..instruments.files import is_sealed, replace_file, sealed
from ..instruments.version import VERSION
from ..scheduler import DEFAULT_POLICY, POLICIES
from ..scheduler.cluster.workers import Failure, Workers
from .sweep_points import Inputs, SweepPoint, ranges, reference, run_point

SCHEMA = 1  # of the JSON documents of sweeps
MOST_POINTS = 100_000
_LISTS = ("models", "profiles", "encodings", "light", "seeds")
_SINGLE = ("placement", "limit", "text", "images")
KEYS = (
    FileKey(
        "models",
        "Models: names, folders or GGUF files, as for `lightloom run --model`.",
        '["digits"]',
        allowed="list of texts",
    ),
    FileKey(
        "profiles",
        "Bench profiles: names, or TOML files.",
        as_toml([DEFAULT]),
        allowed="list of texts",
    ),
    FileKey(
        "encodings",
        "Encodings; without the key that of each profile.",
        allowed="list of texts",
    ),
    FileKey(
        "light",
        'Values of `photons_full_scale`; "none" for no shot noise. '
        "Without the key each profile has its own light.",
        allowed="list of numbers",
    ),
    FileKey("seeds", "Seeds of the noise.", "[0]", allowed="list; each: integer, 0 or more"),
    FileKey("set", "Other fields of a profile, each with a list of values.", "{}", allowed="table"),
    FileKey(
        "placement",
        "Policy that sends products to light.",
        as_toml(DEFAULT_POLICY),
        allowed=", ".join(map(as_toml, POLICIES)),
    ),
    FileKey(
        "limit",
        "Number of inputs of each point; without the key all.",
        allowed="integer, 1 or more",
    ),
    FileKey("text", "Text file for language models and encoders."),
    FileKey("images", "File of images for vision models; without the key those of the model."),
)
"""The keys of a sweep file."""
_KEYS = tuple(key.name for key in KEYS)
_QUIET = 10  # times as long as writing took, before the next write


@dataclass(frozen=True)
class Sweep:
    """Lists of values to be combined.

    Parameters
    ----------
    settings : field of the profile -> its values, in order
    limit : inputs of each point
    text, images : files of inputs, for language models and encoders, and for vision models
    """

    models: tuple[str, ...] = ("digits",)
    profiles: tuple[str, ...] = (DEFAULT,)
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    placement: str = DEFAULT_POLICY
    limit: int | None = None
    text: str | None = None
    images: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the sweep for JSON."""
        settings = {key: list(values) for key, values in self.settings.items()}
        lists = {key: list(getattr(self, key)) for key in ("models", "profiles", "seeds")}
        return {**vars(self), **lists, "settings": settings}

    def points(self) -> tuple[list[SweepPoint], dict[str, str]]:
        """Return the points in order; and, by name, why other combinations are impossible.

        Raises
        ------
        InputError : for an unknown profile
        """
        choices = [
            dict(zip(self.settings, values, strict=True))
            for values in itertools.product(*self.settings.values())
        ]
        benches = [
            (profile, chosen, _with_settings(base, chosen))
            for profile, base in zip(self.profiles, map(load_profile, self.profiles), strict=True)
            for chosen in choices
        ]
        possible: list[SweepPoint] = []
        impossible: dict[str, str] = {}
        for model, (profile, chosen, bench), seed in itertools.product(
            self.models, benches, self.seeds
        ):
            shown = [f"{key}={_shown(value)}" for key, value in chosen.items()]
            name = " ".join([model, profile, *shown, f"seed={seed}"])
            if isinstance(bench, str):
                impossible[name] = bench
            else:
                point = (name, model, profile, chosen, seed, self.placement, bench)
                possible.append(SweepPoint(*point))
        return possible, impossible


def _with_settings(bench: OpticsProfile, settings: Mapping[str, Any]) -> OpticsProfile | str:
    """Return a profile with settings, or why it is impossible."""
    try:
        return bench.with_settings(settings)
    except InputError as error:
        return str(error)


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------ reading


def make_sweep(document: Mapping[str, Any]) -> Sweep:
    """Return a sweep of lists, as a TOML file has them; a missing key takes its default.

    Parameters
    ----------
    document : models, profiles, encodings, light (values of photons_full_scale), set (a table of
        fields of the profile, a list each), seeds; placement, limit, text, images

    Raises
    ------
    InputError : naming the key and its value
    """
    for key in document.keys() - set(_KEYS):
        raise InputError(f"a sweep has no key {key!r}; it has {', '.join(_KEYS)}")
    lists: dict[str, Any] = {key: _list(key, document[key]) for key in _LISTS if key in document}
    own = {"encoding": lists.pop("encodings", None), "photons_full_scale": lists.pop("light", None)}
    settings = _settings(own, document.get("set", {}))
    _check_lists(lists)
    rest: dict[str, Any] = {key: document[key] for key in _SINGLE if key in document}
    sweep = Sweep(**lists, settings=settings, **rest)
    _check_rest(sweep)
    return sweep


def _settings(own: Mapping[str, Any], more: Any) -> dict[str, tuple[Any, ...]]:
    """Return the values of every field: those of the lists of their own, and of `set`."""
    if not isinstance(more, Mapping):
        raise InputError(f"set = {more!r} is not a table of a profile's fields")
    settings: dict[str, tuple[Any, ...]] = {}
    for key, values in itertools.chain(own.items(), more.items()):
        if values is None:
            continue
        if key in settings:
            raise InputError(f"{key} is given twice: once as a list of its own, once by set")
        settings[key] = tuple(_setting(key, value) for value in _list(f"set.{key}", values))
        _check_different(key, settings[key])
    return settings


def _check_lists(lists: Mapping[str, Any]) -> None:
    """Refuse seeds that are not counts, names that are not texts, and values given twice."""
    for seed in lists.get("seeds", ()):
        if not _is_count(seed, 0):
            raise InputError(f"seeds: {seed!r} is not a whole number from 0 on")
    for key in ("models", "profiles"):
        for name in lists.get(key, ()):
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"{key}: {name!r} is not a name")
    for key, values in lists.items():
        _check_different(key, values)


def _list(key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise InputError(f"{key} = {values!r} is not a list of values")
    if not values:
        raise InputError(f"{key} is an empty list: a sweep of it has no points")
    return tuple(values)


def _setting(key: str, value: Any) -> Any:
    """Return the value of a profile's field; a text is read as on the command line."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"{key}: {value!r} is neither a number nor a word")
    if value == "":
        raise InputError(f"{key}: a value is missing")
    parsed = parse_setting(f"{key}={value}")[1]  # refuses unknown fields
    return parsed if isinstance(value, str) else value


def _check_different(key: str, values: Sequence[Any]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise InputError(f"{key} names {_shown(value)} twice")


def _check_rest(sweep: Sweep) -> None:
    if sweep.placement not in POLICIES:
        raise InputError(
            f"unknown placement {sweep.placement!r}; choose from {', '.join(POLICIES)}"
        )
    if sweep.limit is not None and not _is_count(sweep.limit, 1):
        raise InputError(f"limit = {sweep.limit!r} is not a whole number from 1 on")
    for key, path in (("text", sweep.text), ("images", sweep.images)):
        if path is not None and not isinstance(path, str):
            raise InputError(f"{key} = {path!r} is not a path of a file")
    axes = (sweep.models, sweep.profiles, sweep.seeds, *sweep.settings.values())
    count = math.prod(map(len, axes))
    if count > MOST_POINTS:
        raise InputError(f"the sweep has {count:,} points; {MOST_POINTS:,} are the most")


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**64


# ------------------------------------------------------------------------------------ results


class Results:
    """Document of a sweep, by point, written to its file as points finish.

    Parameters
    ----------
    path : of the file, None for none; one of the same sweep is resumed

    Raises
    ------
    InputError : when the file cannot be used or written, or is of another sweep
    """

    def __init__(
        self,
        sweep: Sweep,
        points: Sequence[SweepPoint],
        impossible: Mapping[str, str],
        inputs: Mapping[str, Inputs],
        path: Path | None,
    ) -> None:
        self._path, self._points = path, points
        self._records: dict[str, dict[str, Any]] = {}
        self._head = {
            "schema": SCHEMA,
            "lightloom": VERSION,
            "is_mock": True,
            "sweep": sweep.as_dict(),
            "fingerprint": _fingerprint(points, inputs),
        }
        self._tail: dict[str, Any] = {
            "impossible": [{"name": name, "why": why} for name, why in impossible.items()],
            "sources": {
                "quality": "computed here, on the mock and digitally",
                "throughput.here": "measured here, beside the work of all workers",
                "throughput.bench": "predicted from the profile; host steps as measured here",
                "energy": "events counted here, constants of the profile",
            },
        }
        self._next_s = 0.0
        if path is not None:
            if path.exists():
                self._resume(path)
            self.write()

    @property
    def left(self) -> list[SweepPoint]:
        """The points that are not done, in order; failed ones are among them."""
        return [
            point
            for point in self._points
            if self._records.get(point.name, {}).get("status") != "done"
        ]

    def add(self, point: SweepPoint, result: Any) -> None:
        """Keep the result of a point: its record, or a `Failure`."""
        is_failed = isinstance(result, Failure)
        self._records[point.name] = {
            "name": point.name,
            "model": point.model,
            "profile": point.profile_name,
            "settings": dict(point.settings),
            "seed": point.seed,
            "status": "failed" if is_failed else "done",
            **({"error": result.sentence} if is_failed else result),
        }
        if time.monotonic() >= self._next_s:
            self.write()

    def write(self) -> None:
        """Write the file, where there is one."""
        if self._path is None:
            return
        start = time.monotonic()
        text = json.dumps(sealed(self.document()), indent=1, allow_nan=False)
        try:
            replace_file(self._path, text.encode("utf-8"))
        except OSError as error:
            raise InputError(f"cannot write {str(self._path)!r}: {error.strerror}") from None
        end = time.monotonic()
        self._next_s = end + _QUIET * (end - start)

    def document(self) -> dict[str, Any]:
        """Return the document with the points that have a result, in order."""
        known = [self._records[p.name] for p in self._points if p.name in self._records]
        return {**self._head, "count": len(self._points), "points": known, **self._tail}

    def _resume(self, path: Path) -> None:
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not self._head.keys() <= found.keys():
            raise InputError(f"{path} is not a file of a sweep; give another --output")
        if found["schema"] != SCHEMA or found["lightloom"] != VERSION:
            raise InputError(
                f"{path} is of lightloom {found['lightloom']} (schema {found['schema']}), this is "
                f"{VERSION} (schema {SCHEMA}); give another --output"
            )
        if not is_sealed(found):
            raise InputError(
                f"{path} is not as it was written: its SHA-256 does not fit what it says; bring "
                "back a copy, or give another --output"
            )
        old, new = found["sweep"], json.loads(json.dumps(self._head["sweep"]))
        for key in new:
            if old.get(key) != new[key]:
                raise InputError(
                    f"{path} is of another sweep: its {key} = {json.dumps(old.get(key))}, not "
                    f"{json.dumps(new[key])}; give another --output"
                )
        if found["fingerprint"] != self._head["fingerprint"]:
            raise InputError(
                f"{path} is of other inputs, or of profiles that have changed since; "
                "give another --output"
            )
        names = {point.name for point in self._points}
        self._records = {r["name"]: r for r in found.get("points", []) if r["name"] in names}


def _fingerprint(points: Sequence[SweepPoint], inputs: Mapping[str, Inputs]) -> str:
    """Return a digest of what a sweep's numbers depend on beside its lists: profiles and inputs."""
    total = hashlib.sha256()
    for text in dict.fromkeys(point.profile.model_dump_json() for point in points):
        total.update(text.encode())
    for name, given in inputs.items():
        for value in (given.values, given.labels):
            array = np.asarray(value if value is not None else [])
            total.update(f"{name} {array.dtype} {array.shape}".encode())
            total.update(array.tobytes())
    return total.hexdigest()


# ------------------------------------------------------------------------------------ running


def run_sweep(
    results: Results,
    inputs: Mapping[str, Inputs],
    workers: Workers,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Run the points that are left, and return the document.

    Parameters
    ----------
    inputs : of each model
    progress : called with (what, done, total)

    Raises
    ------
    WorkersLost : when no worker is left
    """
    sweep, left = uuid.uuid4().hex, results.left
    models = dict.fromkeys(point.model for point in left)
    beside = {name: workers.submit(reference, sweep, name, inputs[name]) for name in models}
    known: dict[str, Any] = {}
    tasks = []
    for point in left:
        key = _without_light(point)
        if key not in known:
            known[key] = workers.submit(ranges, sweep, point)
        tasks.append(workers.submit(run_point, sweep, point, beside[point.model], known[key]))
    progress("points", 0, len(left))
    try:
        for done, (index, result) in enumerate(workers.finished(tasks), start=1):
            results.add(left[index], result)
            progress("points", done, len(left))
    finally:
        results.write()
    return results.document()


def _without_light(point: SweepPoint) -> str:
    """Return a key of all that the read-out ranges of a point depend on."""
    bench = point.profile.model_dump_json(exclude={*LIGHT_WAYS, "sources", "years"})
    return f"{point.model} {bench}"
