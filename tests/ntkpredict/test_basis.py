import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import Identity, ScaledSketch
from ntkpredict.basis import Basis
from ntkpredict.simulation import Simulation

UNTIL = ntp.TargetLoss(relative=0.1)


def silent(_done, _total):
    """No progress bar."""


class TestScaledSketch:
    """The projection for optimizers that go by coordinates."""

    @pytest.fixture
    def made(self, mlp, data, monkeypatch):
        """A basis, the problem in it, and the moments that its projection is made of."""

        def make(plan, mode):
            bases, seen = [], []

            def keep(*args, **options):
                bases.append(Basis(*args, **options))
                return bases[0]

            def sketch(moments):
                seen.append(moments)
                return ScaledSketch(moments, 16, bins=4)

            monkeypatch.setattr("ntkpredict.basis._sketch", sketch)
            monkeypatch.setattr("ntkpredict.simulation.Basis", keep)
            problem = Simulation(mlp, data, plan, 3, 512, 2, UNTIL).problem(mode, None, silent)
            (moments,), (basis,) = seen, bases
            return basis, problem, moments

        return make

    def expected(self, network, plan, data, heads):
        """The gradient of each minibatch's summed loss, squared, with a head for each of them."""
        inputs, labels = data.train
        targets = plan.objective.targets(labels, 3)
        starts = range(0, len(labels), plan.batch_size)[: len(heads)]

        def loss(params, part):
            return plan.objective.loss(network.apply(params, inputs[part]), targets[part]).sum()

        gradients = [
            jax.grad(loss)(
                {**network.params, "head": {**network.params["head"], "kernel": head}},
                slice(start, start + plan.batch_size),
            )
            for start, head in zip(starts, heads, strict=False)
        ]
        return jax.tree.map(lambda *leaves: np.square(leaves).mean(0), *gradients)

    def test_of_the_plain_tangent_model_is_by_the_gradients_at_the_start(self, made, mlp, data):
        plan = ntp.Plan(optax.adam(0.1), 7, 30)  # seven minibatches, the last of six samples
        _, problem, moments = made(plan, "linear")
        expected = self.expected(mlp, plan, data, [mlp.params["head"]["kernel"]] * 7)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), moments, expected)
        assert not problem.train.model.exact
        assert problem.train.model.jacobian.shape == (48, 3, 16)  # and not compressed

    def test_is_by_the_gradients_along_the_training_of_the_head(self, made, mlp, data):
        plan = ntp.Plan(optax.adam(0.1), 4, 30)
        basis, problem, moments = made(plan, "head_exact")
        path = basis._path[0]
        assert jnp.abs(path[-1] - path[0]).max() > 0.5
        heads = [path[i] for i in np.linspace(0, len(path) - 1, 8).astype(int)]
        expected = self.expected(mlp, plan, data, heads)["body"]
        np.testing.assert_allclose(moments["body"], expected, rtol=1e-3)
        np.testing.assert_array_equal(path[0], mlp.params["head"]["kernel"])
        assert problem.train.model.jacobian.shape[::2] == (48, 16)

    def test_only_where_the_optimizer_needs_it(self, mlp, data, monkeypatch):
        def never(_):
            pytest.fail("no need of moments")

        monkeypatch.setattr("ntkpredict.basis._sketch", never)
        plan = ntp.Plan.sgd(0.02, batch_size=4, max_steps=30)
        simulation = Simulation(mlp, data, plan, 3, 512, 2, UNTIL)
        assert simulation.problem("linear", None, silent).train.model.exact
        plan = ntp.Plan(optax.adam(0.1), 7, 30)
        simulation = Simulation(mlp, data, plan, 3, 512, 2, UNTIL)
        assert simulation.problem("linear", Identity(), silent).train.model.exact  # as asked for
