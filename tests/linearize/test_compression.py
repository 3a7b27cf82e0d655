from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linearize import LinearTangent, Network, compress, empirical_ntk, linearize
from tests import networks


def model(columns: int = 60) -> LinearTangent:
    scales = jnp.arange(1, columns + 1) ** -1.0
    jacobian = jax.random.normal(jax.random.key(0), (20, 3, columns)) * scales
    return LinearTangent(
        outputs_initial=jnp.zeros((20, 3)),
        jacobian=jacobian,
        body_initial=jax.random.normal(jax.random.key(1), (columns,)),
        exact=False,
    )


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.1])
def test_the_kernel_loses_at_most_the_tolerance_of_its_trace(tolerance):
    whole, part = model(), compress(model(), tolerance=tolerance)
    full, kept = (empirical_ntk(m).value.reshape(60, 60) for m in (whole, part))
    lost = full - kept
    assert jnp.trace(lost) <= (tolerance + 1e-5) * jnp.trace(full)
    assert jnp.linalg.eigvalsh(lost).min() > -1e-4


def test_a_larger_tolerance_leaves_fewer_columns():
    columns = [compress(model(), tolerance=t).jacobian.shape[-1] for t in (0.001, 0.01, 0.1)]
    assert columns == sorted(columns, reverse=True)
    assert columns[0] > columns[-1]


def test_without_tolerance_outputs_stay_the_same():
    whole, part = model(), compress(model(), tolerance=0.0)
    step = jax.grad(lambda params, m: m(params).sum())
    moved = [
        m(jax.tree.map(lambda p, g: p - 0.1 * g, m.initial(), step(m.initial(), m)))
        for m in (whole, part)
    ]
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tolerance", [-0.1, 1.0])
def test_a_tolerance_outside_of_its_range_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance: got .*; expected 0 <= tolerance < 1"):
        compress(model(), tolerance=tolerance)


def test_a_model_whose_head_alone_moves_has_nothing_to_compress():
    given, x = networks.perceptron()
    network = Network.from_function(given.function, given.params, head="head", trainable="head/*")
    still = linearize(network, x, checked=True)
    np.testing.assert_array_equal(compress(still)(still.initial()), still(still.initial()))


def test_exact_features_and_bodies_that_stay_are_left_alone():
    exact = replace(model(), exact=True)
    assert compress(exact) is exact
    empty = replace(model(), jacobian=jnp.zeros((20, 3, 0)), body_initial=jnp.zeros(0))
    assert compress(empty) is empty
