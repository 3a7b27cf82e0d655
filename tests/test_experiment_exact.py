"""The parts of two experiments whose cases take minutes."""

import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp

from .ntkpredict import problems

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def exact():
    """What `experiments/exact/run.py` defines."""
    return runpy.run_path(str(EXPERIMENTS / "exact" / "run.py"))


@pytest.fixture(scope="module")
def mlp():
    return problems.mlp()


class TestExact:
    def test_features_are_the_networks_to_first_order(self, exact, mlp):
        inputs, _ = problems.data().train
        read = mlp.features_by_body(jnp.eye(problems.HIDDEN))
        moved = {**mlp.params, "body": mlp.params["body"] + 1e-3}
        before, after, left = exact["tangent_features"](mlp, False, moved, inputs)
        np.testing.assert_allclose(before, read(mlp.body(mlp.params), inputs), rtol=1e-6)
        np.testing.assert_allclose(after, read(mlp.body(moved), inputs), atol=1e-4)
        assert (left == 1).all()

    def test_features_that_are_never_negative_stay_so(self, exact, mlp):
        def apply(params, x):
            return jax.nn.relu(x @ params["body"]) @ params["head"]["kernel"]

        params = {"body": mlp.params["body"], "head": {"kernel": mlp.params["head"]["kernel"]}}
        network = ntp.Network.from_function(apply, params, head="head")
        moved = {**params, "body": params["body"] - 1}
        inputs, _ = problems.data().train
        before, after, left = exact["tangent_features"](network, True, moved, inputs)
        falls = after < before
        assert falls.any()
        assert (after >= 0).all()
        np.testing.assert_allclose(after[falls], (before * left)[falls], rtol=1e-6)

    def test_growth_is_before_the_optimizer_and_after(self, exact, mlp):
        rho = iter([2.0, 3.0])
        optimizer = exact["growing"](optax.sgd(0.1), mlp.body(mlp.params), lambda *_: next(rho))
        state = optimizer.init(mlp.params)
        for factor in (2, 3):
            updates, state = optimizer.update(mlp.params, state, mlp.params)
            expected = -0.1 * mlp.params["head"]["kernel"]
            np.testing.assert_allclose(updates["head"]["kernel"], expected, rtol=1e-6)
            expected = -0.1 * factor**2 * mlp.params["body"]
            np.testing.assert_allclose(updates["body"], expected, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_what_is_unlearnt_takes_from_what_stays():
    features = runpy.run_path(str(EXPERIMENTS / "unlearning" / "run.py"))["Features"]
    before = jnp.asarray(np.abs(np.random.default_rng(0).normal(size=(20, 4))) + 0.1)
    first, faded = features(8, fading=False), features(8, fading=True)
    assert first.move(before, -before, np.eye(4)) == pytest.approx(math.exp(-2))
    assert faded.move(before, -before, np.eye(4)) == pytest.approx(4 * math.exp(-4))
    assert faded.unlearnt == pytest.approx(1)
    faded.move(before, before, np.eye(4))
    assert faded.unlearnt == pytest.approx(1)  # it does not come back
