"""What does training do to pretrained features before it forms others?

    python experiments/unlearning/run.py

Trains development runs of the suite for real. At every step the tangent model's features, its
kernel growing with them, are moved by the step that the network's weights took; so where they
leave the real ones, second order is to blame and nothing else. Writes results.json and figure.png;
what is in results.json stays.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from linearize.tangent import bent, left
from ntkpredict.record import to_plain, write
from ntkpredict.simulation import layers
from sde import minibatch_order
from sde.growth import change, own_growth

sys.path.insert(0, str(Path(__file__).parents[1] / "suite"))
from tasks import CASES, TASKS

HERE = Path(__file__).parent
RUNS = {
    "resnet8-cifar10-sgd-0.001-32-s0": 90,
    "resnet20-cifar10-sgd-0.001-32-s0": 120,
    "resnet20-fashion-sgd-0.001-32-s0": 120,
    "resnet20-fashion-adamw-0.0001-32-s0": 60,
    "resnet20-mnist-sgd-0.001-32-s0": 100,
}
"""Steps looked at: until the features are a few times as large as the pretrained ones."""

SAMPLES, MARKS = 96, 14
TICKS = (0.5, 1, 2, 5, 10, 20)


def main() -> None:
    """Measure what is not there yet, then draw."""
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for key, steps in RUNS.items():
        if key not in results:
            results[key] = measure(key, steps)
            write(path, results)
        real, *models = (np.array(results[key][name]) for name in ("real", "first", "faded"))
        off = [np.log(model / real) for model in models]
        print(key, *(f"median {np.median(each):+.2f} last {each[-1]:+.2f}" for each in off))
    draw(results)


def measure(key: str, steps: int) -> dict[str, Any]:
    """A real run and what the tangent model makes of its steps."""
    network, data, plan = CASES[key].load()
    inputs, labels = data.train
    targets = plan.objective.targets(np.asarray(labels), len(TASKS[CASES[key].task].classes))
    look, start = inputs[:SAMPLES], network.body(network.params)
    read = network.features_by_body(jnp.eye(network.head_kernel(network.params).shape[0]))

    @jax.jit
    def train(weights: Any, state: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(lambda w: plan.objective.loss(network.apply(w, x), y).mean())(weights)
        updates, state = plan.optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, network.body(updates)

    @jax.jit
    def push(body: Any, step: Any, x: Any) -> Any:
        return jax.jvp(lambda body: read(body, x), (body,), (step,))

    see = jax.jit(lambda weights, x: read(network.body(weights), x))
    weights, state = network.params, plan.optimizer.init(network.params)
    models = {
        "first": Features(layers(start), fading=False),
        "faded": Features(layers(start), fading=True),
    }
    marks = np.unique(np.geomspace(3, steps, MARKS).astype(int))
    found: dict[str, list[float]] = {name: [] for name in ("real", "unlearnt", *models)}
    order = minibatch_order(data.samples, plan.batch_size, plan.max_steps, plan.seed)
    for step, index in enumerate(order[:steps], start=1):
        weights, state, moved = train(weights, state, inputs[index], targets[index])
        before, pushed = push(start, moved, look)
        heads = [network.head_kernel(each) for each in (network.params, weights)]
        directions = np.linalg.qr(np.concatenate(heads, axis=1))[0]
        sizes = {name: model.move(before, pushed, directions) for name, model in models.items()}
        if step in marks:
            found["real"].append(size(before @ directions, see(weights, look) @ directions))
            found["unlearnt"].append(models["faded"].unlearnt)
            for name, value in sizes.items():
                found[name].append(value)
    return to_plain({"steps": marks, **found})


class Features:
    """The tangent model's features of some samples.

    Args:
        depth: L of the growth law.
        fading: whether (1 + x) exp(-x) of them is left, where x is the largest share of all
            features that first order has taken so far.

    Attributes:
        unlearnt: x.
    """

    def __init__(self, depth: int, *, fading: bool) -> None:
        self._depth, self._fading = depth, fading
        self._moved: Any = 0.0
        self._scale, self.unlearnt = 1.0, 0.0

    def move(self, before: jax.Array, pushed: jax.Array, directions: np.ndarray) -> float:
        """One step, as first order has it at the pretrained weights; returns ρ² without a power."""
        self._moved = self._moved + self._scale * pushed
        if self._fading:
            self.unlearnt = max(self.unlearnt, -float(self._moved.sum() / before.sum()))
        fade = (1 + self.unlearnt) * np.exp(-self.unlearnt)
        squared = size(before @ directions, fade * bent(before, self._moved) @ directions)
        own = own_growth(fade * left(before, self._moved), jnp.asarray(directions))
        self._scale = np.sqrt(squared ** (1 - 1 / self._depth) / float(own))
        return squared


def size(before: jax.Array, after: jax.Array) -> float:
    """Squared, over that of the pretrained ones: a² + b² of `sde.growth`."""
    kept, formed = change(before, after)
    return float(kept**2 + formed**2)


def draw(results: dict[str, Any]) -> None:
    """The size of features in time."""
    figure, axes = plt.subplots(
        1, len(results), figsize=(3.1 * len(results), 3), sharey=True, layout="constrained"
    )
    for axis, (key, run) in zip(axes, results.items(), strict=True):
        axis.plot(run["steps"], run["real"], "k-", label="real")
        axis.plot(run["steps"], run["first"], "o--", markersize=3, label="tangent model")
        axis.plot(run["steps"], run["faded"], "s:", markersize=3, label="the same, (1 + x) exp(-x)")
        axis.set(yscale="log", xlabel="steps")
        axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.minorticks_off()
        axis.set_title(key, fontsize=7)
    axes[0].set_ylabel("size of the features, squared")
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(HERE / "figure.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
