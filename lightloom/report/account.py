"""What tables say of an account of energy, on any medium: rows of texts.

The accounts come as documents (`scheduler.energy.document`); only shares are computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..instruments.formatting import (
    format_count,
    format_duration,
    format_number,
    format_quantity,
    format_ratio,
)

Row = tuple[str, ...]
SCOPES = {"system": "system", "compute": "optical products", "light": "light alone"}
STEP_TITLE = "Step by step, all layers together"
CROSSOVER_TITLE = "Widths at which one layer takes less energy in light"
CROSSOVER_HEADS = ("baseline", "system", "optical products")
_NO_INFLUENCE = 5e-4  # which a table would show as zero


def sizes(document: Mapping[str, Any]) -> str:
    """Return batch and tokens of a document of accounts."""
    text = f"batch {document['batch']}, {document['sequence']} tokens"
    return f"{text}, {document['new_tokens']} new ones" if document["new_tokens"] else text


def per_token(account: Mapping[str, Any], value: float | None, unit: str) -> str:
    """Return joules or seconds of a whole account as those of one token; "-" for None."""
    if value is None:
        return "-"
    each = value / account["tokens"]
    return format_duration(each) if unit == "s" else format_quantity(each, unit)


def category_rows(account: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield where joules go: kind, energy per token, share."""
    total = account["joules"]["system"] or 1.0
    for name, value in account["categories"].items():
        if value:
            yield name, per_token(account, value, "J"), value / total


def step_heads(account: Mapping[str, Any]) -> Row:
    """Return the headings above `step_rows`."""
    macs = f"MACs per {account['unit']}"
    return ("step", "where", macs, "energy", "share", "time", "share", "mostly")


def step_rows(account: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the steps that take energy, all layers together, and their sum as the last row."""
    energy, seconds = account["joules"]["system"] or 1.0, account["seconds"]["all"] or 1.0
    for step in account["steps"]:
        value = sum(step["joules"].values())
        if value:
            yield (
                step["step"],
                step["where"],
                format_count(step["macs"] / account["tokens"]) if step["macs"] else "",
                per_token(account, value, "J"),
                f"{value / energy:.1%}",
                per_token(account, step["seconds"], "s"),
                f"{step['seconds'] / seconds:.1%}",
                max(step["joules"], key=step["joules"].get),
            )
    whole = (account["joules"]["system"], account["seconds"]["all"])
    sums = (per_token(account, whole[0], "J"), "100%", per_token(account, whole[1], "s"), "100%")
    yield ("all", "", "", *sums, "")


def baseline_heads(account: Mapping[str, Any]) -> Row:
    """Return the headings above `baseline_rows`."""
    return ("baseline", f"energy per {account['unit']}", "time", *SCOPES.values())


def baseline_rows(account: Mapping[str, Any]) -> Iterator[Row]:
    """Yield digital machines: title, energy, time, and their energy over the bench's."""
    for item in account["baselines"]:
        ratios = account["advantages"].get(item["name"], {})
        yield (
            item["title"],
            per_token(account, item["joules"], "J"),
            per_token(account, item["seconds"], "s"),
            *(format_ratio(ratios.get(scope)) for scope in SCOPES),
        )


def influence_heads(account: Mapping[str, Any]) -> Row:
    """Return the headings above `influence_rows`."""
    return ("constant", "value", "influence", *_powered(account))


def influence_rows(account: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the constants that count: value, influence, and their factors to break even."""
    for item in account["sensitivity"]:
        if abs(item["power"]) >= _NO_INFLUENCE:
            yield (
                item["name"],
                format_quantity(item["value"], item["unit"]),
                f"{item['power']:+.3f}",
                *(format_ratio(item["factors"][name]) for name in _powered(account)),
            )


def _powered(account: Mapping[str, Any]) -> list[str]:
    """Return the names of the machines whose energy is known."""
    return [item["name"] for item in account["baselines"] if item["joules"] is not None]


def crossover_rows(account: Mapping[str, Any]) -> Iterator[Row]:
    """Yield each baseline with the widths at which the bench wins."""
    listed = account.get("crossovers", ())
    found = {(item["baseline"], item["scope"]): item for item in listed}
    for name in dict.fromkeys(item["baseline"] for item in listed):
        yield (name, *(_widths(found[name, scope]) for scope in ("system", "compute")))


def _widths(item: Mapping[str, Any]) -> str:
    """Return between which widths the bench wins."""
    if item["first"] is None:
        return "none up to 1,048,576"
    end = "on" if item["last"] is None else f"to {item['last']:,}"
    return f"{item['first']:,} {end}"


def converter_rows(account: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the converters that a throughput needs: kind, samples a second, count, rate, power."""
    for need in account.get("converters") or ():
        yield (
            need["kind"],
            format_number(need["samples_per_s"]),
            f"{need['count']:,}",
            format_quantity(need["rate_hz"], "Hz"),
            format_quantity(need["power_w"], "W"),
        )
