"""How much of a forecast's error is the tangent model's own, how much its approximations'?

    python experiments/exact/run.py [--smoke]    # a tiny case, into a temporary folder

The tangent model with all coordinates, all directions and all samples takes a network's place and
is trained for real: what it is off by, no projection, direction or subset can mend. Each run is a
small file in `runs/`; those that are there stay. Then writes results.json and figure.png.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
SUITE = HERE.parent / "suite"
sys.path[:0] = [str(SUITE), str(HERE.parent / "backbones")]

import forecast as suite  # noqa: E402
import train as real  # noqa: E402
from tasks import CASES, SMOKE, TASKS, Case  # noqa: E402

import ntkpredict as ntp  # noqa: E402
from linearize.tangent import bent, left  # noqa: E402
from linearize.types import Inputs, Params  # noqa: E402
from ntkpredict.data import take  # noqa: E402
from ntkpredict.milestones import FRACTIONS  # noqa: E402
from ntkpredict.record import to_plain, to_trajectory, write  # noqa: E402
from ntkpredict.simulation import Simulation  # noqa: E402
from ntkpredict.stopping import AnyOf, TargetLoss  # noqa: E402
from ntkpredict.suite import targets  # noqa: E402
from sde import Problem, Trajectory, stability  # noqa: E402
from sde.growth import change, own_growth  # noqa: E402

RUNS = 8
"""Of development, picked at random from those that reach half of their loss."""

SAMPLES = 128
"""That tell the directions and the largest stable rate."""

SEEN = 64
"""That tell how far features have moved."""

TICKS = (0.5, 1, 2, 5)

PAIRS = {
    "exact / real": ("exact", "real"),
    "forecast / exact": ("forecast", "exact"),
    "forecast / real": ("forecast", "real"),
}


def main(smoke: bool, folder: Path = HERE) -> dict[str, Any]:
    """Train what is missing, compare."""
    cases, source = (SMOKE, folder) if smoke else (picked(), SUITE)
    if smoke:
        real.main(folder, cases)
    (folder / "runs").mkdir(exist_ok=True)
    results: dict[str, Any] = {"runs": {}}
    for key, case in cases.items():
        forecast = folder / "forecasts" / "ours" / f"{key}.json"
        if not forecast.exists():
            suite.ours(case, folder / "forecasts", opening=False)
        path = folder / "runs" / f"{key}-exact.json"
        if not path.exists():
            write(path, real.rounded(to_plain({"trajectory": train(case)})))
            print(f"trained {key}", flush=True)
        results["runs"][key] = {
            name: steps(_curves(file), case.max_steps)
            for name, file in {
                "real": source / "runs" / f"{key}.json",
                "exact": path,
                "forecast": forecast,
            }.items()
        }
    results["ratios"] = {name: summary(results["runs"], *pair) for name, pair in PAIRS.items()}
    write(folder / "results.json", to_plain(results))
    draw(results["runs"], folder / "figure.png")
    print(json.dumps(to_plain(results["ratios"]), indent=1))
    return results


def picked() -> dict[str, Case]:
    """Development runs at random, whatever their forecasts are off by."""
    names = sorted(path.stem for path in (SUITE / "runs").glob("*.json"))
    reached = [
        key
        for key in names
        if TASKS[CASES[key].task].split == "development"
        and np.isfinite(TargetLoss(relative=0.5).steps(_curves(SUITE / "runs" / f"{key}.json"))[0])
    ]
    return {key: CASES[key] for key in sorted(random.Random(0).sample(reached, RUNS))}


def train(case: Case) -> Trajectory:
    """The exact tangent model's training, its kernel growing with its features."""
    network, data, plan = case.load()
    until, outputs = AnyOf(tuple(targets(case.max_steps))), len(TASKS[case.task].classes)
    simulation = Simulation(network, data, plan, outputs, SAMPLES, 1, until)
    problem = simulation.problem("head_exact", None, lambda _done, _total: None)
    problem = simulation.growing(problem, stability(problem, plan.max_steps))
    features = partial(tangent_features, network, problem.train.model.nonnegative)

    def apply(params: Params, inputs: Inputs) -> jax.Array:
        bias = network.head_bias(params)
        kernel = network.head_kernel(params)
        return features(params, inputs)[1] @ kernel + (0 if bias is None else bias)

    body = replace(network, function=apply, frozen=jax.tree.map(lambda _: None, network.params))
    rho = growth_of(problem, features, take(data.train, slice(SEEN))[0])
    plan = replace(plan, optimizer=growing(plan.optimizer, network.body(network.params), rho))
    run = ntp.train(body, data, plan, evaluations=real.grid(case), evaluation_samples=real.SAMPLES)
    return run.trajectory


