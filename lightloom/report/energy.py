"""The account of energy of one or more benches as a page, and the parts of it for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..instruments.formatting import format_number, format_quantity
from .account import (
    CROSSOVER_HEADS,
    CROSSOVER_TITLE,
    SCOPES,
    STEP_TITLE,
    Row,
    baseline_heads,
    baseline_rows,
    category_rows,
    converter_rows,
    crossover_rows,
    influence_heads,
    influence_rows,
    per_token,
    sizes,
    step_heads,
    step_rows,
)
from .page import drawings, escaped, page, paragraph, section, table

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
_CONSTANT_HEADS = ("constant", "value", "what it is", "from", "source")


def energy_page(document: Mapping[str, Any]) -> str:
    """Return the accounts as one self-contained page."""
    lead = (
        f"{sizes(document)}; placement {document['placement']}. Predicted from the constants "
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
    per_unit = f"per {account['unit']}"
    scopes = [
        (
            name,
            format_quantity(account["joules_per_token"][scope], "J"),
            format_quantity(1e-15 * account["femtojoules_per_mac"][scope], "J"),
            _MEANING[scope],
        )
        for scope, name in SCOPES.items()
    ]
    kinds = [(name, energy, f"{share:.1%}") for name, energy, share in category_rows(account)]
    return [
        table(("figure", per_unit, "per MAC", "what is in it"), scopes, (1, 2)),
        _pictures(account),
        table(("kind", per_unit, "share"), kinds, (1, 2)),
    ]


def verdict_parts(account: Mapping[str, Any]) -> list[str]:
    """Return the rest: beside machines, what decides, converters, step by step, constants."""
    parts = [_beside_machines(account), _what_decides(account)]
    crossovers = list(crossover_rows(account))
    if crossovers:
        parts.append(section(CROSSOVER_TITLE, table(CROSSOVER_HEADS, crossovers)))
    converters = list(converter_rows(account))
    if converters:
        heads = ("kind", "samples a second", "count", "each at", "power")
        rates = account["tokens_per_s"]
        rate = format_number(rates["wanted"] or rates["one_bench"])
        title = f"Converters for {rate} {account['unit']}s a second"
        parts.append(section(title, table(heads, converters, range(1, 5))))
    *steps, total = step_rows(account)
    return [
        *parts,
        section(STEP_TITLE, table(step_heads(account), steps, range(2, 7), total)),
        section("Constants", table(_CONSTANT_HEADS, _constants(account), (1,))),
    ]


def _beside_machines(account: Mapping[str, Any]) -> str:
    return section(
        "Beside digital machines",
        paragraph(
            "Digital energy over the bench's; above 1 the light wins. Optical products and "
            "light alone: over the same products done digitally."
        ),
        table(baseline_heads(account), baseline_rows(account), range(1, 6)),
    )


def _what_decides(account: Mapping[str, Any]) -> str:
    heads = influence_heads(account)
    return section(
        "What decides it",
        paragraph(
            "Influence: 1 % more of the constant changes the system's energy by so many %. "
            "Then the factor on that constant alone at which the system breaks even."
        ),
        table(heads, influence_rows(account), range(1, len(heads))),
    )


def _constants(account: Mapping[str, Any]) -> list[Row]:
    return [
        (
            name,
            format_quantity(item["value"], item["unit"]),
            item["meaning"],
            item["origin"] + (", recalled" if item["recalled"] else ""),
            item["source"] + (f" ({item['year']})" if item["year"] else ""),
        )
        for name, item in account["constants"].items()
    ]


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
    energy: list[Bar] = [(name, per_token(account, account["joules"]["system"], "J"), kinds)]
    energy += [
        (m["name"], per_token(account, m["joules"], "J"), [(_GREY, "", m["joules"])])
        for m in machines
        if m["joules"] is not None
    ]
    times: list[Bar] = [(name, per_token(account, seconds["all"], "s"), parts)]
    times += [
        (m["name"], per_token(account, m["seconds"], "s"), [(_GREY, "", m["seconds"])])
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
