"""`check_bench`: whether every instrument answers, and a first product comes out right."""

from __future__ import annotations

import numpy as np

from ...instruments import Finding, LightloomError
from ..mock import MockBackend
from .backend import BenchBackend
from .bench import Bench

_ROWS, _OUTPUTS = 8, 16  # of the first product
_TOO_FAR = 1.5  # over the error that theory predicts; chance alone exceeds it less than once in 1e6


def check_bench(bench: Bench) -> list[Finding]:
    """Try each instrument alone, then multiply once; afterwards everything is off.

    Returns
    -------
    findings : one a line; what raised an error is a line that failed, with its sentence
    """
    findings: list[Finding] = []
    for role, instrument in bench.instruments.items():
        try:
            with instrument.connect(bench.file.limits.timeout_s):
                results = instrument.self_test()
        except LightloomError as error:
            results = [Finding("answers", False, str(error))]
        findings += [Finding(f"{role}: {r.what}", r.passed, r.detail) for r in results]
    if all(finding.passed for finding in findings):
        try:
            findings.append(_first_product(bench))
        except LightloomError as error:
            findings.append(Finding("first product", False, str(error)))
    return findings


def _first_product(bench: Bench) -> Finding:
    """Compare a random product with its exact value, and its error with theory's."""
    backend = BenchBackend(bench)
    try:
        backend.open()
        chance = np.random.Generator(np.random.Philox(1))
        length = backend.layout.length
        outputs = min(_OUTPUTS, max(backend.layout.slots, 4))
        x, w = chance.standard_normal((_ROWS, length)), chance.standard_normal((outputs, length))
        exact = x @ w.T
        result = backend.matmul(x, w)
        error = float(np.sqrt(np.mean((result.y - exact) ** 2)))
        theory = MockBackend(backend.profile).matmul(np.tile(x, (20, 1)), w).y
        predicted = float(np.sqrt(np.mean((theory - np.tile(exact, (20, 1))) ** 2)))
        shots, size = result.stats.shots, float(np.std(exact))
    finally:
        backend.close()
    detail = (
        f"{_ROWS} x {length} by {outputs} in {shots} shots: error {error / size:.2%} of the "
        f"values, theory says {predicted / size:.2%}"
    )
    return Finding("first product", error < _TOO_FAR * predicted, detail)
