"""Do the solvers give the curves of neural-tangents on the same exact kernel?

    python experiments/peers/run.py [--smoke] [--peer PYTHON]

neural-tangents runs in an environment of its own, see README.md. Without one, the curves that it
gave before are read from reference.npz (smoke.npz with --smoke).
"""

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax

import ntkpredict as ntp
from linearize import Identity, LinearTangent, empirical_ntk, linearize
from ntkpredict.data import take
from ntkpredict.embedded import load_network
from ntkpredict.plan import LOSSES
from ntkpredict.record import to_plain, write
from sde import Diffusion, Examples, Problem, Replay, Solver, Spectral, Trajectory, observe

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peer" / "bin" / "python"
SOLVERS: dict[str, Solver] = {
    "replay": Replay(),
    "sde": Diffusion(stride=2.0),  # with a stride of 1 it would be the replay
    "spectral": Spectral(),
}

Arrays = dict[str, Any]


def main(smoke: bool, folder: Path = HERE, peer: str | None = None) -> dict[str, Any]:
    """Measure, then write results.json and the figure.

    Args:
        smoke: a tiny case.
        folder: where results go, and the curves of neural-tangents if it runs.
        peer: a Python that has neural-tangents; None reads its stored curves.
    """
    jax.config.update("jax_enable_x64", True)
    config = json.loads((HERE / "config.json").read_text())
    name = "reference.npz"
    if smoke:
        name = "smoke.npz"
        config |= {"cases": ["cross_entropy momentum", "squared_error plain"]}
        config |= {"samples": 4, "unseen": 2, "times": [*range(20), 30, 40, 50, 60]}
        config |= {"substeps": [256]}
    model, inputs = task(config)
    if peer is None:
        print(f"neural-tangents: not run, its stored curves are read from {name}")
        reference = stored(HERE / name, fingerprint(inputs))
    else:
        print(f"neural-tangents: run by {peer}")
        reference = solved(peer, folder / name, inputs)
    rows, curves = [], {}
    for case in config["cases"]:
        found, curves[case] = compare(config, case, model, inputs, reference)
        rows += found
    results = {"config": config, "rows": rows, "curves": curves}
    write(folder / "results.json", to_plain(results))
    draw(results, folder / "figure.png")
    print(table(results))
    return results


def task(config: dict[str, Any]) -> tuple[LinearTangent, Arrays]:
    """The tangent model of the embedded default with exact features, and what the peer is given.

    Training moves only along the features of the training samples, so they are all rotated into
    that space: the same outputs from a few hundred columns instead of 174,778.
    """
    count, data, objective = config["samples"], ntp.load_data("digits"), LOSSES["squared_error"]
    splits = take(data.train, slice(count)), take(data.validation, slice(config["unseen"]))
    images, labels = (np.concatenate(parts) for parts in zip(*splits, strict=True))
    model = linearize(load_network(), images, Identity(), mode="linear", checked=True)
    model = jax.tree.map(lambda leaf: leaf.astype(float), model)
    kernel = np.asarray(empirical_ntk(model).value)
    samples, outputs = kernel.shape[:2]
    columns = kernel[:, :, :count].reshape(samples * outputs, count * outputs)
    values, vectors = np.linalg.eigh(columns[: count * outputs])
    features = (columns @ vectors / np.sqrt(values)).reshape(samples, outputs, -1)
    targets = objective.targets(labels, outputs)
    inputs = {
        "kernel_train": kernel[:count, :, :count].transpose(0, 2, 1, 3),
        "kernel_unseen": kernel[count:, :, :count].transpose(0, 2, 1, 3),
        "outputs_train": model.outputs_initial[:count],
        "outputs_unseen": model.outputs_initial[count:],
        "targets_train": targets[:count],
        "targets_unseen": targets[count:],
        "times": np.array(config["times"], float),
        **{name: np.array(numbers) for name, numbers in config["optimizers"].items()},
    }
    origin = jnp.zeros(features.shape[-1])
    return LinearTangent(model.outputs_initial, jnp.asarray(features), origin, exact=True), inputs


def fingerprint(inputs: Arrays) -> np.ndarray:
    """What tells whether stored curves belong to these inputs."""
    trace = np.einsum("nncc", inputs["kernel_train"])
    norms = [np.linalg.norm(inputs[name]) for name in ("kernel_unseen", "outputs_train")]
    settings = [inputs["times"], inputs["plain"], inputs["momentum"]]
    return np.concatenate([*settings, [trace, *norms]])


def stored(path: Path, expected: np.ndarray) -> Arrays:
    """The curves that neural-tangents gave before."""
    curves = dict(np.load(path))
    found = curves["fingerprint"]
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4):
        raise ValueError(f"{path.name}: it belongs to other inputs; make new curves with --peer")
    return curves


