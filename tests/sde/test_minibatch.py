"""The order of samples: whole permutations, the same for the simulation and for real runs."""

from __future__ import annotations

import numpy as np
import pytest

from sde import epoch_order, minibatch_order
from sde.minibatch import independent_order


@pytest.mark.parametrize(("samples", "batch_size"), [(12, 4), (13, 4), (7, 7), (5, 1)])
def test_an_epoch_visits_no_sample_twice(samples: int, batch_size: int) -> None:
    order = epoch_order(samples, batch_size, 0, 0)
    assert order.shape == (samples // batch_size, batch_size)
    assert len(np.unique(order)) == order.size
    assert order.min() >= 0
    assert order.max() < samples


def test_an_epoch_of_whole_batches_visits_every_sample() -> None:
    np.testing.assert_array_equal(np.sort(epoch_order(12, 4, 3, 1), axis=None), np.arange(12))


def test_what_is_left_over_changes_from_epoch_to_epoch() -> None:
    missed = {
        int(sample)
        for epoch in range(40)
        for sample in np.setdiff1d(np.arange(5), epoch_order(5, 4, epoch, 0))
    }
    assert missed == set(range(5))


def test_every_sample_is_as_likely_in_every_place() -> None:
    epochs = np.stack([epoch_order(6, 2, epoch, 0).ravel() for epoch in range(3000)])
    counts = np.stack([(epochs == sample).sum(0) for sample in range(6)])
    spread = np.sqrt(3000 * (1 / 6) * (5 / 6))
    assert np.abs(counts - 500).max() < 4.5 * spread


@pytest.mark.parametrize("steps", [1, 3, 4, 10, 12])
def test_minibatches_are_the_epochs_one_after_the_other(steps: int) -> None:
    order = minibatch_order(13, 4, steps, seed=5)
    epochs = np.concatenate([epoch_order(13, 4, epoch, seed=5) for epoch in range(4)])
    np.testing.assert_array_equal(order, epochs[:steps])


def test_more_steps_do_not_change_the_first() -> None:
    np.testing.assert_array_equal(minibatch_order(9, 2, 30, 0)[:7], minibatch_order(9, 2, 7, 0))


def test_seeds_and_epochs_differ_and_repeat() -> None:
    orders = [epoch_order(50, 10, epoch, seed) for epoch, seed in [(0, 0), (1, 0), (0, 1), (1, 1)]]
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(orders[1], epoch_order(50, 10, 1, 0))


@pytest.mark.parametrize("batch_size", [0, -1, 13])
def test_batches_are_no_larger_than_the_data(batch_size: int) -> None:
    message = rf"^batch_size: got {batch_size}; expected 1\.\.12, the number of samples$"
    with pytest.raises(ValueError, match=message):
        epoch_order(12, batch_size, 0, 0)
    with pytest.raises(ValueError, match=message):
        minibatch_order(12, batch_size, 5, 0)


# Independent batches


def test_independent_batches_hold_no_sample_twice() -> None:
    order = independent_order(9, 4, 50, 0)
    assert order.shape == (50, 4)
    assert all(len(set(batch)) == 4 for batch in order)
    assert (order.min(), order.max()) == (0, 8)


def test_independent_batches_forget_what_came_before() -> None:
    """Two batches of a shuffled epoch never share a sample; these share B²/N on average."""
    order = independent_order(10, 5, 2000, 0)
    shared = [len(np.intersect1d(a, b)) for a, b in zip(order[::2], order[1::2], strict=True)]
    # Hypergeometric: variance n K/N (1 - K/N) (N - n)/(N - 1).
    assert abs(np.mean(shared) - 2.5) < 4 * (5 * 0.25 * 5 / 9 / 1000) ** 0.5


def test_independent_batches_visit_all_samples_alike() -> None:
    counts = np.bincount(independent_order(6, 2, 6000, 3).ravel(), minlength=6)
    assert np.abs(counts - 2000).max() < 4.5 * (6000 / 3 * 2 / 3) ** 0.5


def test_independent_batches_of_all_samples_are_all_samples() -> None:
    order = independent_order(7, 7, 5, 0)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(7), (5, 1)))


def test_independent_batches_differ_by_seed_repeat_and_grow() -> None:
    first = independent_order(50, 10, 8, 0)
    assert not np.array_equal(first, independent_order(50, 10, 8, 1))
    np.testing.assert_array_equal(first, independent_order(50, 10, 20, 0)[:8])
