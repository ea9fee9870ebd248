"""`run_page`: a run as one HTML page: what ran, what came out, where time and energy went, faults.

It is made from the run's journal, whether the run is complete, paused, killed or still running. The
page of an incomplete run says so at the top, and leaves out what is not known yet. The journal is
added up elsewhere (`scheduler.journal.summary`).
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..instruments.formatting import (
    format_count,
    format_counted,
    format_duration,
    format_moment,
    format_number,
    format_quantity,
)
from ..instruments.table import as_html
from ..scheduler.journal.journal import JournalFile
from ..scheduler.journal.summary import (
    LAST_FAULTS,
    History,
    Session,
    StepTotals,
    Summary,
    summarise,
)
from ..scheduler.runs.tables import PLACES, quality_figures, step_table
from .charts import Line, bar_chart, time_chart
from .energy import account_parts, verdict_parts
from .page import (
    cards,
    drawings,
    folded,
    listing,
    mark,
    page,
    pairs,
    paragraph,
    section,
    table,
    verbatim,
)

RUN_PAGE = "lightloom run page"
_MOST_SESSIONS = 60  # the latest that are listed
_IDENTITY = ("maker", "model", "serial")
_MOST_TEXT = 20_000  # characters of a text that is shown
_COUNTS = {
    "shots": "shots",
    "input_frames": "input frames",
    "weight_frames": "weight frames",
    "conversions": "conversions",
    "photons": "photoelectrons of light",
    "saturated": "saturated values",
    "retries": "retries",
    "marked": "shots marked",
    "checks": "checksums checked",
    "suspicious": "checksums suspicious",
    "macs": "MACs",
    "input_samples": "input samples",
    "weight_samples": "weight samples",
}


def run_page(journal: JournalFile) -> str:
    """Return the page of a run.

    Raises
    ------
    InputError : when the journal is damaged
    """
    run = summarise(journal)
    now = datetime.now(UTC)
    log = journal.path.with_name(f"{journal.path.name}-wal")  # of what is being written
    files = [path for path in (journal.path, log) if path.exists()]
    size = format_quantity(sum(path.stat().st_size for path in files), "B")
    lead = f"Journal {journal.path.name}, {size}; page of {format_moment(now)}."
    parts = [
        *_marks(run, journal.path.name),
        cards(_headline(run)),
        *_outcome(run),
        section("Where operations and time go", *_times(run)),
        section("Energy", *_energy(run)),
        section("Quality over time", *_quality(run)),
        section("Checks", *_checks(run)),
        section("Faults", *_faults(run)),
        section("What ran", *_what(run)),
        section("Sessions", *_sessions(run)),
        section("Where the figures come from", listing(_sources(run))),
    ]
    return page(RUN_PAGE, f"Run of {_model(run)} on {_backend(run)}", lead, *parts)


def _model(run: Summary) -> str:
    return str(run.about.get("model", {}).get("name", "an unknown model"))


def _backend(run: Summary) -> str:
    about = run.about.get("backend", {})
    if about.get("kind") == "bench":
        names = [path.replace("\\", "/").rpartition("/")[2] for path in about["paths"]]
        return f"the bench{'' if len(names) == 1 else 'es'} {', '.join(names)}"
    return f"the {about.get('kind', 'unknown')} backend"


# --- on top ---------------------------------------------------------------------------------------


def _marks(run: Summary, name: str) -> Iterator[str]:
    """Yield what a reader must not overlook."""
    if run.is_mock:
        yield mark("MOCK: simulated; no light was measured.")
    if run.about.get("backend", {}).get("uncalibrated"):
        yield mark("NOT CALIBRATED: the bench ran on a guess; these numbers are not reliable.")
    if run.report is None:
        yield mark(f"NOT COMPLETE: {_progress(run)}")
        yield paragraph(_how_it_stands(run, name))
    for key, changes in run.about.items():
        if key.startswith("changed in "):
            told = "; ".join(changes.values()) if isinstance(changes, dict) else str(changes)
            yield mark(f"CHANGED on the way, {key.removeprefix('changed ')}: {told}.")
    if run.marked:
        yield mark(
            f"MARKED: {format_counted(run.marked, 'shot')} with numbers that were not measured, "
            "since recovery failed; see Faults."
        )


def _progress(run: Summary) -> str:
    progress = run.progress
    if not progress.passes:
        return "no step was finished yet."
    many = f"{progress.unit}{'' if progress.wanted == 1 else 's'}"
    of = "" if progress.wanted is None else f" of {progress.wanted:,}"
    told = f"{progress.done:,}{of} {many} done"
    if 0 < progress.last_done < progress.last_wanted:
        told += f", and {progress.last_done:,} of {progress.last_wanted:,} steps of the next"
    return f"{told}. What follows covers the steps so far."


def _how_it_stands(run: Summary, name: str) -> str:
    if not run.sessions:
        return "It was ended before its first session began."
    last = run.sessions[-1]
    how = _ended(last, is_last=True)
    if last.outcome is None:
        return (
            f"Session {last.number} has no recorded end: it is still running, or was killed. It "
            f"kept its latest result at {format_moment(last.ended_s)}. Once it has ended, resume "
            f"it with: lightloom resume {name}"
        )
    if last.outcome == "complete":
        return f"Session {last.number} ended without a report."
    return f"Session {last.number} {how}. Resume it with: lightloom resume {name}"


def _headline(run: Summary) -> Iterator[tuple[str, str, str]]:
    report = run.report
    if report is not None:
        yield from _quality_cards(report)
        here, bench = report["throughput"]["here"], report["throughput"]["bench"]
        unit = report["throughput"]["unit"]
        yield "throughput here", format_number(here), f"{unit}, measured"
        if bench is not None:
            yield "throughput of the bench", format_number(bench), f"{unit}, predicted"
        if report.get("energy") is not None:
            each = format_quantity(report["energy"]["joules_per_token"]["system"], "J")
            yield f"energy per {report['energy']['unit']}", each, "whole system, predicted"
    else:
        of = "" if run.progress.wanted is None else f" of {run.progress.wanted:,}"
        many = f"{run.progress.unit}{'' if run.progress.wanted == 1 else 's'}"
        yield "done so far", f"{run.progress.done:,}{of}", many
    ran_s = sum(max(s.ended_s - s.began_s, 0.0) for s in run.sessions)
    yield "ran for", format_duration(ran_s), f"in {format_counted(len(run.sessions), 'session')}"
    shots = _events(run).get("shots", 0)
    if shots:
        yield "shots", f"{shots:,.0f}", "counted"
    if run.about.get("backend", {}).get("kind") == "bench":
        faults = sum(share.count for share in run.faults.values())
        lost_s = sum(share.lost_s for share in run.faults.values())
        yield "faults", f"{faults:,}", f"{format_duration(lost_s) if lost_s else 'no time'} lost"


def _quality_cards(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    quality = report["quality"]
    if quality["metric"] == "text":
        return
    light = "on simulated light" if report["is_mock"] else "on light"
    words = {"optical": f"{light}, measured", "digital": "same inputs, measured"}
    for side, text in reversed([*quality_figures(quality)]):
        yield f"{quality['metric']}, {side}", text, words[side]


# --- what ran -------------------------------------------------------------------------------------


def _what(run: Summary) -> Iterator[str]:
    yield pairs(_settings(run))
    instruments = _instruments(run)
    if instruments:
        yield table(("instrument", "driver", "what it is", "as it was"), instruments)
    for name, text in run.bench_files.items():
        yield folded(f"The file of the {name}, as it was", verbatim(text[:_MOST_TEXT]))


def _settings(run: Summary) -> Iterator[tuple[str, str]]:
    model, backend = run.about.get("model", {}), run.about.get("backend", {})
    if model:
        size = f"{format_count(model['parameters'])} parameters"
        yield "model", f"{model['name']}, {size}, digest {model['digest']}, from {model['source']}"
    yield "backend", _backend(run) + (", simulated (MOCK)" if run.is_mock else "")
    profile = backend.get("profile")
    if profile:
        title = f": {profile['title']}" if profile.get("title") else ""
        yield "profile", f"{profile['name']}{title}"
    elif run.report is not None and run.report["profile"]:
        yield "profile", f"{run.report['profile']}: {run.report['profile_title']}"
    if backend.get("kind") == "bench":
        yield "bench file", ", ".join(backend["paths"])
        yield "calibration", _calibration(run)
    for name, (length, digest) in run.files.items():
        yield f"{name}, as kept", f"{length:,} bytes, digest {digest}"
    seeds = ", ".join(_seeds(run))
    if seeds:
        yield "seeds", f"{seeds}; noise is keyed by shot and attempt"
    task, placement = run.about.get("task", {}), run.about.get("placement", {})
    if task:
        told = f"{task['kind']}, batch {task['batch']}, {task['sequence']} tokens"
        told += f", {task['new_tokens']} new ones" if task.get("new_tokens") else ""
        sampling = "".join(f", {key} {value}" for key, value in task.get("sampling", {}).items())
        yield "task", told + sampling
    if placement:
        count = len(placement["on_light"])
        parts = placement["micro_batches"]
        told = f"{placement['policy']}: {format_counted(count, 'product')} on light, "
        yield "placement", f"{told}{format_counted(parts, 'micro-batch', 'micro-batches')}"
    for name, words in run.inputs.items():
        yield name, words
    yield from _versions(run.about.get("versions", {}))
    stored = format_quantity(run.results_bytes, "B")
    yield "journal", f"{stored} of results, {format_counted(run.segments, 'segment')} of shots"


def _versions(versions: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = [f"{k} {v}" for k, v in versions.items() if v and not isinstance(v, Mapping)]
    if names:
        yield "versions", ", ".join(names)
    for key, found in versions.items():
        if isinstance(found, Mapping):
            yield key, "; ".join(f"{name}: {how}" for name, how in found.items())


def _calibration(run: Summary) -> str:
    if run.about["backend"].get("uncalibrated"):
        return "none: a guess"
    kept = [digest for name, (_, digest) in run.files.items() if name.startswith("calibration")]
    if kept:
        return f"as kept, digest {', '.join(kept)}"
    return "the simulation's own truth"


def _seeds(run: Summary) -> Iterator[str]:
    backend, task = run.about.get("backend", {}), run.about.get("task", {})
    if "seed" in backend:
        yield f"{backend['seed']} of the noise"
    for name, text in run.bench_files.items():
        try:
            seed = tomllib.loads(text).get("world", {}).get("seed")
        except (tomllib.TOMLDecodeError, AttributeError):
            continue
        if seed is not None:
            yield f"{seed} of the simulated world of the {name}"
    if "seed" in task.get("sampling", {}):
        yield f"{task['sampling']['seed']} of sampling"


def _instruments(run: Summary) -> list[tuple[str, ...]]:
    """Return what the last session found connected, a row each."""
    for session in reversed(run.sessions):
        found = session.document.get("instruments")
        if found:
            return [
                (
                    role,
                    told.get("driver", ""),
                    " ".join(str(told.get("identity", {}).get(key, "")) for key in _IDENTITY),
                    ", ".join(f"{k} {_plain(v)}" for k, v in told.get("settings", {}).items()),
                )
                for role, told in found.items()
            ]
    return []


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " x ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _sessions(run: Summary) -> Iterator[str]:
    shown = run.sessions[-_MOST_SESSIONS:]
    if not shown:
        yield paragraph("None has begun.")
        return
    if len(shown) < len(run.sessions):
        yield paragraph(f"The latest {len(shown):,} of {len(run.sessions):,}.")
    rows = [
        (
            str(session.number),
            format_moment(session.began_s),
            format_moment(session.ended_s),
            format_duration(max(session.ended_s - session.began_s, 0.0)),
            f"{session.steps:,}",
            f"{session.shots:,}",
            _ended(session, session is run.sessions[-1]),
            str(session.document.get("host", "")),
        )
        for session in shown
    ]
    heads = ("session", "began", "ended", "ran for", "steps", "shots", "how it ended", "host")
    yield table(heads, rows, (0, 3, 4, 5))
    last = run.sessions[-1].document
    if last.get("command"):
        yield paragraph(f"Command of the latest: {shlex.join(last['command'])[:500]}")
    if last.get("system"):
        yield paragraph(f"On {last['system']}.")


def _ended(session: Session, is_last: bool) -> str:
    if session.outcome is None:
        return "still running, or killed" if is_last else "killed"
    return ": ".join(text for text in (session.outcome, session.detail[:500]) if text)


# --- what came out --------------------------------------------------------------------------------


def _outcome(run: Summary) -> Iterator[str]:
    report = run.report
    if report is None:
        return
    quality = report["quality"]
    parts = []
    if quality["metric"] == "text":
        for side, text in quality_figures(quality):
            parts += [paragraph(f"{side}:"), verbatim(text[:_MOST_TEXT])]
    else:
        words = {
            "digital": "float32 on this machine, the same inputs; measured",
            "optical": f"on {_backend(run)}; measured",
        }
        sides = [(side, text, words[side]) for side, text in quality_figures(quality)]
        parts.append(table((quality["metric"], "", "source"), sides, (1,)))
    if report["remarks"]:
        parts.append(listing(report["remarks"]))
    yield section("Quality of the result", *parts)


def _times(run: Summary) -> Iterator[str]:
    if run.report is not None:
        yield from _report_times(run.report)
    else:
        yield from _times_so_far(run)
    events = [
        (
            _COUNTS.get(name, name.replace("_", " ")),
            f"{value:,.0f}" if value < 1e9 else f"{value:.4g}",
        )
        for name, value in _events(run).items()
        if value
    ]
    if events:
        yield paragraph("Events of the run, counted:")
        yield table(("event", "number"), events, (1,))


def _events(run: Summary) -> dict[str, float]:
    """Return counts by the names of `Stats`: of the report, else of what is kept so far."""
    if run.report is not None:
        counts: Mapping[str, Any] = run.report["stats"]
    else:
        steps: dict[str, float] = {}
        for share in run.products.values():
            for name, value in share.counts.items():
                steps[name] = steps.get(name, 0) + value
        counts = run.shots if run.shots else steps
    names = [*_COUNTS, *(name for name in counts if name not in _COUNTS and name != "frames")]
    return {
        name: counts[name]
        for name in names
        if isinstance(counts.get(name), int | float) and not isinstance(counts.get(name), bool)
    }


def _report_times(report: Mapping[str, Any]) -> Iterator[str]:
    yield as_html(step_table(report["steps"], report["profile"], report["wall_seconds"]))
    sides = {"here": "seconds_here"}
    how = ", as measured"
    if report["profile"]:
        sides["bench"] = "seconds_bench"
        how = ": here as measured, on the bench as predicted"
    whole = {key: sum(step[key] for step in report["steps"]) or 1.0 for key in sides.values()}
    shares = {
        step["kind"]: [(step[key] / whole[key], step[key]) for key in sides.values()]
        for step in sorted(report["steps"], key=lambda step: PLACES[step["where"]])
        if any(step[key] for key in sides.values())
    }
    most = max((share for bars in shares.values() for share, _ in bars), default=1.0)
    bars = [
        (kind, [(share / most, format_duration(seconds)) for share, seconds in pair])
        for kind, pair in shares.items()
    ]
    chart = bar_chart("where time goes, by kind of step", list(sides), bars)
    if chart:
        yield drawings([(chart, f"Share of the time, by kind of step{how}")])


def _times_so_far(run: Summary) -> Iterator[str]:
    if not run.kinds:
        yield paragraph("No step is finished yet.")
        return
    kinds = sorted(
        run.kinds.items(), key=lambda item: (PLACES.get(item[0][1], len(PLACES)), item[0])
    )
    whole = sum(share.seconds for _, share in kinds) or 1.0
    rows = [
        (
            kind,
            where,
            f"{share.times:,}",
            format_count(share.counts["macs"]) if share.counts["macs"] else "",
            f"{share.counts['shots']:,}" if share.counts["shots"] else "",
            format_duration(share.seconds),
            f"{share.seconds / whole:.1%}",
        )
        for (kind, where), share in kinds
    ]
    times = sum(share.times for _, share in kinds)
    heads = ("step", "where", "finished", "MACs", "shots", "here", "share")
    yield table(
        heads, rows, range(2, 7), ("all", "", f"{times:,}", "", "", format_duration(whole), "100%")
    )
    most = max(share.seconds for _, share in kinds) or 1.0
    bars = [
        (kind, [(share.seconds / most, format_duration(share.seconds))])
        for (kind, _), share in kinds
    ]
    chart = bar_chart("time of the steps so far, by kind", ("here",), bars)
    yield drawings([(chart, "Time of the steps so far, by kind, as measured")])
    yield paragraph(
        "Here: measured on this machine, steps that wait for light included. What the bench would "
        "take is predicted once the run is complete."
    )


def _energy(run: Summary) -> Iterator[str]:
    report = run.report
    if report is None:
        yield paragraph("Accounted for once the run is complete.")
        return
    account = report.get("energy")
    if account is None:
        yield paragraph("A digital run has no account: it used no bench.")
        return
    yield paragraph(
        f"Events as this run counted them, times constants of the profile {account['profile']} "
        "that each name their source (below). Predicted: no power was measured."
    )
    yield from account_parts(account)
    yield folded(
        "Beside digital machines, what decides it, step by step, and every constant with its "
        "source",
        *verdict_parts(account),
    )


# --- quality over time ----------------------------------------------------------------------------

_FIGURES: tuple[tuple[str, str, tuple[float, str] | None, bool], ...] = (
    (
        "brightness",
        "light over that of calibration, where it was measured",
        (1.0, "as calibrated"),
        False,
    ),
    (
        "dark",
        "dark pixels off what calibration says, in sigma of their mean",
        (0.0, "as calibrated"),
        False,
    ),
    ("peak", "brightest sample of a shot over a full one", (1.0, "full"), True),
    ("checksum", "largest |z| of a shot's checksums", None, True),
    ("attempts", "how often a shot was taken", (1.0, "once"), False),
)


def _quality(run: Summary) -> Iterator[str]:
    course = run.quality
    if not run.segments:
        yield paragraph(
            "No shots are on record: "
            + (
                "none was finished yet."
                if run.about.get("backend", {}).get("kind") == "bench"
                else "this backend computes products and takes no shots one by one."
            )
        )
        return
    begins = [s.offset_s for s in run.sessions[1:]] if len(run.sessions) <= _MOST_SESSIONS else []
    pictures = [_rate(course, begins)]
    for name, caption, level, from_zero in _FIGURES:
        place = course.names.index(name)
        counts = course.counts[:, place]
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = course.sums[:, place] / counts
        line = Line(name, middle, course.lows[:, place], course.highs[:, place])
        chart = time_chart(
            f"{name} over time", course.width_s, course.end_s, [line], begins, level, from_zero
        )
        if chart:
            words = f"{name.capitalize()}: {caption}; line: mean, band: least to largest"
            pictures.append((chart, words))
    yield paragraph(
        f"{course.rows.sum():,.0f} shots, references included, in bins of "
        f"{format_duration(course.width_s)}; measured by this run. "
        + "Time runs only while the run does"
        + ("; dotted: a session began." if begins else ".")
        + " A segment's shots are spread evenly over the time since the segment before it."
    )
    yield drawings([picture for picture in pictures if picture[0]])
    yield table(("figure", "mean", "least", "largest", "shots"), _spreads(course), range(1, 5))


def _rate(course: History, begins: Sequence[float]) -> tuple[str, str]:
    rate = course.rows / course.width_s
    last = min(int(course.end_s / course.width_s), len(rate) - 1)
    rate[last + 1 :] = np.nan
    if last:  # what is only begun
        share = course.end_s / course.width_s - last
        rate[last] = rate[last] / share if share > 0.2 else np.nan
    chart = time_chart(
        "shots per second over time",
        course.width_s,
        course.end_s,
        [Line("shots per second", rate)],
        begins,
        None,
        True,
    )
    return chart, "Shots per second of this machine's time"


def _spreads(course: History) -> Iterator[tuple[str, ...]]:
    for place, name in enumerate(course.names):
        count = course.counts[:, place].sum()
        if count:
            yield (
                name,
                f"{course.sums[:, place].sum() / count:.4g}",
                f"{np.nanmin(course.lows[:, place]):.4g}",
                f"{np.nanmax(course.highs[:, place]):.4g}",
                f"{count:,.0f}",
            )
        else:
            yield name, "not measured", "", "", "0"


# --- checks and faults ----------------------------------------------------------------------------


def _checks(run: Summary) -> Iterator[str]:
    events = _events(run)
    checks, suspicious = events.get("checks"), events.get("suspicious", 0)
    place = run.quality.names.index("checksum")
    checked = run.quality.counts[:, place].sum()
    if checks:
        yield paragraph(
            f"{checks:,.0f} checksums of tiles were checked, {suspicious:,.0f} are suspicious."
        )
    elif checked:
        yield paragraph(f"{checked:,.0f} shots had their checksums checked.")
    else:
        yield paragraph("No checksums are on record for this run.")
    if run.attempts:
        rows = [(f"{times:,}", f"{count:,}") for times, count in sorted(run.attempts.items())]
        yield table(("attempts", "shots"), rows[:20], (0, 1))
    checked_products = (run.report or {}).get("checks") or {}
    if checked_products:
        yield paragraph(
            "By product. Smallest error: of an output, in its own units, that is found with 99.9 %."
        )
        told = ("product", "checked", "suspicious", "largest |z| in order", "smallest error")
        yield table(told, _checked(checked_products), range(1, 5))
    rows_by_product = list(_products(run.products))
    if rows_by_product:
        heads = [name for name, _ in rows_by_product[0]]
        body = [[value for _, value in row] for row in rows_by_product]
        yield paragraph("Events by product, layers together:")
        yield table(heads, body, range(1, len(heads)))


def _checked(products: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for product, told in products.items():
        error, largest = told.get("smallest_error"), told.get("largest")
        yield (
            product,
            f"{told.get('checks', 0):,}",
            f"{told.get('suspicious', 0):,}",
            f"{largest:.2f}" if largest else "-",
            format_number(error) if error is not None else "not known",
        )


def _products(products: Mapping[str, StepTotals]) -> Iterator[list[tuple[str, str]]]:
    names = [
        name
        for name in ("shots", "retries", "marked", "checks", "suspicious", "saturated")
        if name in ("shots", "retries", "saturated")
        or any(share.counts[name] for share in products.values())
    ]
    for product, share in products.items():
        row = [("product", product), ("times", f"{share.times:,}")]
        row += [(_COUNTS[name], f"{share.counts[name]:,}") for name in names]
        yield row


def _faults(run: Summary) -> Iterator[str]:
    if not run.faults:
        yield paragraph("None is on record.")
        return
    faults = sorted(run.faults.items(), key=lambda item: -item[1].count)
    rows = [
        (
            kind,
            device or "unknown",
            f"{share.count:,}",
            ", ".join(f"{name} {count:,}" for name, count in share.recoveries.most_common()),
            format_duration(share.lost_s) if share.lost_s else "-",
        )
        for (kind, device), share in faults
    ]
    count = sum(share.count for _, share in faults)
    lost_s = sum(share.lost_s for _, share in faults)
    total = ("all", "", f"{count:,}", "", format_duration(lost_s) if lost_s else "-")
    yield table(("kind", "device", "faults", "recovery", "time lost"), rows, (2, 4), total)
    yield paragraph(
        "Every fault is counted; none is retried silently. Time lost: of the bench's clock, for "
        "the exposure and the recovery."
    )
    course = run.fault_history
    begins = [s.offset_s for s in run.sessions[1:]] if len(run.sessions) <= _MOST_SESSIONS else []
    chart = time_chart(
        "faults over time",
        course.width_s,
        max(course.end_s, run.quality.end_s),
        [_bars("faults", course.rows)],
        begins,
        None,
        True,
    )
    if chart:
        yield drawings(
            [(chart, f"Faults in bins of {format_duration(course.width_s)} of running time")]
        )
    last = [
        (
            str(fault["session"]),
            format_moment(fault["at_s"]),
            fault["kind"],
            fault["device"] or "unknown",
            fault["shot"],
            str(fault["attempt"]),
            fault["recovery"],
            str(fault["detail"])[:300],
        )
        for fault in reversed(run.last_faults)
    ]
    heads = ("session", "at", "kind", "device", "shot", "failed before", "recovery", "detail")
    told = f"The latest {len(last):,}" if count > LAST_FAULTS else f"All {len(last):,}"
    yield folded(f"{told}, newest first", table(heads, last, (0, 5)))


def _bars(name: str, counts: np.ndarray) -> Line:
    """Return counts as bars from 0 on."""
    nothing = np.full(counts.shape, np.nan)
    return Line(
        name, nothing, np.where(counts > 0, 0.0, np.nan), np.where(counts > 0, counts, np.nan)
    )


# --- sources --------------------------------------------------------------------------------------


def _sources(run: Summary) -> Iterator[str]:
    kind = run.about.get("backend", {}).get("kind")
    light = {"mock": "computed by the mock", "bench": "measured by the bench"}.get(kind, "")
    if kind == "bench" and run.is_mock:
        light = "measured by the simulated bench"
    yield (
        "Counted or measured by this run: quality, throughput and time here, events, faults"
        + (f", numbers of light ({light})." if light else ".")
    )
    if run.report is not None and run.report["profile"]:
        yield (
            f"Predicted from the profile {run.report['profile']}: time on the bench, energy. Its "
            "constants name their sources in the account of energy: published, of a device's "
            "maker, measured, assumed or recalled."
        )
        for key, words in run.report.get("sources", {}).items():
            yield f"{key.replace('_', ' ')}: {words}."


__all__ = ["run_page"]
