"""Bad input to `predict`, before anything costly happens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ntkpredict as ntp
from linearize import Identity

PLAN = ntp.Plan.sgd(0.05, batch_size=8, max_steps=80)


class Untimely(Identity):
    """Is asked for when the costly part begins."""

    def bind(self, params):
        pytest.fail("the features are computed before the refusal")


class TestRefused:
    """Bad input, before anything costly happens."""

    @pytest.fixture
    def predict(self):
        def quickly(network, data, plan=PLAN, until=None, **options):
            return ntp.predict(network, data, plan, until, projection=Untimely(), **options)

        return quickly

    @pytest.mark.parametrize(
        "optimizer",
        [
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
            optax.adam(1e-3, eps=1.0),
            optax.adamw(
                1e-3,
                weight_decay=0.1,
                mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
            ),
            optax.lamb(1e-3),
        ],
        ids=["adam behind clipping", "adam with a large eps", "decay of matrices", "lamb"],
    )
    def test_an_optimizer_of_neither_kind(self, mlp, data, refused, predict, optimizer):
        with refused("optimizer: own cannot be forecast: ") as caught:
            predict(mlp, data, ntp.Plan(optimizer, 8, name="own"))
        for allowed in ("sgd", "adamw", "no clipping by global norm", "a small eps"):
            assert allowed in str(caught.value)

    def test_an_optimizer_that_masks_by_name(self, mlp, data, refused, predict):
        optimizer = optax.masked(optax.sgd(0.1), {"body": True, "head": False})
        with refused("optimizer: "):
            predict(mlp, data, ntp.Plan(optimizer, 8))

    def test_a_batch_larger_than_the_data(self, mlp, data, refused, predict):
        with refused("batch_size: got 49; expected 1..48"):
            predict(mlp, data, ntp.Plan.sgd(0.1, batch_size=49))

    @pytest.mark.parametrize("split", ["train", "validation"])
    @pytest.mark.parametrize("label", [-1, 3])
    def test_labels_out_of_range(self, mlp, data, refused, predict, split, label):
        inputs, labels = getattr(data, split)
        labels = labels.copy()
        labels[4] = label
        with refused(f"labels: got {label}; expected 0..2"):
            predict(mlp, dataclasses.replace(data, **{split: (inputs, labels)}))

    def test_targets_that_are_not_finite(self, mlp, data, refused, predict):
        targets = np.full((48, 3), np.nan, np.float32)
        with refused("labels: got NaN or infinite targets"):
            predict(
                mlp, ntp.Data((data.train[0], targets)), ntp.Plan.sgd(0.1, loss="squared_error")
            )

    def test_inputs_of_another_shape(self, mlp, data, refused, predict):
        with refused("inputs: mlp does not accept shape (4, 3)"):
            predict(mlp, ntp.Data((data.train[0][:, :3], data.train[1])))

    def test_weights_that_are_not_finite(self, linear, data, refused, predict):
        params = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), linear.params)
        with refused("network: linear returns NaN or infinite outputs"):
            predict(dataclasses.replace(linear, params=params), data)

    @pytest.mark.parametrize(
        "until",
        [ntp.TargetLoss(100.0), ntp.MaxSteps(3) | ntp.TargetLoss(50.0), ntp.TargetAccuracy(1e-3)],
        ids=str,
    )
    def test_a_target_met_before_training(self, mlp, data, refused, predict, until):
        with refused("target: the train "):
            predict(mlp, data, until=until)

    def test_a_validation_target_without_validation(self, mlp, training_data, refused, predict):
        with refused("on: got 'validation', but there is no validation data"):
            predict(mlp, training_data, until=ntp.TargetLoss(0.1, on="validation"))

    def test_head_exact_without_a_head(self, data, refused, predict, linear):
        headless = ntp.Network.from_function(linear.function, linear.params)
        with refused("mode: 'head_exact' needs a trainable head in network; use mode='linear'"):
            predict(headless, data, mode="head_exact")

    def test_no_samples(self, mlp, data, refused, predict):
        with refused("samples: got 0; expected "):
            predict(mlp, data, samples=0)

    def test_no_seeds(self, mlp, data, refused, predict):
        with refused("seeds: got 0; expected "):
            predict(mlp, data, seeds=0)

    @pytest.mark.parametrize("budget", [-0.05, 1.5, np.nan, np.inf])
    def test_a_budget_is_a_share_of_the_run(self, mlp, data, refused, budget):
        with refused(f"budget: got {budget}; expected a share of the run, in 0..1"):
            ntp.predict(mlp, data, PLAN, ntp.MaxSteps(5), budget=budget)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"kernel": "growing", "solver": "sde"},
                "solver: 'sde' follows a frozen kernel; with kernel='growing' use 'replay'",
            ),
            (
                {"kernel": "growing", "solver": "spectral"},
                "solver: 'spectral' follows a frozen kernel; with kernel='growing' use 'replay'",
            ),
            (
                {"kernel": "growing", "mode": "linear"},
                "mode: 'linear' has a frozen head; with kernel='growing' use 'head_exact'",
            ),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_a_kernel_that_cannot_grow(self, mlp, data, refused, options, message):
        with refused(message):
            ntp.predict(mlp, data, PLAN, ntp.MaxSteps(5), **options)

    def test_a_kernel_without_a_head_that_trains(self, mlp, data, refused):
        headless = ntp.Network.from_function(mlp.function, mlp.params)
        fixed = ntp.Network.from_function(mlp.function, mlp.params, head="head", trainable="body")
        for network in (headless, fixed):
            with refused("kernel: 'growing' needs a trainable head in network; expected 'frozen'"):
                ntp.predict(network, data, PLAN, ntp.MaxSteps(5), kernel="growing")
