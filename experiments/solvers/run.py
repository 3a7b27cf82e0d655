"""How far do the solvers differ from replaying every step, and what do they cost?

    python experiments/solvers/run.py [--smoke] [accuracy] [stride] [cost] [sweep]

The ruler is `Replay` on the tangent model of the embedded default: no network error enters.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from flax import linen as nn

import ntkpredict as ntp
from linearize import compress, linearize
from ntkpredict.embedded import load_network
from ntkpredict.record import to_plain, write
from sde import (
    CrossEntropy,
    Diffusion,
    Examples,
    Problem,
    Replay,
    Spectral,
    SquaredError,
    Trajectory,
    choose_solver,
    head_directions,
    head_path,
    log_grid,
    stability,
)
from sde.diffusion import accurate_stride

HERE = Path(__file__).parent
TASKS = {
    "squared error, linear": ("linear", SquaredError()),
    "cross-entropy, linear": ("linear", CrossEntropy()),
    "cross-entropy, head exact": ("head_exact", CrossEntropy()),
}
PARTS = ("accuracy", "stride", "cost", "sweep")
REFERENCE_RATE = 1e-3


def main(smoke: bool, folder: Path = HERE, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """Measure the parts, then write results.json, the other parts as they were, and the figure."""
    config = json.loads((HERE / "config.json").read_text())
    if smoke:
        config |= {"samples": 40, "masses": [0.03], "seeds": 4, "fractions": [0.9]}
        config["tasks"] = {"squared error, linear": 0.1}
        config["cost"] |= {"samples": 40, "directions": 4, "steps": 100}
        config["cost"] |= {"runs": ["spectral"], "strides": [], "blocks": 1}
        config["sweep"] |= {"steps": 20, "seeds": 2, "learning_rates": [1e-3]}
    path = folder / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    measures = {"accuracy": accuracies, "stride": strides, "cost": costs, "sweep": sweep}
    results |= {"config": config, **{part: measures[part](config) for part in parts}}
    results = to_plain(results)
    write(path, results)
    if set(PARTS) <= set(results):
        draw(results, folder / "figure.png")
        print(tables(results))
    return results


def accuracies(config: dict[str, Any]) -> dict[str, Any]:
    """Of every task."""
    return {name: accuracy(name, config) for name in config["tasks"]}


def problem(name: str, config: dict[str, Any]) -> Problem:
    """Training on the digits with heavy ball at the reference rate."""
    mode, objective = TASKS[name]
    x, y = (leaf[: config["samples"]] for leaf in ntp.load_data("digits").train)
    targets = objective.targets(y, 10)

    def training(examples: Examples, seeds: int) -> Problem:
        optimizer = optax.sgd(REFERENCE_RATE, config["momentum"])
        return Problem(examples, objective, optimizer, config["batch_size"], tuple(range(seeds)))

    model = linearize(
        load_network(),
        x,
        mode=mode,
        directions=lambda still: head_directions(
            head_path(training(Examples(still, targets), 2), log_grid(1000)), 18
        ),
        checked=True,
    )
    return training(Examples(compress(model), targets), config["seeds"])


def accuracy(name: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Errors of each method by noise mass, against replay by epochs: how training really draws."""
    base = problem(name, config)
    reference = stability(base, 1000)
    rows = []
    for mass in config["masses"]:
        factor = mass / reference.noise_mass
        steps = int(config["tasks"][name] / (reference.effective_learning_rate * factor))
        grid = log_grid(steps)
        task = replace(base, optimizer=optax.sgd(REFERENCE_RATE * factor, config["momentum"]))
        independent = replace(task, sampling="independent")
        sde = Diffusion(accurate_stride(stability(task, steps)))
        real = Replay().solve(task, grid)
        curves = {
            "sde": sde.solve(task, grid),
            "sde, independent batches": sde.solve(independent, grid),
            "the paper": replace(sde, effective_rate=True).solve(independent, grid),
            "replay, independent batches": Replay().solve(independent, grid),
        }
        if name.startswith("squared"):
            curves["spectral"] = Spectral().solve(task, grid)
            curves["spectral, independent batches"] = Spectral().solve(independent, grid)
        scores = {method: score(curve, real, config) for method, curve in curves.items()}
        among = score(
            curves["sde, independent batches"], curves["replay, independent batches"], config
        )
        rows.append(
            {
                "mass": mass,
                "margin": reference.margin / factor,
                "steps": steps,
                "stride": sde.stride,
                "diverged": float(real.diverged.mean()),
                "real_steps": reached(real, config),
                "scores": scores | {"sde against replay, both independent": among},
            }
        )
        print(name, mass, {method: f"{s['loss']:.3f}" for method, s in scores.items()}, flush=True)
    return rows


