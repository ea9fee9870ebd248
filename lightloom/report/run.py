"""`run_page`: a run as one HTML page: what ran, what came out, where time and energy went, faults.

It is made from the run's journal, whether the run is complete, paused, killed or still running. The
page of an incomplete run says so at the top, and leaves out what is not known yet. The journal is
added up elsewhere (`scheduler.journal.summary`); tables and charts are in `run_figures`.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ..instruments.formatting import (
    format_count,
    format_counted,
    format_duration,
    format_energy,
    format_moment,
    format_number,
    format_quantity,
)
from ..scheduler.journal.journal_file import JournalFile
from ..scheduler.journal.summary import Summary, summarise
from ..scheduler.runs.tables import quality_figures
from .energy import account_parts
from .page import render
from .run_figures import (
    checked_table,
    event_counts,
    event_table,
    fault_chart,
    fault_table,
    how_ended,
    instrument_table,
    last_fault_table,
    product_table,
    quality_charts,
    quality_table,
    session_table,
    spread_table,
    time_chart_by_kind,
    time_table,
    tries_table,
)

RUN_PAGE = "lightloom run page"
_MOST_TEXT, _MOST_COMMAND = 20_000, 500  # characters that are shown


def run_page(journal: JournalFile) -> str:
    """Return the page of a run.

    Raises
    ------
    InputError : when the journal is damaged
    MissingExtraError : without the extra `report`
    """
    run = summarise(journal)
    counts, times = event_counts(run), time_table(run)
    last = run.sessions[-1].document if run.sessions else {}
    name = journal.path.name
    log = journal.path.with_name(f"{name}-wal")  # of what is being written
    files = [path for path in (journal.path, log) if path.exists()]
    size = format_quantity(sum(path.stat().st_size for path in files), "B")
    return render(
        "run.html",
        RUN_PAGE,
        title=f"Run of {_model(run)} on {_backend(run)}",
        lead=f"Journal {name}, {size}; page of {format_moment(datetime.now(UTC))}.",
        run=run,
        is_uncalibrated=run.about.get("backend", {}).get("uncalibrated", False),
        is_bench=run.about.get("backend", {}).get("kind") == "bench",
        progress=_progress(run),
        how_it_stands=_how_it_stands(run, name),
        changes=list(_changes(run)),
        headline=list(_headline(run)),
        **_outcome(run),
        times=times,
        time_charts=time_chart_by_kind(run, times),
        events=event_table(run),
        account=_account(run),
        quality_charts=quality_charts(run) if run.segments else [],
        spreads=spread_table(run.quality),
        checks=counts.get("checks", 0),
        suspicious=counts.get("suspicious", 0),
        checked_shots=run.quality.counts[:, run.quality.names.index("checksum")].sum(),
        tries=tries_table(run),
        checked=checked_table(run),
        products=product_table(run),
        faults=fault_table(run),
        fault_charts=fault_chart(run) if run.faults else [],
        last_faults=last_fault_table(run),
        settings=list(_settings(run)),
        instruments=instrument_table(run),
        bench_files={name: text[:_MOST_TEXT] for name, text in run.bench_files.items()},
        sessions=session_table(run),
        command=shlex.join(last.get("command", ()))[:_MOST_COMMAND],
        system=last.get("system", ""),
        sources=list(_sources(run)),
    )


def _model(run: Summary) -> str:
    return str(run.about.get("model", {}).get("name", "an unknown model"))


def _backend(run: Summary) -> str:
    about = run.about.get("backend", {})
    if about.get("kind") == "bench":
        names = [path.replace("\\", "/").rpartition("/")[2] for path in about["paths"]]
        return f"the bench{'' if len(names) == 1 else 'es'} {', '.join(names)}"
    return f"the {about.get('kind', 'unknown')} backend"


def _units(run: Summary) -> str:
    """Return what passes of a run are counted in, such as "images"."""
    return f"{run.progress.unit}{'' if run.progress.wanted == 1 else 's'}"


# --- on top ---------------------------------------------------------------------------------------


def _progress(run: Summary) -> str:
    progress = run.progress
    if not progress.passes:
        return "no step was finished yet."
    of = "" if progress.wanted is None else f" of {progress.wanted:,}"
    told = f"{progress.done:,}{of} {_units(run)} done"
    if 0 < progress.last_done < progress.last_wanted:
        told += f", and {progress.last_done:,} of {progress.last_wanted:,} steps of the next"
    return f"{told}. What follows covers the steps so far."


def _how_it_stands(run: Summary, name: str) -> str:
    """Return how an incomplete run ended, and how to resume it."""
    if not run.sessions:
        return "It was ended before its first session began."
    last = run.sessions[-1]
    if last.outcome is None:
        return (
            f"Session {last.number} has no recorded end: it is still running, or was killed. It "
            f"kept its latest result at {format_moment(last.ended_s)}. Once it has ended, resume "
            f"it with: lightloom resume {name}"
        )
    if last.outcome == "complete":
        return f"Session {last.number} ended without a report."
    how = how_ended(last, is_last=True)
    return f"Session {last.number} {how}. Resume it with: lightloom resume {name}"


def _changes(run: Summary) -> Iterator[str]:
    """Yield what an operator changed between two sessions."""
    for key, changes in run.about.items():
        if key.startswith("changed in "):
            told = "; ".join(changes.values()) if isinstance(changes, dict) else str(changes)
            yield f"CHANGED on the way, {key.removeprefix('changed ')}: {told}."


def _headline(run: Summary) -> Iterator[tuple[str, str, str]]:
    """Yield the figures that count most: name, value, what to know of it."""
    if run.report is not None:
        yield from _report_headline(run.report)
    else:
        of = "" if run.progress.wanted is None else f" of {run.progress.wanted:,}"
        yield "done so far", f"{run.progress.done:,}{of}", _units(run)
    ran_s = sum(max(s.ended_s - s.began_s, 0.0) for s in run.sessions)
    yield "ran for", format_duration(ran_s), f"in {format_counted(len(run.sessions), 'session')}"
    shots = event_counts(run).get("shots", 0)
    if shots:
        yield "shots", f"{shots:,.0f}", "counted"
    if run.about.get("backend", {}).get("kind") == "bench":
        faults = sum(share.count for share in run.faults.values())
        lost_s = sum(share.lost_s for share in run.faults.values())
        yield "faults", f"{faults:,}", f"{format_duration(lost_s) if lost_s else 'no time'} lost"


def _report_headline(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    quality = report["quality"]
    light = "on simulated light, measured" if report["is_mock"] else "on light, measured"
    for side, text in sorted(quality_figures(quality), reverse=True):  # optical first
        if not isinstance(quality[side], str):
            told = light if side == "optical" else "same inputs, measured"
            yield f"{quality['metric']}, {side}", text, told
    here, bench = report["throughput"]["here"], report["throughput"]["bench"]
    unit = report["throughput"]["unit"]
    yield "throughput here", format_number(here), f"{unit}, measured"
    if bench is not None:
        yield "throughput of the bench", format_number(bench), f"{unit}, predicted"
    for side, text in sorted((report.get("generation") or {}).items(), reverse=True):
        if text is not None and text["time_to_first_token_s"] is not None:
            first = format_duration(text["time_to_first_token_s"])
            yield f"time to first token, {side}", first, "here, measured"
    if report.get("energy") is not None:
        each = format_energy(report["energy"]["joules_per_token"]["system"])
        yield f"energy per {report['energy']['unit']}", each, "whole system, predicted"


# --- what came out --------------------------------------------------------------------------------


def _outcome(run: Summary) -> dict[str, Any]:
    """Return the result: texts that were written, or a table of its quality."""
    if run.report is None:
        return {"texts": {}, "quality_sides": None}
    quality = run.report["quality"]
    texts = {
        side: text[:_MOST_TEXT]
        for side, text in quality_figures(quality)
        if isinstance(quality[side], str)
    }
    return {
        "texts": texts,
        "quality_sides": None if texts else quality_table(quality, _backend(run)),
    }


def _account(run: Summary) -> dict[str, Any] | None:
    """Return what the page shows of the account of energy; None without one."""
    account = (run.report or {}).get("energy")
    return None if account is None else {**account_parts(account), "profile": account["profile"]}


# --- what ran -------------------------------------------------------------------------------------


def _settings(run: Summary) -> Iterator[tuple[str, str]]:
    """Yield what a run was made of: names and texts."""
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
    yield from _plan(run)
    yield from run.inputs.items()
    yield from _versions(run.about.get("versions", {}))
    stored = format_quantity(run.results_bytes, "B")
    yield "journal", f"{stored} of results, {format_counted(run.segments, 'segment')} of shots"


def _plan(run: Summary) -> Iterator[tuple[str, str]]:
    task, placement = run.about.get("task", {}), run.about.get("placement", {})
    if task:
        told = f"{task['kind']}, batch {task['batch']}, {format_counted(task['sequence'], 'token')}"
        told += f", {task['new_tokens']:,} new ones" if task.get("new_tokens") else ""
        sampling = "".join(f", {key} {value}" for key, value in task.get("sampling", {}).items())
        yield "task", told + sampling
    if placement:
        products = format_counted(len(placement["on_light"]), "product")
        parts = format_counted(placement["micro_batches"], "micro-batch", "micro-batches")
        yield "placement", f"{placement['policy']}: {products} on light, {parts}"


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


def _sources(run: Summary) -> Iterator[str]:
    """Yield where the figures of a page come from."""
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
