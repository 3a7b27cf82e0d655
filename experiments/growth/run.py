"""Does the kernel grow as the square of the features? Measured at the weights of real runs.

    python experiments/growth/run.py

Trains development runs of the suite for real and, along each, holds the growth of the body's kernel
for the residuals at hand, gamma, against rho^2 from the features alone (`sde.growth`, without its
bound). Writes results.json and figure.png; what is in results.json stays.
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

import ntkpredict as ntp
from linearize.batches import batches, map_batches
from linearize.network import merge
from ntkpredict.record import to_plain, write
from sde import minibatch_order
from sde.growth import change

sys.path.insert(0, str(Path(__file__).parents[1] / "suite"))
from tasks import CASES, TASKS

HERE = Path(__file__).parent
KEYS = (
    "resnet20-cifar10-sgd-0.001-32-s0",
    "resnet20-cifar10-adamw-0.0001-32-s1",
    "resnet20-cifar5-sgd-0.003-16-s1",
    "resnet20-fashion-sgd-0.001-32-s1",
    "resnet20-fashion-adamw-0.0001-32-s0",
    "resnet20-fashion-late-sgd-0.003-32-s0",
    "resnet20-mnist-sgd-0.001-32-s0",
)
SAMPLES, CHUNK, MARKS = 256, 64, 24


def main() -> None:
    """Measure what is not there yet, then draw."""
    path = HERE / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for key in KEYS:
        if key not in results:
            results[key] = measure(key)
            write(path, results)
        off = np.log(np.array(results[key]["features"]) / np.array(results[key]["kernel"]))
        print(f"{key}: |ln rho^2/gamma| {np.median(np.abs(off)):.2f}, bias {np.median(off):+.2f}")
    draw(results)


def measure(key: str) -> dict[str, Any]:
    """A real run, looked at along the way."""
    network, data, plan = CASES[key].load()
    inputs, labels = data.train
    targets = plan.objective.targets(np.asarray(labels), len(TASKS[CASES[key].task].classes))
    look = Look(network, plan, inputs[:SAMPLES], targets[:SAMPLES])

    @jax.jit
    def train(weights: Any, state: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(lambda w: plan.objective.loss(network.apply(w, x), y).mean())(weights)
        updates, state = plan.optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    weights, state = network.params, plan.optimizer.init(network.params)
    marks = np.unique(np.geomspace(3, plan.max_steps, MARKS).astype(int))
    seen = [look(weights)]
    order = minibatch_order(data.samples, plan.batch_size, plan.max_steps, plan.seed)
    for step, index in enumerate(order, start=1):
        weights, state = train(weights, state, inputs[index], targets[index])
        if step in marks:
            seen.append(look(weights))
    features, losses, kernel = zip(*seen, strict=True)
    # The directions that the head reads, at the start and at the end.
    heads = [network.head_kernel(each) for each in (network.params, weights)]
    directions = np.linalg.qr(np.concatenate(heads, axis=1))[0]
    changes = [change(features[0] @ directions, each @ directions) for each in features[1:]]
    squares = [float(kept**2 + formed**2) for kept, formed in changes]
    return to_plain({"steps": marks, "loss": losses[1:], "kernel": kernel[1:], "features": squares})


class Look:
    """What there is to see at some weights: features, loss, and γ."""

    def __init__(self, network: ntp.Network, plan: ntp.Plan, inputs: Any, targets: Any) -> None:
        self._network, self._objective = network, plan.objective
        self._inputs, self._targets = inputs, targets
        basis = jnp.eye(network.head_kernel(network.params).shape[0])

        def read(body: Any, weights: Any, x: Any) -> Any:
            return network.features(merge(body, weights), x, basis)

        def pull(weights: Any, x: Any, cotangent: Any) -> Any:
            return jax.vjp(lambda body: read(body, weights, x), network.body(weights))[1](
                cotangent
            )[0]

        self._read = jax.jit(lambda weights, x: read(network.body(weights), weights, x))
        self._pull, self._apply = jax.jit(pull), jax.jit(network.apply)

    def __call__(self, weights: Any) -> tuple[np.ndarray, float, float]:
        """At these weights; γ is relative to the pretrained ones."""
        features = map_batches(lambda x: self._read(weights, x), self._inputs, CHUNK)
        outputs = map_batches(lambda x: self._apply(weights, x), self._inputs, CHUNK)
        loss, slope = jax.value_and_grad(lambda f: self._objective.loss(f, self._targets).mean())(
            outputs
        )
        residuals = slope @ self._network.head_kernel(weights).T
        now, before = (self._square(at, residuals) for at in (weights, self._network.params))
        return np.asarray(features), float(loss), now / before

    def _square(self, weights: Any, residuals: Any) -> float:
        """The squared gradient of the body that these residuals make."""
        parts = [
            self._pull(weights, x, part)
            for (x, part), _ in batches((self._inputs, residuals), CHUNK)
        ]
        total = jax.tree.map(lambda *leaves: sum(leaves), *parts)
        return float(sum((leaf**2).sum() for leaf in jax.tree.leaves(total)))


def draw(results: dict[str, Any]) -> None:
    """γ against ρ², and both in time."""
    figure, (together, apart) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for i, (key, run) in enumerate(results.items()):
        color = plt.get_cmap("tab10")(i)
        together.plot(run["features"], run["kernel"], ".", color=color, label=key)
        apart.plot(run["loss"], run["kernel"], "-", color=color)
        apart.plot(run["loss"], run["features"], ":", color=color)
    ends = [0.2, 300]
    together.plot(ends, ends, color="0.6", lw=1, zorder=0)
    together.set(xscale="log", yscale="log", xlabel="ρ²: size of the features, squared")
    together.set(ylabel="γ: size of the kernel", title="At the weights of real runs")
    together.legend(fontsize=7, frameon=False)
    apart.set(xscale="log", yscale="log", xlabel="training loss", ylabel="γ (lines), ρ² (dots)")
    apart.invert_xaxis()
    apart.set_title("As training goes on")
    figure.savefig(HERE / "figure.png", dpi=110)


if __name__ == "__main__":
    main()
