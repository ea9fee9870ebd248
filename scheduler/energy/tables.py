"""The tables of an account of energy.

The accounts come as documents (`account_document`); only shares are computed here.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ...instruments.formatting import (
    format_bar,
    format_count,
    format_counted,
    format_duration,
    format_energy,
    format_number,
    format_quantity,
    format_ratio,
)
from ...instruments.table import Cell, Column, Heads, Table, columns

SCOPE_TITLES = {"system": "system", "compute": "optical products", "light": "light alone"}
_NO_INFLUENCE = 5e-4  # which a table would show as zero


def account_tables(account: Mapping[str, Any]) -> list[Table]:
    """Return the tables of an account that have rows, in the order in which they are read."""
    tables = (
        kind_table(account),
        step_table(account),
        baseline_table(account),
        influence_table(account),
        crossover_table(account),
        converter_table(account),
        assumed_table(account),
    )
    return [table for table in tables if table.rows]


def sizes_text(document: Mapping[str, Any]) -> str:
    """Return batch and tokens of a document of accounts."""
    text = f"batch {document['batch']}, {format_counted(document['sequence'], 'token')}"
    return f"{text}, {document['new_tokens']:,} new ones" if document["new_tokens"] else text


def per_token(account: Mapping[str, Any], value: float | None) -> float | None:
    """Return joules or seconds of a whole account as those of one token."""
    return None if value is None else value / account["tokens"]


def kind_table(account: Mapping[str, Any]) -> Table:
    """Return what takes the energy: kinds with their energy and share."""
    total = account["joules"]["system"] or 1.0
    each = account["joules_per_token"]
    figures = (f"{name} {format_energy(each[scope])}" for scope, name in SCOPE_TITLES.items())
    unit = account["unit"]
    columns = (
        Column("kind", align="left"),
        Column(f"per {unit}", form=format_energy),
        Column("share", form=".1%"),
        Column("", align="left", form=format_bar),
    )
    rows = [
        (name, per_token(account, joules), joules / total, joules / total)
        for name, joules in account["categories"].items()
        if joules
    ]
    return Table(f"Energy per {unit}: {', '.join(figures)}", columns, tuple(rows))


def step_table(account: Mapping[str, Any]) -> Table:
    """Return the steps that take energy, all layers together, and their sum."""
    energy, seconds = account["joules"]["system"], account["seconds"]["all"]
    columns = (
        Column("step", align="left"),
        Column("where", align="left"),
        Column(f"MACs per {account['unit']}", form=format_count),
        Column("energy", form=format_energy),
        Column("share", form=".1%"),
        Column("time", form=format_duration),
        Column("share", form=".1%"),
        Column("mostly", align="left"),
    )
    rows = []
    for step in account["steps"]:
        joules = sum(step["joules"].values())
        if not joules:
            continue
        figures = (
            per_token(account, step["macs"] or None),
            per_token(account, joules),
            joules / (energy or 1.0),
            per_token(account, step["seconds"]),
            step["seconds"] / (seconds or 1.0),
        )
        mostly = max(step["joules"], key=step["joules"].get)
        rows.append((step["step"], step["where"], *figures, mostly))
    sums = ("", per_token(account, energy), 1.0, per_token(account, seconds), 1.0, "")
    return Table(
        "Step by step, all layers together", columns, tuple(rows), total=("all", "", *sums)
    )


def baseline_table(account: Mapping[str, Any]) -> Table:
    """Return digital machines: energy, time, and their energy over the bench's."""
    columns = (
        Column("baseline", align="left", wraps=True),
        Column(f"energy per {account['unit']}", form=format_energy),
        Column("time", form=format_duration),
        *(Column(name, form=format_ratio) for name in SCOPE_TITLES.values()),
    )
    rows = []
    for item in account["baselines"]:
        ratios = account["advantages"].get(item["name"], {})
        figures = (per_token(account, item["joules"]), per_token(account, item["seconds"]))
        rows.append((item["title"], *figures, *(ratios.get(scope) for scope in SCOPE_TITLES)))
    return Table(
        "Beside digital machines: their energy over the bench's (above 1 the light wins)",
        columns,
        tuple(rows),
        caption="optical products and light alone: over the same products done digitally",
    )


