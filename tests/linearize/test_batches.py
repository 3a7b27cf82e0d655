import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearize.batches import batches, map_batches


@pytest.mark.parametrize("count", [1, 5, 6, 7])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_function_of_batches_is_the_function_of_all(count, size):
    samples = {"a": np.arange(count * 2.0).reshape(count, 2), "b": np.arange(count)}
    traced = []

    @jax.jit
    def function(batch):
        traced.append(batch["a"].shape)
        return batch["a"].sum(1) + batch["b"]

    np.testing.assert_array_equal(map_batches(function, samples, size), function(samples))
    assert len(set(traced)) <= 2  # one batch size, and the call with all


def test_places_cover_the_samples_once_and_batches_are_full():
    items = list(batches(jnp.arange(7), 3))
    assert [batch.shape for batch, _ in items] == [(3,)] * 3
    assert [(place.start, place.stop) for _, place in items] == [(0, 3), (3, 6), (6, 7)]
