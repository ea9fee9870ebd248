"""Times of calls, in turn, so that a noisy machine disturbs all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time calls in turn: name -> seconds of each round after those that warm up."""
    rounds = [
        {name: seconds_of(call) for name, call in calls.items()} for _ in range(warm_up + repeats)
    ]
    return {name: [times[name] for times in rounds[warm_up:]] for name in calls}
