"""Feed mutated files, replies and arguments to whatever reads them, and count what comes of it.

    python -m lightloom.benchmarks.fuzz --inputs 100000 --seed 0

An input may be refused with a sentence, or accepted where nothing that it says is a wrong number;
a traceback, a wrong number and an input that takes too long are findings. Input N of a target is a
function of (seed, target, N) alone: `--only TARGET --first N --inputs 1` brings one back.
"""

import argparse
import logging
import sys

from lightloom.instruments import MissingExtraError

from .commands import COMMANDS
from .files import FILES
from .journals import JOURNALS
from .models import MODELS
from .replies import REPLIES
from .trying import Count, fuzz

TARGETS = (*FILES, *MODELS, *REPLIES, *JOURNALS, *COMMANDS)


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign and print a line for each target; exit status 1 for findings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="this target alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args(arguments)
    chosen = [target for target in TARGETS if options.only in (None, target.name)]
    if not chosen:
        parser.error(f"no target {options.only!r}; there are {', '.join(t.name for t in TARGETS)}")
    logging.disable(logging.CRITICAL)  # what drivers say of each reply that they drop
    whole = sum(target.share for target in chosen)
    print(
        f"{'target':20} {'inputs':>8} {'refused':>8} {'accepted':>8} {'tracebacks':>10} "
        f"{'wrong':>6} {'hangs':>6} {'slowest':>10}"
    )
    counts = []
    for target in chosen:
        inputs = max(1, round(options.inputs * target.share / whole))
        try:
            counts.append(fuzz(target, inputs, options.seed, options.first))
        except MissingExtraError as error:
            print(f"{target.name:20} left out: {error}")
            continue
        _show(counts[-1])
        _tell(counts[-1])
    if len(counts) > 1:
        _show(_total(counts))
    return 1 if any(count.findings for count in counts) else 0


def _tell(count: Count) -> None:
    """Print what was found, on standard error: the table stays whole."""
    for found in count.findings.values():
        times = f"{found.times} times" if found.times > 1 else "once"
        print(f"\n{found.target}, input {found.number}, {times}: {found.what}", file=sys.stderr)
        print(found.trace, file=sys.stderr, flush=True)


def _show(count: Count) -> None:
    kinds = {"wrong": 0, "hangs": 0, "tracebacks": 0}
    for key, finding in count.findings.items():
        name = key.split()[0]
        kind = {"WrongNumberError": "wrong", "TookTooLongError": "hangs"}.get(name, "tracebacks")
        kinds[kind] += finding.times
    print(
        f"{count.target:20} {count.inputs:8} {count.refused:8} {count.accepted:8} "
        f"{kinds['tracebacks']:10} {kinds['wrong']:6} {kinds['hangs']:6} "
        f"{count.slowest_s * 1e3:7.0f} ms",
        flush=True,
    )


def _total(counts: list[Count]) -> Count:
    total = Count("in all")
    for index, count in enumerate(counts):
        total.inputs += count.inputs
        total.refused += count.refused
        total.accepted += count.accepted
        total.slowest_s = max(total.slowest_s, count.slowest_s)
        total.findings |= {f"{key} {index}": found for key, found in count.findings.items()}
    return total


if __name__ == "__main__":
    sys.exit(main())
