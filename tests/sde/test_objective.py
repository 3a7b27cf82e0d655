"""Losses against naive formulas, and labels that cannot be right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde import CrossEntropy, Objective, SquaredError

SAMPLES, OUTPUTS = 7, 4
RANDOM = np.random.default_rng(0)
F = RANDOM.normal(size=(SAMPLES, OUTPUTS)).astype(np.float32)
LABELS = RANDOM.integers(0, OUTPUTS, SAMPLES)
SOFT = RANDOM.dirichlet(np.ones(OUTPUTS), SAMPLES).astype(np.float32)
ONE_HOT = (LABELS[:, None] == np.arange(OUTPUTS)).astype(np.float32)
OBJECTIVES = [CrossEntropy(), CrossEntropy(label_smoothing=0.1), SquaredError()]


def softmax(f: np.ndarray) -> np.ndarray:
    weights = np.exp(f)
    return weights / weights.sum(1, keepdims=True)


def loss(objective: Objective, f: Any, labels: Any) -> np.ndarray:
    return np.asarray(objective.loss(jnp.asarray(f), objective.targets(labels, OUTPUTS)))


# Values


@pytest.mark.parametrize(("labels", "targets"), [(LABELS, ONE_HOT), (SOFT, SOFT)])
def test_cross_entropy_is_the_mean_negative_log_probability(labels: Any, targets: Any) -> None:
    expected = -(targets * np.log(softmax(F))).sum(1)
    np.testing.assert_allclose(loss(CrossEntropy(), F, labels), expected, rtol=1e-5)


@pytest.mark.parametrize(("labels", "targets"), [(LABELS, ONE_HOT), (SOFT, SOFT)])
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_mixes_in_the_uniform_distribution(
    smoothing: float, labels: Any, targets: Any
) -> None:
    objective = CrossEntropy(label_smoothing=smoothing)
    mixed = (1 - smoothing) * targets + smoothing / OUTPUTS
    np.testing.assert_allclose(objective.targets(labels, OUTPUTS), mixed, rtol=1e-5)
    expected = -(mixed * np.log(softmax(F))).sum(1)
    np.testing.assert_allclose(loss(objective, F, labels), expected, rtol=1e-5)


@pytest.mark.parametrize(("labels", "targets"), [(LABELS, ONE_HOT), (F[::-1].copy(), F[::-1])])
def test_squared_error_is_half_the_squared_distance(labels: Any, targets: Any) -> None:
    expected = 0.5 * ((F - targets) ** 2).sum(1)
    np.testing.assert_allclose(loss(SquaredError(), F, labels), expected, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_residual_is_the_distance_to_the_targets(objective: Objective) -> None:
    """The gradient by the outputs: softmax(f) − y, or f − y."""
    targets = objective.targets(LABELS, OUTPUTS)
    gradient = jax.grad(lambda f: objective.loss(f, targets).sum())(jnp.asarray(F))
    predicted = F if isinstance(objective, SquaredError) else softmax(F)
    np.testing.assert_allclose(gradient, predicted - targets, atol=1e-6)


def test_cross_entropy_is_unmoved_by_a_shift_and_by_large_outputs() -> None:
    np.testing.assert_allclose(
        loss(CrossEntropy(), F + 10, LABELS), loss(CrossEntropy(), F, LABELS), rtol=1e-4
    )
    assert np.isfinite(loss(CrossEntropy(), 1e4 * F, LABELS)).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_accuracy_is_the_share_of_largest_outputs_at_the_label(objective: Objective) -> None:
    expected = np.mean([row.argmax() == label for row, label in zip(F, LABELS, strict=True)])
    targets = objective.targets(LABELS, OUTPUTS)
    assert float(objective.accuracy(jnp.asarray(F), targets)) == pytest.approx(expected)
    assert float(objective.accuracy(targets, targets)) == 1
    assert float(objective.accuracy(jnp.roll(targets, 1, axis=1), targets)) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_labels_of_any_integer_type(objective: Objective, dtype: Any) -> None:
    expected = objective.targets(LABELS, OUTPUTS)
    np.testing.assert_array_equal(objective.targets(LABELS.astype(dtype), OUTPUTS), expected)
    np.testing.assert_array_equal(objective.targets(jnp.asarray(LABELS), OUTPUTS), expected)
    np.testing.assert_array_equal(objective.targets(LABELS.tolist(), OUTPUTS), expected)


# Labels that cannot be right


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("wrong", "low", "high"), [(OUTPUTS, 0, 4), (-1, -1, 0), (99, 0, 99)])
def test_labels_out_of_range(objective: Objective, wrong: int, low: int, high: int) -> None:
    labels = np.array([0, 1, wrong])
    message = rf"^labels: got {wrong}; expected 0\.\.3, the network has 4 outputs$"
    with pytest.raises(ValueError, match=message):
        objective.targets(labels, OUTPUTS)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "labels",
    [
        SOFT[:, :3],
        SOFT[:, :1],
        SOFT[None],
        SOFT[:, 0],
        LABELS[:, None],
        ONE_HOT.astype(int),
        LABELS.astype(bool),
        np.array(["cat", "dog"]),
    ],
    ids=["narrow", "column", "deep", "floats", "integers", "integer one-hot", "booleans", "names"],
)
def test_labels_of_another_shape_or_type(objective: Objective, labels: Any) -> None:
    message = (
        r"^labels: got shape \(.*\) of .*; expected integers \(samples,\) "
        r"or floats \(samples, 4\)$"
    )
    with pytest.raises(ValueError, match=message):
        objective.targets(labels, OUTPUTS)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_finite(objective: Objective, value: float) -> None:
    labels = SOFT.copy()
    labels[2, 1] = value
    with pytest.raises(ValueError, match=r"^labels: got NaN or infinite targets; remove these sam"):
        objective.targets(labels, OUTPUTS)


@pytest.mark.parametrize("labels", [2 * SOFT, F, np.zeros_like(SOFT)])
def test_soft_labels_are_probabilities(labels: Any) -> None:
    message = r"^labels: soft labels must be probabilities: non-negative, each row of sum 1$"
    with pytest.raises(ValueError, match=message):
        CrossEntropy().targets(labels, OUTPUTS)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0])
def test_label_smoothing_is_a_share(smoothing: float) -> None:
    message = rf"^label_smoothing: got {smoothing}; expected 0 <= value < 1$"
    with pytest.raises(ValueError, match=message):
        CrossEntropy(label_smoothing=smoothing)
