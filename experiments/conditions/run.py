"""What a forecast leaves out: BatchNorm in training mode, dropout, augmentation.

    python experiments/conditions/run.py [--smoke]    # a tiny case, into a temporary folder

Trains some of the suite's development runs again, each under one of these conditions, and compares
the steps to every target with those of the run as it is forecast. Each run is a small file in
`runs/`; those that are there stay. Then writes results.json and figure.png.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"
sys.path[:0] = [str(SUITE), str(HERE.parent / "backbones")]

import train as plain  # noqa: E402
from backbones import load_backbone  # noqa: E402
from tasks import CASES, SMOKE, TASKS, Case  # noqa: E402

import ntkpredict as ntp  # noqa: E402
from ntkpredict.data import subset_index, take  # noqa: E402
from ntkpredict.embedded import load_pretrained  # noqa: E402
from ntkpredict.record import to_plain, to_trajectory, write  # noqa: E402
from ntkpredict.suite import applicable, targets  # noqa: E402
from sde import Curve, Trajectory, minibatch_order  # noqa: E402

KEYS = (
    "resnet20-cifar10-sgd-0.001-32-s0",
    "resnet20-cifar10-adamw-0.0001-32-s0",
    "resnet20-fashion-sgd-0.001-32-s0",
    "resnet20-fashion-adamw-0.0001-32-s0",
)
"""Of the suite's runs; seed 0."""

MOMENTUM = 0.9
"""Of BatchNorm's running averages, as in Flax's examples and in PyTorch."""


@dataclass(frozen=True)
class Condition:
    """How training differs from what is forecast.

    Attributes:
        batch_norm: normalise by the minibatch's own mean and variance.
        dropout: share of the features before the head that is dropped.
        shift: pixels by which images are moved at most, and mirrored half of the time; 0: never.
    """

    batch_norm: bool = False
    dropout: float = 0.0
    shift: int = 0


CONDITIONS = {
    "batch-norm": Condition(batch_norm=True),
    "dropout-0.2": Condition(dropout=0.2),
    "flip-shift-4": Condition(shift=4),
}


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Train what is missing, compare."""
    cases = SMOKE if smoke else {key: CASES[key] for key in KEYS}
    suite = folder if smoke else SUITE
    conditions = dict([*CONDITIONS.items()][: 1 if smoke else None])
    plain.main(suite, cases)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for key, case in cases.items():
        for name, condition in conditions.items():
            path = folder / "runs" / f"{key}-{name}.json"
            if not path.exists():
                write(path, plain.rounded(to_plain({"trajectory": train(case, condition)})))
                print(f"trained {path.stem}", flush=True)
    results = {
        name: [row for key in cases for row in compare(folder, suite, key, name)]
        for name in conditions
    }
    content = {"ratios": results, "summary": {n: summary(rows) for n, rows in results.items()}}
    write(folder / "results.json", plain.rounded(to_plain(content)))
    draw(results, folder / "figure.png")
    return content


def train(case: Case, condition: Condition) -> Trajectory:
    """A real run under a condition; the same head, minibatches and evaluations as the suite's."""
    _, data, plan = case.load()
    module, variables = pretrained(case)
    outputs = variables["params"]["head"]["kernel"].shape[1]
    step, evaluate = compiled(module, plan, condition)
    (inputs, labels), *_ = splits = (data.train, data.validation)
    targets = plan.objective.targets(labels, outputs)
    evaluated = [
        (few, plan.objective.targets(answers, outputs))
        for split in splits
        for few, answers in [take(split, subset_index(len(split[1]), plain.SAMPLES))]
    ]
    order = minibatch_order(data.samples, plan.batch_size, plan.max_steps, plan.seed)
    keys = jax.random.split(jax.random.key(plan.seed), plan.max_steps)
    state = plan.optimizer.init(variables["params"])
    points, curves, done = plain.grid(case), [], 0
    for point in points:
        for i in range(done, point):
            batch = inputs[order[i]], targets[order[i]]
            variables, state = step(variables, state, *batch, keys[i])
        done = point
        curves.append([evaluate(variables, *split) for split in evaluated])
    found = np.array(curves)  # (grid, splits, metrics)
    return Trajectory(points, *(Curve(*found[None, :, i].transpose(2, 0, 1)) for i in range(2)))