def score(found: Trajectory, real: Trajectory, config: dict[str, Any]) -> dict[str, Any]:
    """The weak error: that of the mean loss over the seeds, down to a twentieth of the start."""
    means = found.train.loss.mean(0), real.train.loss.mean(0)
    spread = [curve.train.loss.std(0) / len(curve.train.loss) ** 0.5 for curve in (found, real)]
    early = np.minimum.accumulate(means[1]) >= 0.05 * means[1][0]
    error = np.abs(means[0] / means[1] - 1)[early]
    worst = int(np.nan_to_num(error, nan=np.inf).argmax())
    steps, real_steps = reached(found, config), reached(real, config)
    return {
        "loss": error[worst],
        "standard_error": np.hypot(*spread)[worst] / means[1][worst],
        "diverged": float(found.diverged.mean()),
        "steps": [a / b - 1 for a, b in zip(steps, real_steps, strict=True)],
    }


def reached(curve: Trajectory, config: dict[str, Any]) -> list[float]:
    """Steps of the mean curve to each fraction of the initial loss."""
    rules = [ntp.TargetLoss(relative=fraction) for fraction in config["fractions"]]
    return [float(rule.steps(curve.mean())[0]) for rule in rules]


def strides(config: dict[str, Any]) -> list[dict[str, Any]]:
    """What longer steps of Euler-Maruyama cost in accuracy and save in time."""
    cost = config["cost"]
    base = features(cost, seeds=8)
    grid = log_grid(cost["steps"])
    stable = stability(base, cost["steps"])
    rows = []
    real, seconds = timed(Replay(), base, grid)
    rows.append(
        {"solver": "replay", "stride": 1.0, "seconds": seconds, "steps": reached(real, config)}
    )
    for stride in sorted([*cost["strides"], accurate_stride(stable)]):
        found, seconds = timed(Diffusion(stride), base, grid)
        steps = reached(found, config)
        rows.append({"solver": "sde", "stride": stride, "seconds": seconds, "steps": steps})
        print(rows[-1], flush=True)
    return rows


def features(cost: dict[str, Any], *, seeds: int, mode: str = "head_exact") -> Problem:
    """A problem of the size of the benchmark: real features, random directions."""
    x, y = (leaf[: cost["samples"]] for leaf in ntp.load_data("digits").train)
    random = np.random.default_rng(0)
    directions = jnp.asarray(random.normal(size=(64, cost["directions"])), jnp.float32)
    if mode == "linear":
        model = linearize(load_network(), x, mode="linear", checked=True)
        objective: Any = SquaredError()
    else:
        model = linearize(load_network(), x, directions=directions, checked=True)
        objective = CrossEntropy()
    examples = Examples(compress(model), objective.targets(y, 10))
    optimizer = optax.sgd(cost["learning_rate"], 0.9)
    return Problem(examples, objective, optimizer, cost["batch_size"], tuple(range(seeds)))


def timed(solver: Any, task: Problem, grid: np.ndarray) -> tuple[Trajectory, float]:
    """The curves, and the seconds with compiling."""
    start = time.perf_counter()
    curves = solver.solve(task, grid)
    return curves, time.perf_counter() - start


COSTS: dict[str, tuple[str, str, int]] = {
    "replay, 1 seed": ("replay", "head_exact", 1),
    "replay, 8 seeds": ("replay", "head_exact", 8),
    "sde, 8 seeds": ("sde", "head_exact", 8),
    "spectral": ("spectral", "linear", 1),
}