def influence_table(account: Mapping[str, Any]) -> Table:
    """Return the constants that count: value, influence, and their factors to break even."""
    machines = [item["name"] for item in account["baselines"] if item["joules"] is not None]
    columns = (
        Column("constant", align="left", wraps=True),
        Column("value", wraps=True),
        Column("influence", form="+.3f", wraps=True),
        *(Column(name, form=format_ratio, wraps=True) for name in machines),
    )
    rows = [
        (
            item["name"],
            format_quantity(item["value"], item["unit"]),
            item["power"],
            *(item["factors"][name] for name in machines),
        )
        for item in account["sensitivity"]
        if abs(item["power"]) >= _NO_INFLUENCE
    ]
    return Table(
        "What decides it: the system's energy against each constant, alone",
        columns,
        tuple(rows),
        caption="Influence: by so many % the energy rises with 1 % more of the constant. "
        "Right: the constant's factor to break even; - where no value does",
    )


def crossover_table(account: Mapping[str, Any]) -> Table:
    """Return each baseline with the widths at which the bench wins."""
    listed = account.get("crossovers", ())
    found = {(item["baseline"], item["scope"]): item for item in listed}
    scopes = ("system", "compute")
    heads = dict.fromkeys(("baseline", *(SCOPE_TITLES[scope] for scope in scopes)), str)
    rows = [
        (name, *(_widths_text(found[name, scope]) for scope in scopes))
        for name in dict.fromkeys(item["baseline"] for item in listed)
    ]
    return Table(
        "Widths at which one layer takes less energy in light", columns(heads), tuple(rows)
    )


def _widths_text(item: Mapping[str, Any]) -> str:
    """Return between which widths the bench wins."""
    if item["first"] is None:
        return "none up to 1,048,576"
    end = "on" if item["last"] is None else f"to {item['last']:,}"
    return f"{item['first']:,} {end}"


def converter_table(account: Mapping[str, Any]) -> Table:
    """Return the converters that a throughput needs: samples a second, number, rate, power."""
    heads: Heads = {
        "kind": str,
        "samples a second": format_count,
        "number": ",",
        "rate of each": partial(format_quantity, unit="Hz"),
        "power": partial(format_quantity, unit="W"),
    }
    rows = [
        (need["kind"], need["samples_per_s"], need["count"], need["rate_hz"], need["power_w"])
        for need in account.get("converters") or ()
    ]
    rates = account["tokens_per_s"]
    why = "wanted" if rates["wanted"] else "what one bench reaches, one step after another"
    rate = format_number(rates["wanted"] or rates["one_bench"] or 0.0)
    caption = ""
    if rates["wanted"]:
        benches = format_number(account["benches"])
        caption = f"and {benches} such bench{'' if benches == '1' else 'es'}"
    title = f"Converters for {rate} {account['unit']}s a second ({why})"
    return Table(title, columns(heads), tuple(rows), caption=caption)


def assumed_table(account: Mapping[str, Any]) -> Table:
    """Return the constants with an influence that are assumed, or recalled."""
    heads: Heads = {"constant": str, "value": "", "what it is": None, "why": None}
    rows: list[tuple[Cell, ...]] = []
    for name, item in account["constants"].items():
        is_assumed = name in account["assumed"]
        reasons = ["assumed, since the profile gives none"] if is_assumed else []
        reasons += ["recalled, not looked up"] if item["recalled"] else []
        if item["influence"] and reasons:
            value = format_quantity(item["value"], item["unit"])
            rows.append((name, value, item["meaning"], "; ".join(reasons)))
    return Table("Constants that are assumed or recalled", columns(heads), tuple(rows))