def tangent_features(
    network: ntp.Network, nonnegative: bool, params: Params, inputs: Inputs
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pretrained features, features and how sensitive these are, each (samples, features)."""
    # The pretrained half is all constants, which would be folded for minutes.
    start, inputs = jax.lax.optimization_barrier((network.body(network.params), inputs))
    body = network.body(params)
    step = jax.tree.map(jnp.subtract, body, start)
    read = network.features_by_body(jnp.eye(network.head_kernel(params).shape[0]))
    before, moved = jax.jvp(lambda body: read(body, inputs), (start,), (step,))
    if not nonnegative:
        return before, before + moved, jnp.ones_like(before)
    return before, bent(before, moved), left(before, moved)


def growth_of(
    problem: Problem, features: Callable[..., Any], inputs: Inputs
) -> Callable[[Params, jax.Array], jax.Array]:
    """(parameters, step) -> ρ, as `sde.Growth` has it."""
    growth, directions = problem.growth, problem.train.model.directions
    bound = jnp.asarray(growth.bound)

    def rho(params: Params, step: jax.Array) -> jax.Array:
        before, after, sensitivity = features(params, inputs)
        squared = growth.squared(*change(before @ directions, after @ directions))
        return jnp.sqrt(jnp.minimum(squared, bound[step]) / own_growth(sensitivity, directions))

    return rho


def growing(
    optimizer: optax.GradientTransformation, body: Params, rho: Callable[..., jax.Array]
) -> optax.GradientTransformation:
    """The optimizer with ρ on the body's gradients before it and on their updates after it."""

    def scaled(tree: Params, factor: jax.Array) -> Params:
        return jax.tree.map(
            lambda leaf, part: leaf if part is None else factor * leaf,
            tree,
            body,
            is_leaf=lambda leaf: leaf is None,
        )

    def update(updates: Params, state: Any, params: Any = None) -> tuple[Params, Any]:
        count, inner = state
        factor = rho(params, count)
        updates, inner = optimizer.update(scaled(updates, factor), inner, params)
        return scaled(updates, factor), (count + 1, inner)

    return optax.GradientTransformation(lambda p: (jnp.zeros((), int), optimizer.init(p)), update)


def steps(curves: Trajectory, budget: int) -> dict[str, float]:
    """To each fraction of the loss; infinite where not reached."""
    rules = [rule for rule in targets(budget) if isinstance(rule, TargetLoss)]
    return {str(rule): float(np.median(rule.steps(curves))) for rule in rules}


def summary(runs: dict[str, Any], of: str, over: str) -> dict[str, Any]:
    """Median ratio of steps and median distance from 1, where the real run gets there."""
    ratios = np.array(
        [
            found[of][rule] / found[over][rule]
            for found in runs.values()
            for rule in found["real"]
            if np.isfinite([found["real"][rule], found[over][rule]]).all()
        ]
    )
    return {
        "targets": len(ratios),
        "ratio": float(np.median(ratios)),
        "error": float(np.median(np.abs(ratios - 1))),
        "missed": float(np.mean(np.isinf(ratios))),
    }


def draw(runs: dict[str, Any], path: Path) -> None:
    """Steps over the real ones, a run a panel."""
    columns = min(len(runs), 4)
    rows = -(-len(runs) // columns)
    size = (3 * columns, 2.6 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (key, found) in zip(axes.flat, runs.items(), strict=False):
        real = np.array([each if np.isfinite(each) else np.nan for each in found["real"].values()])
        for name, style in (("exact", "o-"), ("forecast", "s--")):
            ratio = np.array(list(found[name].values())) / real
            axis.plot(ratio, style, label=name, markersize=4)
        axis.axhline(1, color="0.6", linewidth=0.8)
        axis.set_xticks(range(len(real)), [f"{fraction:g}" for fraction in FRACTIONS])
        axis.set(title=key, yscale="log")
        axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axis.minorticks_off()
        axis.title.set_fontsize(7)
    axes[0, 0].legend(fontsize=8)
    figure.supxlabel("fraction of the loss")
    figure.supylabel("steps / real steps")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curves(path: Path) -> Trajectory:
    return to_trajectory(json.loads(path.read_text())["trajectory"])


if __name__ == "__main__":
    if "--smoke" in sys.argv:
        main(smoke=True, folder=Path(tempfile.mkdtemp()))
    else:
        main(smoke=False)
