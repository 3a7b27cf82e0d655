"""Work on several cores of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from linearize import linearize
from linearize.threads import cores, in_threads
from tests import networks


def test_results_come_in_the_order_of_the_items() -> None:
    def late(item: int) -> int:
        time.sleep(0.02 if item % 2 else 0)
        return item

    assert list(in_threads(late, range(9), 3)) == list(range(9))
    assert list(in_threads(late, [], 3)) == []


def test_so_many_at_once_and_no_more_items_are_held_than_are_worked_on() -> None:
    together, drawn, done = threading.Barrier(2), 0, 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for item in range(8):
            drawn += 1
            yield item

    def meet(_: int) -> int:
        return together.wait(timeout=10)

    for _ in in_threads(meet, items(), 2):
        done += 1
        assert drawn - done <= 3
    assert done == 8


def test_an_error_ends_the_work_whoever_makes_it() -> None:
    worked: list[int] = []

    def work(item: int) -> int:
        worked.append(item)
        if item == 2:
            msg = "two"
            raise RuntimeError(msg)
        return item

    with pytest.raises(RuntimeError, match="two"):
        list(in_threads(work, range(100), 1))
    assert len(worked) < 10
    worked.clear()
    some = in_threads(work, range(3, 100), 1)
    next(some)
    some.close()
    assert len(worked) < 10


def test_features_do_not_depend_on_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = networks.perceptron()
    assert cores() >= 1
    models = []
    for count in (1, 3):
        monkeypatch.setattr("linearize.jacobian.cores", lambda count=count: count)
        models.append(linearize(network, x, checked=True))
    for one, three in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_array_equal(one, three)
