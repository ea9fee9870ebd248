"""The account of energy of one or more benches as a page, and the parts of it for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..instruments.formatting import format_duration, format_energy, format_quantity
from ..instruments.table import Column, Table, as_html
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
from .page import drawings, escaped, page, section

ENERGY_PAGE = "lightloom energy page"
_MEANING = {
    "system": "everything, host and waiting included",
    "compute": "light, modulators, converters, their memory and weights; no host, nothing held",
    "light": "at the source's plug",
}
_COLOURS = (
    *("#d4a017", "#8a6d3b", "#2b6cb0", "#63b3ed", "#90cdf4", "#2c5282"),
    *("#805ad5", "#b794f4", "#718096", "#2f855a", "#68d391", "#a0aec0"),
)
_LEFT, _WIDE, _ROW = 175, 330, 26  # of a picture: names, bars, height of one
_MOST_NAME = 24  # characters that fit there
_FAR = 20  # times the bench's: a bar that would leave the others no length
_GREY, _TIME_COLOURS = "#7a8088", ("#d4a017", "#2b6cb0", "#2f855a")


def energy_page(document: Mapping[str, Any]) -> str:
    """Return the accounts as one self-contained page."""
    lead = (
        f"{sizes_text(document)}; placement {document['placement']}. Predicted from the constants "
        "listed below, each with its source; nothing was run."
    )
    parts = [
        section(_heading(account), *account_parts(account), *verdict_parts(account))
        for account in document["accounts"]
    ]
    return page(ENERGY_PAGE, f"Energy of {document['model']}", lead, *parts)


def _heading(account: Mapping[str, Any]) -> str:
    sets = account["constant_sets"]
    return account["profile"] + (f", constants {', '.join(sets)}" if sets else "")


def account_parts(account: Mapping[str, Any]) -> list[str]:
    """Return what a page shows of an account: the three figures, and where joules and time go."""
    return [as_html(_scopes(account)), _pictures(account), as_html(kind_table(account))]


def verdict_parts(account: Mapping[str, Any]) -> list[str]:
    """Return the rest: beside machines, what decides, converters, step by step, constants."""
    tables = (
        baseline_table(account),
        influence_table(account),
        crossover_table(account),
        converter_table(account),
        step_table(account),
        _constants(account),
    )
    return [
        section(table.title, as_html(replace(table, title=""))) for table in tables if table.rows
    ]


def _scopes(account: Mapping[str, Any]) -> Table:
    columns = (
        Column("figure", align="left"),
        Column(f"per {account['unit']}", form=format_energy),
        Column("per MAC", form=format_energy),
        Column("what is in it", align="left"),
    )
    rows = [
        (
            name,
            account["joules_per_token"][scope],
            1e-15 * account["femtojoules_per_mac"][scope],
            _MEANING[scope],
        )
        for scope, name in SCOPE_TITLES.items()
    ]
    return Table("", columns, tuple(rows))


def _constants(account: Mapping[str, Any]) -> Table:
    columns = (
        Column("constant", align="left"),
        Column("value"),
        *(Column(name, align="left") for name in ("what it is", "from", "source")),
    )
    rows = [
        (
            name,
            format_quantity(item["value"], item["unit"]),
            item["meaning"],
            item["origin"] + (", recalled" if item["recalled"] else ""),
            item["source"] + (f" ({item['year']})" if item["year"] else ""),
        )
        for name, item in account["constants"].items()
    ]
    return Table("Constants", columns, tuple(rows))


# --- pictures -------------------------------------------------------------------------------------

Bar = tuple[str, str, Sequence[tuple[str, str, float]]]  # name, label, (colour, kind, value)


def _pictures(account: Mapping[str, Any]) -> str:
    """Draw energy and time of the bench, in their kinds, and of each baseline."""
    name = f"bench {account['profile']}"
    name = name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"
    kinds = [
        (colour, kind, value)
        for colour, (kind, value) in zip(_COLOURS, account["categories"].items(), strict=True)
    ]
    seconds, machines = account["seconds"], account["baselines"]
    parts = [
        (colour, kind, seconds[kind])
        for colour, kind in zip(_TIME_COLOURS, ("light", "converters", "host"), strict=True)
    ]
    energy: list[Bar] = [
        (name, format_energy(per_token(account, account["joules"]["system"])), kinds)
    ]
    energy += [
        (m["name"], format_energy(per_token(account, m["joules"])), [(_GREY, "", m["joules"])])
        for m in machines
        if m["joules"] is not None
    ]
    times: list[Bar] = [(name, format_duration(per_token(account, seconds["all"])), parts)]
    times += [
        (m["name"], format_duration(per_token(account, m["seconds"])), [(_GREY, "", m["seconds"])])
        for m in machines
        if m["seconds"] is not None and m["seconds"] < _FAR * (seconds["all"] or 1)
    ]
    return drawings(
        [
            (_bars(energy), f"energy per {account['unit']}"),
            (_bars(times), f"time per {account['unit']}, one step after another"),
        ]
    )


def _bars(bars: Sequence[Bar]) -> str:
    largest = max(sum(value for *_, value in pieces) for *_, pieces in bars) or 1.0
    parts: list[str] = []
    names: dict[str, str] = {}
    for row, (name, label, pieces) in enumerate(bars):
        x, y = float(_LEFT), row * _ROW
        total = sum(value for *_, value in pieces)
        for colour, kind, value in pieces:
            parts.append(_rectangle(x, y + 3, _WIDE * value / largest, _ROW - 6, colour))
            x += _WIDE * value / largest
            if kind and value > 0.01 * total:
                names[kind] = colour
        parts += [_label(0, y + 17, name), _label(x + 6, y + 17, label)]
    below = len(bars) * _ROW + 8
    for index, (kind, colour) in enumerate(names.items()):
        x, y = _LEFT + 130 * (index % 3), below + 20 * (index // 3)
        parts += [_rectangle(x, y, 12, 12, colour), _label(x + 17, y + 11, kind)]
    tall = below + 20 * -(-len(names) // 3) + 4
    return (
        f'<svg viewBox="0 0 {_LEFT + _WIDE + 90} {tall}" role="img" font-size="13" '
        f'aria-label="bars">{"".join(parts)}</svg>'
    )


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    size = f'width="{width:.2f}" height="{height}"'
    return f'<rect x="{x:.2f}" y="{y}" {size} fill="{colour}"/>'


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" fill="var(--ink)">{escaped(text)}</text>'
