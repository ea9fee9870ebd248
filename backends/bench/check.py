"""`check_bench`: whether every instrument answers, and products of the bench come out right."""

from __future__ import annotations

from ...instruments import Daq, Finding, Instrument, LightloomError
from . import safety
from .accuracy import Accuracy, random_products
from .backend import BenchBackend
from .bench import Bench
from .light_check import light_findings

FIRST_PRODUCTS = 128  # compared where nobody asks for more
_MOST_ERROR = 1.3  # of the floor, beyond chance
_MOST_BIAS = 0.1  # of the floor, beyond chance
_SURE = (
    4.5  # standard errors that are left to chance; passed by it less than once in 100,000 checks
)


def check_bench(
    bench: Bench, products: int = FIRST_PRODUCTS, seed: int = 1
) -> tuple[list[Finding], Accuracy | None]:
    """Try each instrument alone, then their light, then multiply; afterwards everything is off.

    Parameters
    ----------
    products : random dot products to compare with their exact values, at least

    Returns
    -------
    findings : one a line; what raised an error is a line that failed, with its sentence
    merit : of the products; None where an instrument failed, or they could not be made

    Raises
    ------
    InUse : when another process holds the bench
    """
    with safety.holding(bench.path, not bench.is_simulated):
        return _checked(bench, products, seed)


def _checked(bench: Bench, products: int, seed: int) -> tuple[list[Finding], Accuracy | None]:
    findings: list[Finding] = []
    for role, instrument in bench.instruments.items():
        try:
            with instrument.connect(bench.file.limits.timeout_s):
                results = [*instrument.self_test(), *_heartbeat(bench, role, instrument)]
        except LightloomError as error:
            results = [Finding("answers", False, str(error))]
        findings += [Finding(f"{role}: {r.what}", r.passed, r.detail) for r in results]
    if all(finding.passed for finding in findings) and not bench.is_timing_only:
        findings += _by_light(bench)
    if not all(finding.passed for finding in findings):
        return findings, None
    try:
        backend = BenchBackend(bench)
        try:
            merit = random_products(backend, products, seed)
        finally:
            backend.close()
    except LightloomError as error:
        return [*findings, Finding("products", False, str(error))], None
    return [*findings, judged(merit)], merit


def _by_light(bench: Bench) -> list[Finding]:
    try:
        with bench:
            return light_findings(bench)
    except LightloomError as error:
        return [Finding("light", False, str(error))]


def _heartbeat(bench: Bench, role: str, instrument: Instrument) -> list[Finding]:
    """Raise and lower the heartbeat line, where this instrument has it."""
    table = bench.file.safety.heartbeat
    if table is None or table.instrument != role or not isinstance(instrument, Daq):
        return []
    for high in (True, False):
        instrument.set_line(table.line, high)
    return [Finding("heartbeat", True, f"line {table.line} was raised and lowered")]


def judged(merit: Accuracy) -> Finding:
    """Say whether products are as good as a calibrated bench's.

    The root-mean-square error of n products is itself uncertain by 1 / sqrt(2 n) of its value. A
    bench exactly at a limit fails less than once in 100,000 checks; one at its floor never does.
    """
    most_error = _MOST_ERROR * (1 + _SURE / (2 * merit.products) ** 0.5)
    most_bias = _MOST_BIAS + _SURE * merit.bias_error
    passed = merit.over_floor <= most_error and abs(merit.bias_over_floor) <= most_bias
    detail = (
        f"{merit.products} of length {merit.length} in {merit.shots} shots: error "
        f"{merit.over_floor:.3f} x the floor (at most {most_error:.2f}), bias "
        f"{merit.bias_over_floor:+.3f} x it (at most {most_bias:.2f})"
    )
    return Finding("products", passed, detail)
