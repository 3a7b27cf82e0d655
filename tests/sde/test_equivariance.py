"""Which optimizers commute with rotations of parameter space, and which go by coordinates."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from sde import is_coordinate_wise, is_rotation_equivariant


def decay(mask: Any) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(0.1, mask=mask), optax.sgd(0.1))


def by_name(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in str(path), params)


def by_shape(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def later(optimizer: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    """It moves every so many steps, by the mean of their gradients."""
    return optax.MultiSteps(optimizer, steps).gradient_transformation()


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
    "several steps": later(optax.sgd(0.1), 2),
    "many steps": later(optax.sgd(0.1), 8),
    "rest": optax.sgd(optax.join_schedules([lambda _: 0.0, lambda _: 0.1], [10])),
    "nothing": optax.set_to_zero(),
    "everything": optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(5e-4),
        optax.sgd(optax.cosine_decay_schedule(0.1, 4), momentum=0.9, nesterov=True),
    ),
}
FREE_OF_SCALE = {
    "adam": optax.adam(1e-3),
    "adam, larger eps": optax.adam(1e-3, eps=1e-6),
    "adamw": optax.adamw(1e-3, weight_decay=0.1),
    "adamw, cosine": optax.adamw(optax.cosine_decay_schedule(1e-3, 10), weight_decay=0.1),
    "adam, warm-up": optax.adam(optax.linear_schedule(0.0, 1e-3, 3)),
    "adam, rest": optax.adam(optax.join_schedules([lambda _: 0.0, lambda _: 1e-3], [10])),
    "adam, many steps": later(optax.adam(1e-3), 8),
    "adam, no clipping": optax.chain(optax.clip_by_global_norm(1e9), optax.adam(1e-3)),
    "amsgrad": optax.amsgrad(1e-3),
    "nadam": optax.nadam(1e-3),
    "adamax": optax.adamax(1e-3),
    "adabelief": optax.adabelief(1e-3),
    "rmsprop": optax.rmsprop(1e-3),
    "rmsprop, momentum": optax.rmsprop(1e-3, momentum=0.9),
    "adagrad from zero": optax.adagrad(1e-3, initial_accumulator_value=0.0),
    "sign": optax.sign_sgd(1e-3),
    "lion": optax.lion(1e-3, weight_decay=0.1),
}
# Neither kind: tensors one by one, or coordinates whose gradients' size counts.
NEITHER = {
    "adam, eps of 1": optax.adam(1e-3, eps=1.0),
    "adam, large eps": optax.adam(1e-3, eps=1e-3),
    "adam, global norm": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "adam, clip": optax.chain(optax.clip(1.0), optax.adam(1e-3)),
    "adam, coupled decay": optax.chain(optax.add_decayed_weights(0.1), optax.adam(1e-3)),
    "adamw, matrices": optax.adamw(1e-3, weight_decay=0.1, mask=by_shape),
    "adamw, kernels": optax.adamw(1e-3, weight_decay=0.1, mask=by_name),
    "adagrad": optax.adagrad(1e-3),
    "adafactor": optax.adafactor(1e-3),
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


@pytest.mark.parametrize("name", FREE_OF_SCALE | NEITHER)
def test_optimizers_that_do_not(name: str) -> None:
    assert not is_rotation_equivariant((FREE_OF_SCALE | NEITHER)[name])


@pytest.mark.parametrize("name", FREE_OF_SCALE)
def test_optimizers_of_coordinates_free_of_scale(name: str) -> None:
    assert is_coordinate_wise(FREE_OF_SCALE[name])


@pytest.mark.parametrize("name", EQUIVARIANT | NEITHER)
def test_optimizers_that_are_not(name: str) -> None:
    assert not is_coordinate_wise((EQUIVARIANT | NEITHER)[name])


def test_a_mask_is_seen_where_it_makes_a_difference() -> None:
    assert is_coordinate_wise(optax.adamw(1e-3, weight_decay=1e-4, mask=by_shape))
    assert not is_coordinate_wise(optax.adamw(1e-3, weight_decay=0.1, mask=by_shape))


def test_the_scale_of_the_learning_rate_does_not_matter() -> None:
    for rate in np.logspace(-6, 2, 3):
        assert is_coordinate_wise(optax.adam(rate))


@pytest.mark.parametrize(
    "optimizer",
    [decay({"stem": True, "head": False}), optax.lbfgs()],
    ids=["mask of other names", "needs the loss"],
)
@pytest.mark.parametrize("probe", [is_rotation_equivariant, is_coordinate_wise])
def test_optimizers_that_do_not_run(probe: Any, optimizer: optax.GradientTransformation) -> None:
    with pytest.raises(ValueError, match=r"^optimizer: .* cannot be replayed \(.*\)") as caught:
        probe(optimizer)
    assert "\n" not in str(caught.value)


def test_double_precision_is_as_good(x64: None) -> None:
    assert is_rotation_equivariant(EQUIVARIANT["everything"])
    assert not is_rotation_equivariant(FREE_OF_SCALE["adam"])
    assert is_coordinate_wise(FREE_OF_SCALE["adamw"])
    assert not is_coordinate_wise(NEITHER["adam, large eps"])
