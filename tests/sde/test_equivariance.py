"""Which optimizers commute with rotations of parameter space."""

from __future__ import annotations

from typing import Any

import jax
import optax
import pytest

from sde import is_rotation_equivariant


def decay(mask: Any) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(0.1, mask=mask), optax.sgd(0.1))


def by_name(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path), params)


def by_shape(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


EQUIVARIANT = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "cosine": optax.sgd(optax.cosine_decay_schedule(0.1, 10)),
    "warm-up": optax.sgd(optax.linear_schedule(0.0, 0.1, 3)),
    "global norm": optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    "weight decay": decay(None),
    "normalised": optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "average": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
    "several steps": optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "everything": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(5e-4),
        optax.sgd(optax.cosine_decay_schedule(0.1, 4), momentum=0.9, nesterov=True),
    ),
}
COORDINATE_WISE = {
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "nadam": optax.nadam(1e-3),
    "rmsprop": optax.rmsprop(1e-3),
    "adagrad": optax.adagrad(1e-3),
    "adafactor": optax.adafactor(1e-3),
    "sign": optax.sign_sgd(1e-3),
    "lion": optax.lion(1e-3),
    "clip": optax.chain(optax.clip(1.0), optax.sgd(0.1)),
    "clip each tensor": optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(0.1)),
    "adaptive clip": optax.chain(optax.adaptive_grad_clip(0.01), optax.sgd(0.1)),
    "lars": optax.lars(0.1),
    "lamb": optax.lamb(1e-3),
    "decay of matrices": decay(by_shape),
    "decay of kernels": decay(by_name),
    "decay of the head": decay({"head": True, "body": False}),
}


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_optimizers_that_commute(name: str) -> None:
    assert is_rotation_equivariant(EQUIVARIANT[name])


@pytest.mark.parametrize("name", COORDINATE_WISE)
def test_optimizers_that_do_not(name: str) -> None:
    assert not is_rotation_equivariant(COORDINATE_WISE[name])


@pytest.mark.parametrize(
    "optimizer",
    [decay({"stem": True, "head": False}), optax.lbfgs()],
    ids=["mask of other names", "needs the loss"],
)
def test_optimizers_that_do_not_run(optimizer: optax.GradientTransformation) -> None:
    with pytest.raises(ValueError, match=r"^optimizer: .* cannot be replayed \(.*\)") as caught:
        is_rotation_equivariant(optimizer)
    assert "\n" not in str(caught.value)


def test_double_precision_is_as_good(x64: None) -> None:
    assert is_rotation_equivariant(EQUIVARIANT["everything"])
    assert not is_rotation_equivariant(COORDINATE_WISE["adam"])
