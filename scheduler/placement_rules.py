"""Files of placement rules: the place of products by kind, name and layer; the first match decides.

Not here: the decision of a policy (`placement`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..instruments import InputError
from ..instruments.file_keys import REQUIRED, FileKey, as_toml
from ..instruments.toml_file import read_toml
from .program import OpticalMatmul

WHERE: Mapping[str, str] = {
    "light": "all-optical",
    "host": "host",
    "fastest": "fastest",
    "least-energy": "least-energy",
}
"""Value of `where` in a rule -> policy."""
TOP_KEYS = (
    FileKey("default", "Policy for products that no rule fits.", '"paper"'),
    FileKey("rule", "Rules, one table `[[rule]]` each.", REQUIRED, allowed="list of tables"),
)
"""The keys of a file of rules."""
RULE_KEYS = (
    FileKey("kind", "Kind of product, as `lightloom plan` shows it; without the key any kind."),
    FileKey(
        "step",
        "Pattern of names of steps, such as `layer.*.mlp.*`; without the key any step.",
    ),
    FileKey(
        "layers",
        'Layer, such as "2", or range of layers, such as "0-3"; without the key any product.',
    ),
    FileKey(
        "where",
        "Place of the products that the rule fits.",
        REQUIRED,
        allowed=", ".join(map(as_toml, WHERE)),
    ),
)
"""The keys of a table `[[rule]]`."""
_KEYS = tuple(key.name for key in RULE_KEYS)


@dataclass(frozen=True)
class PlacementRule:
    """The policy for some products.

    Parameters
    ----------
    label : file and number, for messages
    policy : decides for these products
    kind : None fits all kinds
    step : pattern of names, as of files ("layer.*.mlp.*"); None fits all
    layers : the first and the last; None fits all, also products outside of layers
    """

    label: str
    policy: str
    kind: str | None = None
    step: str | None = None
    layers: tuple[int, int] | None = None

    def fits(self, step: OpticalMatmul) -> bool:
        """Return whether the rule fits a product."""
        if self.kind not in (None, step.kind):
            return False
        if self.step is not None and not fnmatchcase(step.name, self.step):
            return False
        if self.layers is None:
            return True
        return step.layer is not None and self.layers[0] <= step.layer <= self.layers[1]


@dataclass(frozen=True)
class PlacementRules:
    """Rules in order, the first that fits decides; and the policy where no rule fits."""

    rules: tuple[PlacementRule, ...]
    default: str

    def of(self, step: OpticalMatmul) -> tuple[str, PlacementRule | None]:
        """Return the policy for a product, and the rule that names it; None for the default."""
        for rule in self.rules:
            if rule.fits(step):
                return rule.policy, rule
        return self.default, None

    def check(self, steps: Iterable[OpticalMatmul]) -> None:
        """Check that each rule decides for some product.

        Raises
        ------
        InputError : naming a rule that fits no product, or only those of earlier rules
        """
        steps = list(steps)
        deciding = {rule for _, rule in map(self.of, steps)}
        for rule in self.rules:
            if rule not in deciding:
                raise InputError(f"{rule.label} {_why_idle(rule, steps)}")


def read_rules(path: Path, policies: Collection[str], default: str) -> PlacementRules:
    """Read a file of rules.

    Parameters
    ----------
    policies : that `default` in the file may name
    default : where the file names none

    Raises
    ------
    InputError : naming file, rule, key and value
    """
    document = read_toml(path, "placement")
    for key in document.keys() - {"rule", "default"}:
        raise InputError(f"{path} has no key {key!r}; it has default, and tables [[rule]]")
    default = document.get("default", default)
    if not isinstance(default, str) or default not in policies:
        raise InputError(f"{path}: default = {default!r}; choose from {', '.join(policies)}")
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: rules are tables, each under a line [[rule]]")
    if not tables:
        raise InputError(f"{path} has no [[rule]]; give one, or the policy's name instead")
    rules = [_rule(f"{path}, rule {number}", table) for number, table in enumerate(tables, 1)]
    return PlacementRules(tuple(rules), default)


def _rule(label: str, table: Mapping[str, Any]) -> PlacementRule:
    for key in table.keys() - set(_KEYS):
        raise InputError(f"{label} has an unknown key {key!r}; a rule has {', '.join(_KEYS)}")
    for key, value in table.items():
        if not isinstance(value, str):
            raise InputError(f"{label}: {key} = {value!r} is not a text in quotes")
    where = str(table.get("where", ""))
    if where not in WHERE:
        given = f"has where = {where!r}" if "where" in table else "has no where"
        raise InputError(f"{label} {given}; choose from {', '.join(WHERE)}")
    if len(table) < 2:
        raise InputError(f"{label} names no product: give kind, step or layers, or use default")
    layers = table.get("layers")
    return PlacementRule(
        label,
        WHERE[where],
        table.get("kind"),
        table.get("step"),
        None if layers is None else _layers(label, layers),
    )


def _layers(label: str, text: str) -> tuple[int, int]:
    first, dash, last = (piece.strip() for piece in text.partition("-"))
    if first.isdecimal() and (last.isdecimal() or not dash):
        found = int(first), int(last or first)
        if found[0] <= found[1]:
            return found
    raise InputError(
        f"{label}: layers = {text!r} is not a layer, such as 3, or a range of layers, such as 0-3"
    )


def _why_idle(rule: PlacementRule, steps: list[OpticalMatmul]) -> str:
    names = list(dict.fromkeys(step.name for step in steps))
    kinds = list(dict.fromkeys(step.kind for step in steps))
    last = max((step.layer for step in steps if step.layer is not None), default=None)
    if rule.kind is not None and rule.kind not in kinds:
        return f"names the kind {rule.kind!r}; this model has {_nearest(rule.kind, kinds)}"
    if rule.step is not None and not any(fnmatchcase(name, rule.step) for name in names):
        return f"names the step {rule.step!r}; the nearest here are {_nearest(rule.step, names)}"
    if rule.layers is not None and (last is None or rule.layers[0] > last):
        has = "no layers" if last is None else f"layers 0 to {last}"
        return f"begins at layer {rule.layers[0]}, but this model has {has}"
    if any(map(rule.fits, steps)):
        return "has no effect: rules before it fit all its products, and the first one decides"
    return "fits no product of this model: no product has its kind, step and layers"


def _nearest(word: str, known: list[str]) -> str:
    """Return the known words that are nearest to a word; all of them where they are few."""
    near = known if len(known) <= 8 else get_close_matches(word, known, 3, 0.0)
    return ", ".join(repr(name) for name in near)