def solved(peer: str, path: Path, inputs: Arrays) -> Arrays:
    """The curves of neural-tangents, which are also stored."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "inputs.npz", Path(folder) / "curves.npz"
        np.savez(given, **inputs)
        subprocess.run([peer, str(HERE / "reference.py"), str(given), str(made)], check=True)
        curves = {**np.load(made), "fingerprint": fingerprint(inputs)}
    np.savez_compressed(path, **curves)
    return curves


def compare(
    config: dict[str, Any], case: str, model: LinearTangent, inputs: Arrays, reference: Arrays
) -> tuple[list[dict[str, Any]], Arrays]:
    """The errors of every solver and refinement, and the curves of the finest replay."""
    loss, optimizer = case.split()
    count, times = config["samples"], np.array(config["times"])
    train = Examples(model.take(slice(count)), inputs["targets_train"])
    unseen = Examples(model.take(slice(count, None)), inputs["targets_unseen"])
    numbers = config["optimizers"][optimizer]
    problem = Problem(train, LOSSES[loss], optax.sgd(numbers[0]), count, validation=unseen)
    names = [name for name in reference if name.startswith(f"{case} ")]
    functions = sorted({name.split()[2] for name in names})
    rows: list[dict[str, Any]] = []
    for solver in SOLVERS if loss == "squared_error" else ("replay", "sde"):
        for substeps in config["substeps"]:
            curves = solve(SOLVERS[solver], problem, numbers, times, substeps)
            for function in functions:
                truth = {part: reference[f"{case} {function} {part}"] for part in curves}
                errors = {part: relative(curves[part], truth[part]) for part in curves}
                label = {"case": case, "peer": function, "solver": solver, "substeps": substeps}
                rows.append(label | errors)
        if solver == "replay":
            ours = curves["train"]
    peer = reference[f"{case} gradient_descent train"]
    return rows, {"ours": ours, "peer": peer}


def solve(
    solver: Solver, problem: Problem, numbers: list[float], times: np.ndarray, substeps: int
) -> Arrays:
    """Curves that come to those of continuous time as the substeps grow.

    Time t is step t·n of an optimizer with the rate η/n, or with momentum η/n² and 1 − (1 − m)/n.
    Without momentum the SDE needs no other optimizer, only a stride of 1/n.
    """
    rate, momentum = numbers
    finer, grid = optax.sgd(rate / substeps), times * substeps
    if momentum:
        finer = optax.sgd(rate / substeps**2, 1 - (1 - momentum) / substeps)
    elif isinstance(solver, Diffusion):
        finer, grid, solver = problem.optimizer, times, Diffusion(stride=1 / substeps)
    problem = replace(problem, optimizer=finer)
    found: Trajectory = solver.solve(problem, grid)
    curves = {"train": found.train.loss[0], "unseen": found.curve("validation").loss[0]}
    if isinstance(solver, Replay):
        seen = observe(problem, grid, lambda problem, params: problem.validation.model(params))
        curves["outputs"] = np.asarray(seen[0])
    return curves


def relative(ours: np.ndarray, peer: np.ndarray) -> float:
    """The largest relative error over the times; of the norm over samples and outputs."""
    difference, size = (
        np.linalg.norm(values.reshape(len(peer), -1), axis=1) for values in (ours - peer, peer)
    )
    return float((difference / size).max())


def table(results: dict[str, Any]) -> str:
    """The table of README.md, in Markdown."""
    substeps = results["config"]["substeps"]
    found = {
        (row["case"], row["peer"], row["solver"], row["substeps"]): row for row in results["rows"]
    }
    lines = [
        f"| case | neural-tangents | n = {substeps[0]} | n = {substeps[-1]}: replay | sde "
        "| spectral | unseen samples | their outputs |",
        "|" + "---|" * 8,
    ]
    for case, peer in dict.fromkeys(key[:2] for key in found):
        finest = {name: found.get((case, peer, name, substeps[-1])) for name in SOLVERS}
        errors = [row["train"] if row else None for row in finest.values()]
        errors.insert(0, found[case, peer, "replay", substeps[0]]["train"])
        errors.append(max(row["unseen"] for row in finest.values() if row))
        errors.append(finest["replay"]["outputs"])
        cells = ["" if error is None else f"{error:.1e}" for error in errors]
        lines.append(f"| {case.replace('_', ' ')} | `{peer}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """The curves, and the errors against the length of a substep."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    times = results["config"]["times"]
    styles = dict(zip(SOLVERS, ("-o", "--x", ":s"), strict=True))
    for i, (case, curves) in enumerate(results["curves"].items()):
        left.plot(times, curves["ours"], color=f"C{i}", label=case.replace("_", " "))
        left.plot(times, curves["peer"], "o", ms=4, mfc="none", color=f"C{i}")
        for solver, style in styles.items():
            rows = [
                row
                for row in results["rows"]
                if (row["case"], row["solver"], row["peer"]) == (case, solver, "gradient_descent")
            ]
            if rows:
                lengths = [1 / row["substeps"] for row in rows]
                errors = [row["train"] for row in rows]
                right.loglog(lengths, errors, style, ms=4, color=f"C{i}", mfc="none")
    for solver, style in styles.items():
        right.plot([], [], style, ms=4, color="k", mfc="none", label=solver)
    right.axhline(1e-3, color="k", lw=0.8)
    left.set(xlabel="steps", ylabel="training loss", xscale="symlog", yscale="log")
    left.set_title("lines: replay, circles: neural-tangents", fontsize=10)
    right.set(xlabel="length of a substep, 1/n", ylabel="largest relative error")
    left.legend()
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    """Of the command line; the peer is the one named, or else the usual one, if it is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true")
    usual = str(PEER) if PEER.exists() else None
    parser.add_argument("--peer", default=os.environ.get("NTKPREDICT_PEER", usual))
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    main(given.smoke, Path(tempfile.mkdtemp()) if given.smoke else HERE, given.peer)
