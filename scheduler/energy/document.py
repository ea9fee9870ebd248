"""`account_document`: an energy account as one document, for JSON, reports and pages."""

from collections.abc import Mapping
from typing import Any

from .account import SCOPES, Account, DigitalEnergy, PartEnergy
from .constants import KINDS, Constant

INFLUENTIAL = 8  # constants whose sensitivity a document lists


def account_document(account: Account, tokens_per_s: float | None = None) -> dict[str, Any]:
    """Return an account as a JSON document, with totals and values per token.

    Parameters
    ----------
    tokens_per_s : throughput for the number of converters; None takes that of the bench, one step
        after another
    """
    tokens = account.tokens
    reached = tokens / account.seconds if account.seconds else None
    wanted = reached if tokens_per_s is None else tokens_per_s
    powers = account.powers()
    document: dict[str, Any] = {
        "profile": account.profile.name,
        "constant_sets": list(account.constants.names),
        "unit": account.unit,
        "tokens": tokens,
        "joules": {scope: account.total(scope) for scope in SCOPES},
        "joules_per_token": {scope: account.total(scope) / tokens for scope in SCOPES},
        "femtojoules_per_mac": {
            scope: 1e15 * account.total(scope) / max(account.events.macs, 1) for scope in SCOPES
        },
        "categories": account.joules(),
        "seconds": {
            "all": account.seconds,
            "light": account.events.light_s,
            "converters": account.events.convert_s,
            "host": account.events.host_s,
        },
        "steps": [_step(row) for row in account.rows()],
        "events": {key: value for key, value in vars(account.events).items() if value is not None},
        "baselines": [_baseline(item) for item in account.digital()],
        "advantages": account.advantages(),
        "sensitivity": [vars(item) for item in account.sensitivity(INFLUENTIAL)],
        "tokens_per_s": {"one_bench": reached, "wanted": tokens_per_s},
        "constants": {
            name: {**_constant(item), "influence": powers[name]}
            for name, item in account.constants.values.items()
        },
        "assumed": [item.name for item in account.constants.assumed],
    }
    if wanted:
        document["converters"] = [vars(need) for need in account.converters(wanted)]
        document["benches"] = account.benches(wanted)
    return document


def _step(row: PartEnergy) -> dict[str, Any]:
    part = row.part
    return {
        "step": part.name,
        "kind": part.kind,
        "where": part.where,
        "count": part.steps,
        "macs": part.events.macs,
        "joules": {key: value for key, value in row.joules.items() if value},
        "seconds": part.events.seconds,
    }


def _baseline(item: DigitalEnergy) -> dict[str, Any]:
    return {
        "name": item.baseline.name,
        "title": item.baseline.title,
        "joules": item.system,
        "joules_of_products_on_light": item.compute,
        "seconds": item.seconds,
    }


def _constant(constant: Constant) -> Mapping[str, Any]:
    return {
        "value": constant.value,
        "unit": constant.unit,
        "meaning": KINDS[constant.name].meaning,
        "source": constant.source,
        "year": constant.year,
        "recalled": constant.recalled,
        "origin": constant.origin,
    }
