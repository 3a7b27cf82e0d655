"""Tiny problems: three classes of points, and networks without arguments for the command."""

import dataclasses

import jax.numpy as jnp
import numpy as np

import ntkpredict as ntp

SAMPLES, INPUTS, HIDDEN, CLASSES = 48, 5, 8, 3


def points(samples, seed):
    """Points about class centres: separable in the main, with some overlap."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, INPUTS))
    labels = random.integers(0, CLASSES, samples).astype(np.int32)
    inputs = centres[labels] + 0.8 * random.normal(size=(samples, INPUTS))
    return inputs.astype(np.float32), labels


def data():
    """48 training and 24 validation samples."""
    return ntp.Data(points(SAMPLES, 1), points(SAMPLES // 2, 2), name="points")


def linear():
    """A network that is linear in its parameters, and nothing but a head."""
    params = {"head": _head(INPUTS, 3)}
    return ntp.Network.from_function(_affine, params, head="head", name="linear")


def mlp(trainable=None, hidden=HIDDEN):
    """One hidden layer and a head."""
    random = np.random.default_rng(4)
    body = random.normal(size=(INPUTS, hidden)) / np.sqrt(INPUTS)
    params = {"body": body.astype(np.float32), "head": _head(hidden, 5)}
    return ntp.Network.from_function(
        lambda params, x: _affine(params, jnp.tanh(x @ params["body"])),
        params,
        head="head",
        trainable=trainable,
        name="mlp",
    )


def _affine(params, x):
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def _head(features, seed):
    kernel = np.random.default_rng(seed).normal(size=(features, CLASSES)) / np.sqrt(features)
    return {"kernel": kernel.astype(np.float32), "bias": np.zeros(CLASSES, np.float32)}


def assert_is_the_real_run(forecast, network, data, plan, **tolerance):
    """The first minibatch order is that of the plan's own seed: the curves are the real ones."""
    run = ntp.train(network, data, plan)
    np.testing.assert_array_equal(forecast.trajectory.steps, run.trajectory.steps)
    for split in ("train", "validation"):
        predicted = getattr(forecast.trajectory, split)
        real = getattr(run.trajectory, split)
        assert (predicted is None) == (real is None)
        if real is not None:
            np.testing.assert_allclose(predicted.loss[0], real.loss[0], **tolerance)
            np.testing.assert_allclose(predicted.accuracy[0], real.accuracy[0], atol=0.05)


def real_steps(network, data, plan, until, seeds):
    """The median of real runs in as many minibatch orders."""
    plans = [dataclasses.replace(plan, seed=seed) for seed in range(seeds)]
    return np.median([ntp.train(network, data, plan, until).steps for plan in plans])


def loud():
    """A hidden layer of ReLUs whose features are large: its kernel is, too."""
    random, inputs, hidden = np.random.default_rng(0), INPUTS, 32
    body = 3 * random.normal(size=(inputs, hidden)) / np.sqrt(inputs)
    head = random.normal(size=(hidden, CLASSES)) / np.sqrt(hidden)
    params = {"body": body.astype(np.float32), "head": {"kernel": head.astype(np.float32)}}
    return ntp.Network.from_function(
        lambda params, x: jnp.maximum(x @ params["body"], 0) @ params["head"]["kernel"],
        params,
        head="head",
        name="loud",
    )


def plain(lr, **options):
    """Gradient descent without momentum."""
    return ntp.Plan.sgd(lr, momentum=0.0, batch_size=8, max_steps=200, **options)
