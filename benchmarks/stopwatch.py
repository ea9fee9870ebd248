"""Times of calls, in turn, so that a noisy machine disturbs all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_of(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that a call takes by a clock, such as `time.process_time`."""
    start = clock()
    call()
    return clock() - start


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time calls in turn: name -> seconds of each round after those that warm up."""
    rounds = [
        {name: seconds_of(call, clock) for name, call in calls.items()}
        for _ in range(warm_up + repeats)
    ]
    return {name: [times[name] for times in rounds[warm_up:]] for name in calls}
