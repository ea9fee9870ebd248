"""The tables and charts of a run's page, from the totals of its journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ..instruments.formatting import (
    format_count,
    format_duration,
    format_moment,
    format_number,
    format_value,
)
from ..instruments.table import Cell, Table, columns
from ..scheduler.journal.summary import History, Session, Summary
from ..scheduler.runs.tables import PLACES, quality_figures, step_table
from .charts import Bar, Line, bar_chart, time_chart

Charts = list[tuple[str, str]]  # SVG, caption
MOST_SESSIONS = 60  # the latest that are listed
_IDENTITY = ("maker", "model", "serial")
_MOST_DETAIL = 500  # characters of how a session ended
_MOST_TRIES = 20  # rows
_SIDES = ("here", "bench")  # of times: columns with the shares behind them
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
_ALWAYS = ("shots", "retries", "saturated")  # of products, also where all are 0
_SELDOM = ("marked", "checks", "suspicious")
_FIGURES: dict[str, tuple[str, tuple[float, str] | None, bool]] = {  # caption, level, from zero
    "brightness": (
        "light over that of calibration, where it was measured",
        (1.0, "as calibrated"),
        False,
    ),
    "dark": (
        "dark pixels off what calibration says, in sigma of their mean",
        (0.0, "as calibrated"),
        False,
    ),
    "peak": ("brightest sample of a shot over a full one", (1.0, "full"), True),
    "checksum": ("largest |z| of a shot's checksums", None, True),
    "attempts": ("how often a shot was taken", (1.0, "once"), False),
}


# --- results and times ----------------------------------------------------------------------------


def quality_table(quality: Mapping[str, Any], backend: str) -> Table:
    """Return the quality of a result, digital and optical."""
    sources = {
        "digital": "float32 on this machine, the same inputs; measured",
        "optical": f"on {backend}; measured",
    }
    heads = {quality["metric"]: None, "": "", "source": None}
    rows = tuple((side, text, sources[side]) for side, text in quality_figures(quality))
    return Table("", columns(heads), rows)


def event_counts(run: Summary) -> dict[str, float]:
    """Return counts by the names of `Stats`: of the report, else of what is kept so far."""
    if run.report is not None:
        counts: Mapping[str, Any] = run.report["stats"]
    else:
        steps: Counter[str] = Counter()
        for share in run.products.values():
            steps.update(share.counts)
        counts = run.shots if run.shots else steps
    in_order = {**dict.fromkeys(_COUNTS), **counts}
    return {
        name: value
        for name, value in in_order.items()
        if name != "frames" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def event_table(run: Summary) -> Table:
    """Return the events of a run that occurred."""
    heads = {"event": None, "number": ""}
    rows = tuple(
        (
            _COUNTS.get(name, name.replace("_", " ")),
            f"{value:,.0f}" if value < 1e9 else f"{value:.4g}",
        )
        for name, value in event_counts(run).items()
        if value
    )
    return Table("", columns(heads), rows)


def time_table(run: Summary) -> Table:
    """Return where operations and time went; of an incomplete run, by the steps so far."""
    if run.report is not None:
        report = run.report
        table = step_table(report["steps"], report["profile"], report.get("wall_seconds"))
        return replace(table, title="")
    order = sorted(run.kinds, key=lambda key: (PLACES.get(key[1], len(PLACES)), key))
    kinds = {key: run.kinds[key] for key in order}  # light above the host above converters
    whole = sum(share.seconds for share in kinds.values())
    heads = {
        "step": None,
        "where": None,
        "finished": ",",
        "MACs": format_count,
        "shots": ",",
        "here": format_duration,
        "share": ".1%",
    }
    rows = tuple(
        (
            *(kind, where, share.times),
            *(share.counts["macs"] or None, share.counts["shots"] or None),
            *(share.seconds, share.seconds / (whole or 1.0)),
        )
        for (kind, where), share in kinds.items()
    )
    times = sum(share.times for share in kinds.values())
    return Table(
        "",
        columns(heads),
        rows,
        total=("all", "", times, "", "", whole, 1.0),
        caption="Here: measured on this machine, steps that wait for light included. What the "
        "bench would take is predicted once the run is complete.",
    )


def time_chart_by_kind(run: Summary, times: Table) -> Charts:
    """Return the shares of a time table as bars: here and, where it is predicted, on the bench."""
    sides = {c.header: place for place, c in enumerate(times.columns) if c.header in _SIDES}
    bars = []
    for row in times.rows:
        name = str(row[0])
        for side, place in sides.items():
            share = cast(float, row[place + 1])
            bars.append(Bar(name, {side: share}, times.columns[place].text(row[place])))
            name = ""  # the bench's bar stands below the one of here
    so_far = " of the steps so far" if run.report is None else ""
    how = ": here as measured, on the bench as predicted" if "bench" in sides else ", as measured"
    caption = f"Share of the time{so_far}, by kind of step{how}"
    return [(bar_chart("where time goes, by kind of step", bars), caption)]


# --- quality over time ----------------------------------------------------------------------------


def _begins_s(run: Summary) -> list[float]:
    """Return when sessions began, on a clock of running time; none of too many to mark."""
    if len(run.sessions) > MOST_SESSIONS:
        return []
    return [session.offset_s for session in run.sessions[1:]]


def quality_charts(run: Summary) -> Charts:
    """Return the rate of shots, and their figures of quality, over time."""
    course = run.quality
    charts = [_rate_chart(run)]
    for name, (caption, level, from_zero) in _FIGURES.items():
        place = course.names.index(name)
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = course.sums[:, place] / course.counts[:, place]
        if np.isfinite(middle).any():
            line = Line(middle, course.lows[:, place], course.highs[:, place])
            where = (course.width_s, course.end_s, line, _begins_s(run), level, from_zero)
            words = f"{name.capitalize()}: {caption}; line: mean, band: least to largest"
            charts.append((time_chart(f"{name} over time", *where), words))
    return charts


def _rate_chart(run: Summary) -> tuple[str, str]:
    course = run.quality
    rate = course.rows / course.width_s
    last = min(int(course.end_s / course.width_s), len(rate) - 1)
    rate[last + 1 :] = np.nan
    if last:  # what is only begun
        share = course.end_s / course.width_s - last
        rate[last] = rate[last] / share if share > 0.2 else np.nan
    where = (course.width_s, course.end_s, Line(rate), _begins_s(run))
    chart = time_chart("shots per second over time", *where, from_zero=True)
    return chart, "Shots per second of this machine's time"


def spread_table(course: History) -> Table:
    """Return mean, least and largest value of the figures of quality."""
    heads = {"figure": None, "mean": ".4g", "least": ".4g", "largest": ".4g", "shots": ",.0f"}
    rows: list[tuple[Cell, ...]] = []
    for place, name in enumerate(course.names):
        count = float(course.counts[:, place].sum())
        if count:
            low, high = np.nanmin(course.lows[:, place]), np.nanmax(course.highs[:, place])
            mean = course.sums[:, place].sum() / count
            rows.append((name, float(mean), float(low), float(high), count))
        else:
            rows.append((name, "not measured", "", "", 0.0))
    return Table("", columns(heads), tuple(rows))


# --- checks ---------------------------------------------------------------------------------------


def tries_table(run: Summary) -> Table:
    """Return how many shots took so many attempts."""
    heads = {"attempts": ",", "shots": ","}
    return Table("", columns(heads), tuple(sorted(run.attempts.items())[:_MOST_TRIES]))


def checked_table(run: Summary) -> Table:
    """Return what the checksums of each product found."""
    heads = {
        "product": None,
        "checked": ",",
        "suspicious": ",",
        "largest |z| in order": ".2f",
        "smallest error": format_number,
    }
    rows: list[tuple[Cell, ...]] = []
    for product, told in ((run.report or {}).get("checks") or {}).items():
        error = told.get("smallest_error")
        counts = (told.get("checks", 0), told.get("suspicious", 0), told.get("largest") or None)
        rows.append((product, *counts, "not known" if error is None else error))
    return Table("", columns(heads), tuple(rows))


def product_table(run: Summary) -> Table:
    """Return the events of each product, layers together."""
    shares = run.products.values()
    seldom = [name for name in _SELDOM if any(share.counts[name] for share in shares)]
    names = [name for name in _COUNTS if name in (*_ALWAYS, *seldom)]
    heads = {"product": None, "times": ","} | {_COUNTS[name]: "," for name in names}
    rows: list[tuple[Cell, ...]] = [
        (product, share.times, *(share.counts[name] for name in names))
        for product, share in run.products.items()
    ]
    return Table("", columns(heads), tuple(rows))


# --- faults ---------------------------------------------------------------------------------------


def fault_table(run: Summary) -> Table:
    """Return the faults by kind and device, the most frequent first."""
    heads = {
        "kind": None,
        "device": None,
        "faults": ",",
        "recovery": None,
        "time lost": format_duration,
    }
    rows = tuple(
        (
            *(kind, device or "unknown", share.count),
            ", ".join(f"{name} {count:,}" for name, count in share.recoveries.most_common()),
            share.lost_s or None,
        )
        for (kind, device), share in sorted(run.faults.items(), key=lambda item: -item[1].count)
    )
    count = sum(share.count for share in run.faults.values())
    lost_s = sum(share.lost_s for share in run.faults.values())
    return Table("", columns(heads), rows, total=("all", "", count, "", lost_s or None))


def fault_chart(run: Summary) -> Charts:
    """Return the number of faults over time as bars from 0 on."""
    course = run.fault_history
    counts = np.where(course.rows > 0, course.rows, np.nan)
    chart = time_chart(
        "faults over time",
        course.width_s,
        max(course.end_s, run.quality.end_s),
        Line(None, 0 * counts, counts),
        _begins_s(run),
        from_zero=True,
    )
    return [(chart, f"Faults in bins of {format_duration(course.width_s)} of running time")]


def last_fault_table(run: Summary) -> Table:
    """Return the latest faults one by one, the newest first."""
    heads = {
        **{"session": "d", "at": None, "kind": None, "device": None, "shot": None},
        **{"failed before": "d", "recovery": None, "detail": None},
    }
    rows = tuple(
        (
            *(fault["session"], format_moment(fault["at_s"]), fault["kind"]),
            *(fault["device"] or "unknown", fault["shot"], fault["attempt"]),
            *(fault["recovery"], str(fault["detail"])[:300]),
        )
        for fault in reversed(run.last_faults)
    )
    return Table("", columns(heads), rows)


# --- sessions and instruments ---------------------------------------------------------------------


def session_table(run: Summary) -> Table:
    """Return the latest sessions, and how each ended."""
    heads = {
        **{"session": "d", "began": None, "ended": None, "ran for": format_duration},
        **{"steps": ",", "shots": ",", "how it ended": None, "host": None},
    }
    rows = tuple(
        (
            *(session.number, format_moment(session.began_s), format_moment(session.ended_s)),
            *(max(session.ended_s - session.began_s, 0.0), session.steps, session.shots),
            how_ended(session, session is run.sessions[-1]),
            str(session.document.get("host", "")),
        )
        for session in run.sessions[-MOST_SESSIONS:]
    )
    return Table("", columns(heads), rows)


def how_ended(session: Session, is_last: bool) -> str:
    """Return how a session ended, with the detail that it recorded."""
    if session.outcome is None:
        return "still running, or killed" if is_last else "killed"
    return ": ".join(text for text in (session.outcome, session.detail[:_MOST_DETAIL]) if text)


def instrument_table(run: Summary) -> Table:
    """Return what the last session that opened instruments found connected."""
    listed = (session.document.get("instruments") for session in reversed(run.sessions))
    rows = tuple(
        (
            role,
            told.get("driver", ""),
            " ".join(str(told.get("identity", {}).get(key, "")) for key in _IDENTITY),
            ", ".join(f"{k} {format_value(v)}" for k, v in told.get("settings", {}).items()),
        )
        for role, told in next(filter(None, listed), {}).items()
    )
    heads = dict.fromkeys(("instrument", "driver", "what it is", "as it was"))
    return Table("", columns(heads), rows)