def pretrained(case: Case) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a case and its variables, those of BatchNorm among them."""
    task = TASKS[case.task]
    if task.network == "embedded":
        return load_pretrained(outputs=len(task.classes), seed=case.seed)
    backbone = load_backbone(task.network, len(task.classes), case.seed, task.head)
    return backbone.module, backbone.variables


def compiled(module: nn.Module, plan: ntp.Plan, condition: Condition) -> tuple[Any, Any]:
    """A training step under the condition, and an evaluation without it."""
    objective = plan.objective

    def step(variables: Any, state: Any, inputs: Any, targets: Any, key: Any) -> tuple[Any, Any]:
        moved, dropped = jax.random.split(key)
        seen = shifted(inputs, condition.shift, moved) if condition.shift else inputs
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def loss(params: Any) -> Any:
            with nn.intercept_methods(partial(as_trained, condition, dropped)):
                outputs, changed = module.apply(
                    {"params": params, **rest}, seen, mutable=list(rest)
                )
            return objective.loss(outputs, targets).mean(), changed

        gradient, changed = jax.grad(loss, has_aux=True)(variables["params"])
        updates, state = plan.optimizer.update(gradient, state, variables["params"])
        return {"params": optax.apply_updates(variables["params"], updates), **changed}, state

    def evaluate(variables: Any, inputs: Any, targets: Any) -> tuple[Any, Any]:
        outputs = module.apply(variables, inputs)
        return objective.loss(outputs, targets).mean(), objective.accuracy(outputs, targets)

    return jax.jit(step), jax.jit(evaluate)


def as_trained(
    condition: Condition, key: Any, call: Any, args: Any, kwargs: Any, context: Any
) -> Any:
    """Layers as they are while training: normalised by the minibatch, features dropped."""
    layer = context.module
    if condition.batch_norm and isinstance(layer, nn.BatchNorm):
        return normalised(layer, *args)
    if condition.dropout and layer.name == "head":
        left = jax.random.bernoulli(key, 1 - condition.dropout, args[0].shape)
        args = (jnp.where(left, args[0] / (1 - condition.dropout), 0), *args[1:])
    return call(*args, **kwargs)


def normalised(layer: nn.BatchNorm, x: Any) -> Any:
    """BatchNorm by the minibatch, which its running averages take in."""
    axes = tuple(range(x.ndim - 1))
    moments = {"mean": x.mean(axes), "var": x.var(axes)}
    for name, moment in moments.items():
        running = layer.get_variable("batch_stats", name)
        layer.put_variable("batch_stats", name, MOMENTUM * running + (1 - MOMENTUM) * moment)
    scale = layer.get_variable("params", "scale") / jnp.sqrt(moments["var"] + layer.epsilon)
    return (x - moments["mean"]) * scale + layer.get_variable("params", "bias")


def shifted(images: Any, most: int, key: Any) -> Any:
    """Each image moved by up to `most` pixels both ways, mirrored half of the time."""
    count, height, width, _ = images.shape
    keys = jax.random.split(key)
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    corners = jax.random.randint(keys[0], (count, 2), 0, 2 * most + 1)

    def cut(image: Any, corner: Any) -> Any:
        return jax.lax.dynamic_slice(image, (*corner, 0), (height, width, image.shape[-1]))

    moved = jax.vmap(cut)(padded, corners)
    mirrored = jax.random.bernoulli(keys[1], 0.5, (count, 1, 1, 1))
    return jnp.where(mirrored, moved[:, :, ::-1], moved)


def compare(folder: Path, suite: Path, key: str, name: str) -> list[dict[str, Any]]:
    """Real steps to each target under the condition, over those without it."""
    without, under = (
        to_trajectory(json.loads(path.read_text())["trajectory"])
        for path in (suite / "runs" / f"{key}.json", folder / "runs" / f"{key}-{name}.json")
    )
    rows = []
    for rule in targets(int(without.steps[-1])):
        if applicable(rule, without) and applicable(rule, under):
            steps, other = (float(rule.steps(curves)[0]) for curves in (without, under))
            if np.isfinite(steps):
                rows.append({"run": key, "target": str(rule), "steps": steps, "under": other})
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What ignoring the condition costs: the median ratio, and how far it is from 1 at most."""
    ratios = np.array([row["under"] / row["steps"] for row in rows])
    return {
        "targets": len(rows),
        "missed": float(np.mean(~np.isfinite(ratios))),
        "median_ratio": float(np.median(ratios)),
        "median_error": float(np.median(np.abs(1 / ratios - 1))),
    }


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Steps under each condition against steps without."""
    figure, axes = plt.subplots(
        1, len(results), figsize=(10, 3.4), sharey=True, squeeze=False, layout="tight"
    )
    axes = axes[0]
    for axis, (name, rows) in zip(axes, results.items(), strict=True):
        for key in dict.fromkeys(row["run"] for row in rows):
            mine = [row for row in rows if row["run"] == key and np.isfinite(row["under"])]
            steps, under = ([row[which] for row in mine] for which in ("steps", "under"))
            axis.loglog(steps, under, "o", markersize=4, alpha=0.7, label=key.rpartition("-")[0])
        ends = np.array([25, 600])
        axis.loglog(ends, ends, color="grey", linewidth=0.8)
        axis.set(title=name, xlabel="steps without")
    axes[0].set_ylabel("steps with")
    axes[-1].legend(fontsize=6)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ntkpredict-jax"))
    smoke = "--smoke" in sys.argv
    main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE)
