"""`check_bench`: check every instrument, the light of the bench, and its products."""

from __future__ import annotations

from ...instruments import Daq, Finding, Instrument, LightloomError
from ...instruments.formatting import format_counted
from . import safety
from .accuracy import Accuracy, random_products
from .backend import BenchBackend
from .bench import Bench
from .light_check import light_findings

FIRST_PRODUCTS = 128  # default number of random products
_MOST_ERROR = 1.3  # over the floor, apart from statistics
_MOST_BIAS = 0.1  # over the floor, apart from statistics
_SURE = 4.5  # standard errors of the limits, exceeded by chance less than once in 100,000 checks


def check_bench(
    bench: Bench, products: int = FIRST_PRODUCTS, seed: int = 1
) -> tuple[list[Finding], Accuracy | None]:
    """Check each instrument alone, then the light, then products; afterwards everything is off.

    Parameters
    ----------
    products : least number of random dot products

    Returns
    -------
    findings : results; an error is a failed finding with its message
    accuracy : of the products; None if an instrument or the products failed

    Raises
    ------
    InUse : when another process holds the bench
    """
    with safety.holding(bench.path, not bench.is_simulated):
        return _check(bench, products, seed)


def ignored_keys(bench: Bench) -> list[str]:
    """Return a remark for each table of the bench file that has no effect on the bench."""
    if bench.is_simulated or "world" not in bench.file.model_fields_set:
        return []
    return [f"{bench.path}: real instruments ignore the table [world]; delete it"]


def _check(bench: Bench, products: int, seed: int) -> tuple[list[Finding], Accuracy | None]:
    findings: list[Finding] = []
    for role, instrument in bench.instruments.items():
        try:
            with instrument.connect(bench.file.limits.timeout_s):
                results = [*instrument.self_test(), *_heartbeat(bench, role, instrument)]
        except LightloomError as error:
            results = [Finding("answers", False, str(error))]
        findings += [Finding(f"{role}: {r.what}", r.passed, r.detail) for r in results]
    if all(finding.passed for finding in findings) and not bench.is_timing_only:
        findings += _light_findings(bench)
    if not all(finding.passed for finding in findings):
        return findings, None
    try:
        with BenchBackend(bench) as backend:
            accuracy = random_products(backend, products, seed)
    except LightloomError as error:
        return [*findings, Finding("products", False, str(error))], None
    return [*findings, accuracy_finding(accuracy)], accuracy


def _light_findings(bench: Bench) -> list[Finding]:
    try:
        with bench:
            return light_findings(bench)
    except LightloomError as error:
        return [Finding("light", False, str(error))]


def _heartbeat(bench: Bench, role: str, instrument: Instrument) -> list[Finding]:
    """Raise and lower the heartbeat line, if this instrument has it."""
    table = bench.file.safety.heartbeat
    if table is None or table.instrument != role or not isinstance(instrument, Daq):
        return []
    for high in (True, False):
        instrument.set_line(table.line, high)
    return [Finding("heartbeat", True, f"line {table.line} was raised and lowered")]


def accuracy_finding(accuracy: Accuracy) -> Finding:
    """Return whether products are as accurate as those of a calibrated bench.

    The root-mean-square error of n products is itself uncertain by 1 / sqrt(2 n) of its value. A
    bench exactly at a limit fails less than once in 100,000 checks; one at its floor never does.
    """
    most_error = _MOST_ERROR * (1 + _SURE / (2 * accuracy.products) ** 0.5)
    most_bias = _MOST_BIAS + _SURE * accuracy.bias_error
    passed = accuracy.over_floor <= most_error and abs(accuracy.bias_over_floor) <= most_bias
    detail = (
        f"{accuracy.products:,} of length {accuracy.length} in "
        f"{format_counted(accuracy.shots, 'shot')}: error "
        f"{accuracy.over_floor:.3f} x the floor (at most {most_error:.2f}), bias "
        f"{accuracy.bias_over_floor:+.3f} x it (at most {most_bias:.2f})"
    )
    return Finding("products", passed, detail)
