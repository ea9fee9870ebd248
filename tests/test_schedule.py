"""A schedule keeps to the dependencies of a program, in whatever order steps finish."""

from __future__ import annotations

import numpy as np
import pytest
from lightloom.models.shapes import sized_model
from lightloom.scheduler.graph import Node
from lightloom.scheduler.schedule import Schedule

PROGRAM = sized_model(32, 2, heads=2, vocabulary=64).program("logits")
PARTS = 3
PLACED = {step.name for step in PROGRAM.matmuls if not step.dynamic}
IS_LIGHT = [step.name in PLACED for step in PROGRAM.steps]


def finished(schedule: Schedule, seed: int, most: int | None = None) -> list[Node]:
    """Finish some steps, on light or on the host by chance, and return them."""
    chance = np.random.default_rng(seed)
    for node in schedule.ready:
        if not schedule.is_light[node[0]]:
            schedule.queue_host(node)
    order: list[Node] = []
    while schedule.unfinished and (most is None or len(order) < most):
        hosts_next = schedule.host_queue and chance.random() < 0.5
        takes_light = schedule.is_product_ready and not hosts_next
        node = schedule.products.popleft() if takes_light else schedule.pop_host()
        order.append(node)
        for other in schedule.finish(node):
            if not schedule.is_light[other[0]]:
                schedule.queue_host(other)
    return order


@pytest.mark.parametrize("seed", range(5))
def test_steps_follow_what_they_read(seed: int) -> None:
    order = finished(Schedule(PROGRAM, PLACED, PARTS), seed)
    assert sorted(order) == [(i, part) for i in range(len(IS_LIGHT)) for part in range(PARTS)]
    places = {node: place for place, node in enumerate(order)}
    for (index, part), place in places.items():
        assert all(places[earlier, part] < place for earlier in PROGRAM.dependencies.reads[index])
    products = [node for node in order if IS_LIGHT[node[0]]]
    assert products == sorted(products)  # step by step, micro-batch by micro-batch


@pytest.mark.parametrize("most", [0, 1, 20, 60])
def test_a_resumed_schedule_takes_the_steps_that_are_left(most: int) -> None:
    done = finished(Schedule(PROGRAM, PLACED, PARTS), 1, most)
    rest = finished(Schedule(PROGRAM, PLACED, PARTS, done), 2)
    assert len(done) == most
    assert sorted(done + rest) == sorted(finished(Schedule(PROGRAM, PLACED, PARTS), 3))
