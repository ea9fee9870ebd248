"""The account of energy of one or more benches as a page, and an account as part of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..instruments.formatting import format_duration, format_energy, format_quantity
from ..instruments.table import Table, columns
from ..scheduler.energy.tables import (
    SCOPE_TITLES,
    baseline_table,
    converter_table,
    crossover_table,
    influence_table,
    kind_table,
    per_token,
    sizes_text,
    step_table,
)
from .charts import Bar, bar_chart
from .page import render

ENERGY_PAGE = "lightloom energy page"
_MEANING = {
    "system": "everything, host and waiting included",
    "compute": "light, modulators, converters, their memory and weights; no host, nothing held",
    "light": "at the source's plug",
}
_FAR = 20  # times the bench's: a bar that would leave the others no length


def energy_page(document: Mapping[str, Any]) -> str:
    """Return the accounts as one self-contained page.

    Raises
    ------
    MissingExtraError : without the extra `report`
    """
    return render(
        "energy.html",
        ENERGY_PAGE,
        title=f"Energy of {document['model']}",
        lead=f"{sizes_text(document)}; placement {document['placement']}. Predicted from the "
        "constants listed below, each with its source; nothing was run.",
        accounts=[account_parts(account) for account in document["accounts"]],
    )


def account_parts(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a page shows of an account (`templates/account.html`)."""
    sets = account["constant_sets"]
    verdict = (
        baseline_table(account),
        influence_table(account),
        crossover_table(account),
        converter_table(account),
        step_table(account),
        _constant_table(account),
    )
    return {
        "heading": account["profile"] + (f", constants {', '.join(sets)}" if sets else ""),
        "scopes": _scope_table(account),
        "charts": _charts(account),
        "kinds": kind_table(account),
        "verdict": [table for table in verdict if table.rows],
    }


def _scope_table(account: Mapping[str, Any]) -> Table:
    heads = {
        "figure": None,
        f"per {account['unit']}": format_energy,
        "per MAC": format_energy,
        "what is in it": None,
    }
    rows = tuple(
        (
            name,
            account["joules_per_token"][scope],
            1e-15 * account["femtojoules_per_mac"][scope],
            _MEANING[scope],
        )
        for scope, name in SCOPE_TITLES.items()
    )
    return Table("", columns(heads), rows)


def _constant_table(account: Mapping[str, Any]) -> Table:
    texts = dict.fromkeys(("what it is", "from", "source"))
    heads = {"constant": None, "value": ""} | texts
    rows = tuple(
        (
            name,
            format_quantity(item["value"], item["unit"]),
            item["meaning"],
            item["origin"] + (", recalled" if item["recalled"] else ""),
            item["source"] + (f" ({item['year']})" if item["year"] else ""),
        )
        for name, item in account["constants"].items()
    )
    return Table("Constants", columns(heads), rows)


def _charts(account: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return energy and time of the bench, in their kinds, and of each baseline, with captions."""
    name, unit = f"bench {account['profile']}", account["unit"]
    seconds, machines = account["seconds"], account["baselines"]

    joules_text = format_energy(per_token(account, account["joules"]["system"]))
    energy = [Bar(name, account["categories"], joules_text)]
    parts = {kind: seconds[kind] for kind in ("light", "converters", "host")}
    times = [Bar(name, parts, format_duration(per_token(account, seconds["all"])))]
    for machine in machines:
        joules, time_s = machine["joules"], machine["seconds"]
        if joules is not None:
            text = format_energy(per_token(account, joules))
            energy.append(Bar(machine["name"], {"": joules}, text))
        if time_s is not None and time_s < _FAR * (seconds["all"] or 1):
            text = format_duration(per_token(account, time_s))
            times.append(Bar(machine["name"], {"": time_s}, text))
    captions = {f"energy per {unit}": energy, f"time per {unit}, one step after another": times}
    return [(bar_chart(f"{c}, {name}", bars), c) for c, bars in captions.items()]
