"""What `lightloom energy` shows: the account of one or more benches, as tables and as a page.

The accounts come as documents (`scheduler.account`); nothing is computed here but shares.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .page import drawings, escaped, page, paragraph, section, table
from .terminal import _count, _duration

if TYPE_CHECKING:
    from ..scheduler import Baseline
    from ..scheduler.runs import Plan

SCOPE_NAMES = {"system": "system", "compute": "optical products", "light": "light alone"}
SCOPE_MEANING = {
    "system": "everything, host and waiting included",
    "compute": "light, modulators, converters, their memory and weights; no host, nothing held",
    "light": "at the source's plug",
}
_BAR = 30  # characters
_NO_INFLUENCE = 5e-4  # which a table would show as zero
_COLOURS = (
    "#d4a017",
    "#8a6d3b",
    "#2b6cb0",
    "#63b3ed",
    "#90cdf4",
    "#2c5282",
    "#805ad5",
    "#b794f4",
    "#718096",
    "#2f855a",
    "#68d391",
    "#a0aec0",
)


def document(
    planned: Sequence["Plan"],
    constants: Sequence[str],
    tokens_per_s: float | None,
    machines: Sequence["Baseline"],
) -> dict[str, Any]:
    """Account for plans of one model on several benches, with their crossover widths."""
    from ..models.shapes import layer_program
    from ..scheduler import account_document
    from ..scheduler.energy.crossover import crossovers

    accounts = []
    first = planned[0]
    batch, new = first.passes[0][0]["batch"], first.passes[0][0]["new"]
    for plan in planned:
        account = plan.energy(*constants, machines=machines)
        widths = crossovers(
            layer_program, plan.profile, account.constants, batch, new, plan.placement
        )
        entry = account_document(account, tokens_per_s)
        accounts.append(entry | {"crossovers": [vars(item) for item in widths]})
    return {
        "schema": 1,
        "model": first.model.name,
        "batch": batch,
        "sequence": new,
        "new_tokens": sum(times for _, times in first.passes[1:]) and len(first.passes),
        "placement": first.placement,
        "is_mock": first.backend.is_mock,
        "accounts": accounts,
        "source": "counted from the plan, times constants that each name their source; "
        "nothing was run",
    }


def show(where: Console, document: Mapping[str, Any]) -> None:
    """Print the accounts of `lightloom energy`."""
    where.print(f"\n[bold]{escape(document['model'])}[/]: {escape(_sizes(document))}")
    where.print(f"placement {escape(document['placement'])}; predicted, nothing was run")
    for account in document["accounts"]:
        where.print(f"\nbench profile [bold]{escape(account['profile'])}[/]", end="")
        sets = account["constant_sets"]
        where.print(f", constants {escape(', '.join(sets))}" if sets else "")
        short(where, account)
        where.print(_steps(account))
        where.print(_baselines(account))
        where.print(_sensitivity(account))
        where.print(_crossovers(account))
        _converters(where, account)
        _assumed(where, account)


def of_run(where: Console, account: Mapping[str, Any]) -> None:
    """Print the account of a run, with the time of the digital run beside it."""
    unit, tokens = account["unit"], account["tokens"]
    here = [item["seconds"] for item in account["baselines"] if item["name"] == "this-machine"]
    bench = _duration(account["seconds"]["all"] / tokens)
    digital = f", {_duration(here[0] / tokens)} digitally here (measured)" if here else ""
    where.print(f"time per {unit}: {bench} on the bench (predicted){digital}")
    short(where, account)


def short(where: Console, account: Mapping[str, Any]) -> None:
    """Print the three figures, and where joules go."""
    unit, tokens = account["unit"], account["tokens"]
    figures = ", ".join(
        f"{name} [bold]{joules(account['joules_per_token'][scope])}[/]"
        for scope, name in SCOPE_NAMES.items()
    )
    where.print(f"energy per {unit}: {figures}")
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=True)
    for name, side in (("", "left"), (f"per {unit}", "right"), ("share", "right"), ("", "left")):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    total = account["joules"]["system"] or 1.0
    for name, value in account["categories"].items():
        share = value / total
        if value:
            bar = "█" * max(round(_BAR * share), 1 if share > 0.005 else 0)
            table.add_row(name, joules(value / tokens), f"{share:.1%}", bar)
    where.print(table)


def _sizes(document: Mapping[str, Any]) -> str:
    text = f"batch {document['batch']}, {document['sequence']} tokens"
    return f"{text}, {document['new_tokens']} new ones" if document["new_tokens"] else text


def _steps(account: Mapping[str, Any]) -> Table:
    table = Table(
        title="Step by step, all layers together",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    unit, tokens = account["unit"], account["tokens"]
    for name, side in (
        ("step", "left"),
        ("where", "left"),
        (f"MACs per {unit}", "right"),
        ("energy", "right"),
        ("", "right"),
        ("time", "right"),
        ("", "right"),
        ("mostly", "left"),
    ):
        table.add_column(name, justify=side, no_wrap=True)  # type: ignore[arg-type]
    energy, seconds = account["joules"]["system"] or 1.0, account["seconds"]["all"] or 1.0
    for step in account["steps"]:
        value = sum(step["joules"].values())
        if not value:
            continue
        most = max(step["joules"], key=step["joules"].get)
        table.add_row(
            step["step"],
            step["where"],
            _count(step["macs"] / tokens) if step["macs"] else "",
            joules(value / tokens),
            f"{value / energy:.1%}",
            _duration(step["seconds"] / tokens),
            f"{step['seconds'] / seconds:.1%}",
            most,
        )
    table.add_section()
    whole = account["seconds"]["all"] / tokens
    table.add_row("all", "", "", joules(energy / tokens), "100%", _duration(whole), "100%", "")
    return table


def _baselines(account: Mapping[str, Any]) -> Table:
    unit, tokens = account["unit"], account["tokens"]
    table = Table(
        title="Beside digital machines: their energy over the bench's (above 1 the light wins)",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        caption="optical products and light alone: over the same products done digitally",
        caption_justify="left",
    )
    heads = ("baseline", f"energy per {unit}", "time", *SCOPE_NAMES.values())
    for index, name in enumerate(heads):
        table.add_column(name, justify="right" if index else "left", no_wrap=bool(index))
    for item in account["baselines"]:
        ratios = account["advantages"][item["name"]]
        table.add_row(
            escape(item["title"]),
            joules(None if item["joules"] is None else item["joules"] / tokens),
            "-" if item["seconds"] is None else _duration(item["seconds"] / tokens),
            *(_times(ratios[scope]) for scope in SCOPE_NAMES),
        )
    return table


def _sensitivity(account: Mapping[str, Any]) -> Table:
    table = Table(
        title="What decides it: the system's energy against each constant, alone",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
        caption="1 % more of the constant: energy up by so many %. "
        "Right: its factor to break even; - where no value does",
        caption_justify="left",
    )
    names = [item["name"] for item in account["baselines"] if item["joules"] is not None]
    for name in ("constant", "value", "influence", *names):
        table.add_column(name, justify="left" if name == "constant" else "right")
    for item in account["sensitivity"]:
        if abs(item["power"]) < _NO_INFLUENCE:
            continue
        factors = (_times(item["factors"][name]) for name in names)
        table.add_row(
            item["name"],
            quantity(item["value"], item["unit"]),
            f"{item['power']:+.3f}",
            *factors,
        )
    return table


def _crossovers(account: Mapping[str, Any]) -> Table:
    table = Table(
        title="Widths at which one layer takes less energy in light",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("baseline", "system", "optical products"):
        table.add_column(name, no_wrap=True)
    found = {(item["baseline"], item["scope"]): item for item in account["crossovers"]}
    for name in dict.fromkeys(item["baseline"] for item in account["crossovers"]):
        table.add_row(name, *(widths(found[name, scope]) for scope in ("system", "compute")))
    return table


def widths(item: Mapping[str, Any]) -> str:
    """Say between which widths the bench wins."""
    if item["first"] is None:
        return "none up to 1,048,576"
    end = "on" if item["last"] is None else f"to {item['last']:,}"
    return f"{item['first']:,} {end}"


def _converters(where: Console, account: Mapping[str, Any]) -> None:
    rates, unit = account["tokens_per_s"], account["unit"]
    wanted = rates["wanted"] or rates["one_bench"]
    if not wanted:
        return
    why = "wanted" if rates["wanted"] else "what one bench reaches, one step after another"
    where.print(f"converters for {figure(wanted)} {unit}s a second ({why}):")
    for need in account["converters"]:
        each, power = quantity(need["rate_hz"], "Hz"), quantity(need["power_w"], "W")
        where.print(
            f"  {need['kind']}: {figure(need['samples_per_s'])} samples a second, so "
            f"{need['count']:,} at {each}, {power}"
        )
    if rates["wanted"]:
        where.print(f"  and {figure(account['benches'])} such benches")


def _assumed(where: Console, account: Mapping[str, Any]) -> None:
    known = {name: item for name, item in account["constants"].items() if item["influence"]}
    recalled = [name for name, item in known.items() if item["recalled"]]
    for what, names in (
        ("assumed, since the profile gives none", [n for n in account["assumed"] if n in known]),
        ("recalled, not looked up", recalled),
    ):
        values = (
            f"{name} = {quantity(known[name]['value'], known[name]['unit'])}" for name in names
        )
        if names:
            where.print(f"[yellow]note:[/] {what}: {escape(', '.join(values))}")


# --------------------------------------------------------------------------------- words


def joules(value: float | None) -> str:
    """Return an energy with a prefix."""
    return "-" if value is None else quantity(value, "J")


def quantity(value: float, unit: str) -> str:
    """Return a value with three digits, a prefix and its unit."""
    if unit in ("1", "B"):
        return f"{value:,.3g}" if unit == "1" else f"{value:.3g} B"
    if value == 0:
        return f"0 {unit}"
    for prefix, size in (
        ("P", 1e15),
        ("T", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("k", 1e3),
        ("", 1.0),
        ("m", 1e-3),
        ("u", 1e-6),
        ("n", 1e-9),
        ("p", 1e-12),
        ("f", 1e-15),
        ("a", 1e-18),
    ):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.2g} {unit}"


def figure(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:,.0f}" if 100 <= value < 1e7 else f"{value:.3g}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{figure(value)}x"


# ---------------------------------------------------------------------------------- page


def energy_page(document: Mapping[str, Any]) -> str:
    """Return the accounts as one self-contained page."""
    lead = (
        f"{_sizes(document)}; placement {document['placement']}. Predicted from the constants "
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
    unit, tokens = account["unit"], account["tokens"]
    total = account["joules"]["system"] or 1.0
    scopes = [
        (
            name,
            joules(account["joules_per_token"][scope]),
            joules(1e-15 * account["femtojoules_per_mac"][scope]),
            SCOPE_MEANING[scope],
        )
        for scope, name in SCOPE_NAMES.items()
    ]
    kinds = [
        (name, joules(value / tokens), f"{value / total:.1%}")
        for name, value in account["categories"].items()
        if value
    ]
    return [
        table(("figure", f"per {unit}", "per MAC", "what is in it"), scopes, (1, 2)),
        _pictures(account),
        table(("kind", f"per {unit}", "share"), kinds, (1, 2)),
    ]


ENERGY_PAGE = "lightloom energy page"
_CONSTANT_HEADS = ("constant", "value", "what it is", "from", "source")


def _constants(account: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            quantity(item["value"], item["unit"]),
            item["meaning"],
            item["origin"] + (", recalled" if item["recalled"] else ""),
            item["source"] + (f" ({item['year']})" if item["year"] else ""),
        )
        for name, item in account["constants"].items()
    ]


def verdict_parts(account: Mapping[str, Any]) -> list[str]:
    """Return the rest: beside machines, what decides, converters, step by step, constants."""
    unit, tokens = account["unit"], account["tokens"]
    powered = [item["name"] for item in account["baselines"] if item["joules"] is not None]
    won = account["advantages"]
    beside = [
        (
            item["title"],
            joules(None if item["joules"] is None else item["joules"] / tokens),
            "-" if item["seconds"] is None else _duration(item["seconds"] / tokens),
            *(_times(won.get(item["name"], {}).get(scope)) for scope in SCOPE_NAMES),
        )
        for item in account["baselines"]
    ]
    decides = [
        (
            item["name"],
            quantity(item["value"], item["unit"]),
            f"{item['power']:+.3f}",
            *(_times(item["factors"][name]) for name in powered),
        )
        for item in account["sensitivity"]
        if abs(item["power"]) >= _NO_INFLUENCE
    ]
    cross = [
        (c["baseline"], SCOPE_NAMES[c["scope"]], widths(c)) for c in account.get("crossovers", ())
    ]
    heads = ("baseline", f"energy per {unit}", "time", *SCOPE_NAMES.values())
    parts = [
        section(
            "Beside digital machines",
            paragraph(
                "Digital energy over the bench's; above 1 the light wins. Optical products and "
                "light alone: over the same products done digitally."
            ),
            table(heads, beside, range(1, 6)),
        ),
        section(
            "What decides it",
            paragraph(
                "Influence: 1 % more of the constant changes the system's energy by so many %. "
                "Then the factor on that constant alone at which the system breaks even."
            ),
            table(
                ("constant", "value", "influence", *powered), decides, range(1, 3 + len(powered))
            ),
        ),
    ]
    if cross:
        wide = table(("baseline", "figure", "widths"), cross)
        parts.append(section("Widths at which one layer takes less energy in light", wide))
    if account.get("converters"):
        rates = account["tokens_per_s"]
        needs = [
            (
                need["kind"],
                figure(need["samples_per_s"]),
                f"{need['count']:,}",
                quantity(need["rate_hz"], "Hz"),
                quantity(need["power_w"], "W"),
            )
            for need in account["converters"]
        ]
        parts.append(
            section(
                f"Converters for {figure(rates['wanted'] or rates['one_bench'])} {unit}s a second",
                table(
                    ("kind", "samples a second", "count", "each at", "power"), needs, range(1, 5)
                ),
            )
        )
    steps = [
        (
            step["step"],
            step["where"],
            _count(step["macs"] / tokens) if step["macs"] else "",
            joules(sum(step["joules"].values()) / tokens),
            _duration(step["seconds"] / tokens),
        )
        for step in account["steps"]
        if step["joules"]
    ]
    parts += [
        section(
            "Step by step, all layers together",
            table(("step", "where", f"MACs per {unit}", "energy", "time"), steps, (2, 3, 4)),
        ),
        section("Constants", table(_CONSTANT_HEADS, _constants(account), (1,))),
    ]
    return parts


Bar = tuple[str, str, Sequence[tuple[str, str, float]]]  # name, label, (colour, kind, value)


def _pictures(account: Mapping[str, Any]) -> str:
    """Draw energy and time of the bench, in their kinds, and of each baseline."""
    tokens, name = account["tokens"], f"bench {account['profile']}"
    name = name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"
    machines = account["baselines"]
    kinds = list(zip(_COLOURS, account["categories"].items(), strict=True))
    energy: list[Bar] = [
        (
            name,
            joules(account["joules"]["system"] / tokens),
            [(colour, kind, value) for colour, (kind, value) in kinds],
        )
    ]
    energy += [
        (m["name"], joules(m["joules"] / tokens), [(_GREY, "", m["joules"])])
        for m in machines
        if m["joules"] is not None
    ]
    seconds = account["seconds"]
    parts = zip(_TIME_COLOURS, ("light", "converters", "host"), strict=True)
    times: list[Bar] = [
        (
            name,
            _duration(seconds["all"] / tokens),
            [(colour, kind, seconds[kind]) for colour, kind in parts],
        )
    ]
    times += [
        (m["name"], _duration(m["seconds"] / tokens), [(_GREY, "", m["seconds"])])
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


_LEFT, _WIDE, _ROW = 175, 330, 26  # of a picture: names, bars, height of one
_MOST_NAME = 24  # characters that fit there
_FAR = 20  # times the bench's: a bar that would leave the others no length
_GREY, _TIME_COLOURS = "#7a8088", ("#d4a017", "#2b6cb0", "#2f855a")