def costs(config: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of each solver, each in a process of its own, and of a real step."""
    rows = {}
    for name in config["cost"]["runs"]:
        command = [sys.executable, __file__, "--cost", name, json.dumps(config["cost"])]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows[name] = json.loads(answer.splitlines()[-1])
        print(name, rows[name], flush=True)
    rows["real step of ResNet-20"] = {"seconds_per_step": resnet_step(config["cost"])}
    return rows


def cost_of(name: str, cost: dict[str, Any]) -> dict[str, float]:
    """One solver's seconds and this process's peak memory."""
    solver_name, mode, seeds = COSTS[name]
    task = features(cost, seeds=seeds, mode=mode)
    before = peak_bytes()
    if solver_name == "spectral":
        solver: Any = Spectral()
    else:
        solver = choose_solver(solver_name, task, stability(task, cost["steps"]))
    seconds = timed(solver, task, log_grid(cost["steps"]))[1]
    return {
        "seconds": seconds,
        "seconds_per_step": seconds / cost["steps"],
        "columns": task.train.model.jacobian.shape[-1],
        "peak_bytes": peak_bytes(),
        "peak_bytes_of_features": before,
    }


def peak_bytes() -> int:
    """The largest memory this process has held (`ru_maxrss` would count its parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


class ResNet(nn.Module):
    """The CIFAR network of He et al. (2016), BatchNorm in inference mode.

    Attributes:
        blocks: of each of its three stages; 3 in ResNet-20.
    """

    blocks: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits."""

        def unit(x: jax.Array, width: int, stride: int) -> jax.Array:
            x = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu(unit(x, 16, 1))
        for stage, width in enumerate((16, 32, 64)):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                branch = unit(nn.relu(unit(x, width, stride)), width, 1)
                shortcut = x[:, ::stride, ::stride]
                pad = (width - x.shape[-1]) // 2
                x = nn.relu(branch + jnp.pad(shortcut, [(0, 0)] * 3 + [(pad, pad)]))
        return nn.Dense(10)(x.mean((1, 2)))


def resnet_step(cost: dict[str, Any]) -> float:
    """Median seconds of a real training step on 32 × 32 images."""
    module, batch_size = ResNet(cost["blocks"]), cost["batch_size"]
    x = jnp.ones((batch_size, 32, 32, 3))
    variables = jax.jit(module.init)(jax.random.key(0), x)
    optimizer = optax.sgd(1e-3, 0.9)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = module.apply({**variables, "params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.zeros(batch_size, int)
            ).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    carry = variables["params"], optimizer.init(variables["params"])
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        carry = jax.block_until_ready(step(*carry))
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def sweep(config: dict[str, Any]) -> dict[str, float]:
    """A grid of plans in one compiled call beside the same plans one at a time."""
    grid_config = config["sweep"]
    base = features(config["cost"], seeds=grid_config["seeds"])
    plans = [
        replace(base, optimizer=optax.sgd(rate, 0.9), batch_size=min(size, base.samples))
        for rate in grid_config["learning_rates"]
        for size in grid_config["batch_sizes"]
    ]
    grid = log_grid(grid_config["steps"])
    seconds = {"plans": float(len(plans))}
    start = time.perf_counter()
    together = Replay().sweep(plans, grid)
    seconds["together"] = time.perf_counter() - start
    start = time.perf_counter()
    alone = [Replay().solve(plan, grid) for plan in plans]
    seconds["one_by_one"] = time.perf_counter() - start
    pairs = zip(together, alone, strict=True)
    seconds["largest_difference"] = max(
        float(np.abs(a.train.loss / b.train.loss - 1)[:, : len(grid) // 2].max()) for a, b in pairs
    )
    return seconds


def tables(results: dict[str, Any]) -> str:
    """The tables of README.md, in Markdown."""
    lines = []
    for name, rows in results["accuracy"].items():
        methods = list(rows[0]["scores"])
        lines += ["", name, "", "| mass | " + " | ".join(methods) + " |"]
        lines.append("|" + "---|" * (1 + len(methods)))
        for row in rows:
            cells = [cell(row, method) for method in methods]
            lines.append(f"| {row['mass']:g} | " + " | ".join(cells) + " |")
    lines += ["", "| solver | stride | seconds | steps |", "|---|---|---|---|"]
    for row in results["stride"]:
        steps = " / ".join("-" if step is None else f"{step:.0f}" for step in row["steps"])
        lines.append(f"| {row['solver']} | {row['stride']:.3g} | {row['seconds']:.1f} | {steps} |")
    lines += ["", "| | seconds | ms a step | peak MB |", "|---|---|---|---|"]
    for name, row in results["cost"].items():
        memory, seconds = row.get("peak_bytes", np.nan) / 1e6, row.get("seconds", np.nan)
        each = 1e3 * row["seconds_per_step"]
        lines.append(f"| {name} | {seconds:.1f} | {each:.3g} | {memory:.0f} |")
    return "\n".join([*lines, "", str(results["sweep"])])


def cell(row: dict[str, Any], method: str) -> str:
    """The error of the loss, and of the steps to each fraction that replay reached."""
    score = row["scores"][method]
    if score["diverged"] > 0.5 or score["loss"] is None:
        return "diverges"
    pairs = zip(score["steps"], row["real_steps"], strict=True)
    steps = " / ".join("-" if None in pair else f"{100 * pair[0]:+.1f}" for pair in pairs)
    return f"{100 * score['loss']:.1f} ± {100 * score['standard_error']:.1f} ({steps})"


def draw(results: dict[str, Any], path: Path) -> None:
    """The weak error by noise mass."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(results["accuracy"]), figsize=(11, 3.4), sharey=True, squeeze=False
    )
    for axis, (name, rows) in zip(axes[0], results["accuracy"].items(), strict=True):
        for method in rows[0]["scores"]:
            if method != "sde against replay, both independent":
                errors = [row["scores"][method]["loss"] for row in rows]
                masses = [row["mass"] for row in rows]
                axis.plot(
                    masses,
                    np.clip(np.array(errors, float), 1e-3, 3),
                    marker="o",
                    ms=3,
                    label=method,
                )
        axis.set(title=name, xscale="log", yscale="log", xlabel="noise mass", ylim=(1e-3, 3))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("largest error of the mean loss")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    if "--cost" in sys.argv:
        print(json.dumps(cost_of(sys.argv[-2], json.loads(sys.argv[-1]))))
    else:
        smoke = "--smoke" in sys.argv
        chosen = tuple(part for part in PARTS if part in sys.argv) or PARTS
        main(smoke, Path(tempfile.mkdtemp()) if smoke else HERE, chosen)
