import importlib
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ntkpredict.score import score
from ntkpredict.suite import applicable

SUITE = Path(__file__).parent.parent / "experiments" / "suite"
BUDGET = 400
GRID = np.union1d(np.arange(11), np.arange(10, BUDGET + 1, 10))


def law(steps, *, floor=0.05, power=1.5, shift=30.0):
    return 2.0 * (floor + (1 - floor) * (1 + steps / shift) ** -power)


def run(
    task="a",
    *,
    split="development",
    distance="near",
    optimizer="sgd",
    lr=1e-3,
    curve=law,
    grid=GRID,
):
    """What the file of a run holds; the error of validation falls as the loss does."""
    loss = {"loss": [curve(grid).tolist()], "accuracy": [(1 - 0.45 * curve(grid)).tolist()]}
    return {
        "trained_steps": BUDGET,
        "seconds": 40.0,
        "trajectory": {"steps": grid.tolist(), "train": loss, "validation": loss},
        "batch_loss": curve(np.arange(BUDGET)).tolist(),
        "case": {
            "task": task,
            "optimizer": optimizer,
            "lr": lr,
            "batch_size": 8,
            "max_steps": BUDGET,
            "schedule": "constant",
        },
        "task": {
            "split": split,
            "distance": distance,
            "network": "net",
            "samples": 500,
            "classes": [0, 1, 2],
            "head": "lecun",
            "loss": "cross_entropy",
        },
        "parameters": 1000,
    }


def timed(clock, task="a", **options):
    """A run that takes `clock` times as long."""
    return run(task, curve=lambda steps: law(steps / clock), **options)


@pytest.fixture
def baselines(monkeypatch):
    monkeypatch.syspath_prepend(SUITE)
    return importlib.import_module("baselines")


@pytest.fixture
def few_draws(baselines, monkeypatch):
    for name in ("power-law-5", "power-law-10"):
        monkeypatch.setitem(baselines.BASELINES, name, partial(baselines.BASELINES[name], draws=5))


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(SUITE)
    return importlib.import_module("figures")


@pytest.fixture
def load(baselines, tmp_path):
    """Runs as the baselines see them, from their files' content, by key."""

    def build(contents):
        (tmp_path / "runs").mkdir(exist_ok=True)
        for key, content in contents.items():
            (tmp_path / "runs" / f"{key}.json").write_text(json.dumps(content))
        return {one.key: one for one in baselines.load_runs(tmp_path / "runs")}

    return build


def answer(baselines, runs, key, name, **options):
    one = runs[key]
    return baselines.BASELINES[name](one, baselines.teachers(one, list(runs.values())), **options)


@pytest.mark.parametrize("share", [5, 10])
def test_a_power_law_is_continued(baselines, load, share):
    runs = load({"own": run()})
    found = answer(baselines, runs, "own", f"power-law-{share}", draws=5)
    real = runs["own"].steps
    crossing = slice(0, 11)  # losses and accuracies; the curve never turns
    reached = np.isfinite(real[crossing])
    assert reached.sum() >= 7
    np.testing.assert_allclose(found.steps[crossing][reached], real[crossing][reached], rtol=0.03)
    np.testing.assert_allclose(found.high[crossing][reached], real[crossing][reached], rtol=0.03)
    assert found.forward_passes == 3 * 8 * BUDGET * share / 100
    assert found.seconds == pytest.approx(40 * share / 100)


def test_noise_widens_the_interval_of_a_power_law_until_it_holds_the_truth(baselines, load):
    def noisy(steps):
        rng = np.random.default_rng(1)
        return law(steps) * np.exp(0.1 * rng.standard_normal(len(steps)) * (steps > 0))

    runs = load({"own": run() | {"batch_loss": noisy(np.arange(BUDGET)).tolist()}})
    found = answer(baselines, runs, "own", "power-law-10", draws=40)
    real = runs["own"].steps
    assert (found.low[:3] < real[:3]).all()
    assert (real[:3] < found.high[:3]).all()
    assert (found.high[:3] > 1.05 * found.low[:3]).all()


def test_a_power_law_reads_only_the_beginning(baselines, load):
    def bent(steps):
        return np.where(steps <= 20, law(steps), law(steps) / 3)

    runs = load({"own": run(), "other": run(curve=bent)})
    own, other = (answer(baselines, runs, key, "power-law-5", draws=3) for key in runs)
    np.testing.assert_array_equal(own.steps, other.steps)
    np.testing.assert_array_equal(own.high, other.high)
    assert (runs["own"].steps != runs["other"].steps).any()


def test_a_power_law_needs_four_evaluations(baselines, load):
    runs = load({"own": run(grid=np.array([0, 10, 20, 100, 200, 300, 400]))})
    found = answer(baselines, runs, "own", "power-law-5", draws=3)
    assert np.isfinite(found.steps[:3]).all()
    assert np.isnan(found.steps[5:]).all()


def test_what_was_evaluated_already_is_not_fitted(baselines, load):
    def bumpy(steps):
        return law(steps, shift=10.0) * np.where(steps % 2, 1.2, 1.0)

    runs = load({"own": run(curve=bumpy)})
    found, real = answer(baselines, runs, "own", "power-law-10", draws=3), runs["own"].steps
    early = np.flatnonzero(real[5:11] <= 40) + 5
    assert len(early) >= 3
    for steps in (found.steps, found.low, found.high):
        np.testing.assert_array_equal(steps[early], real[early])


def test_the_average_run_is_a_geometric_mean_over_the_same_optimizer(baselines, load):
    runs = load(
        {
            "own": run("a"),
            "slow": timed(2, "b"),
            "fast": timed(0.5, "c"),
            "adamw": timed(30, "d", optimizer="adamw"),
        }
    )
    found = answer(baselines, runs, "own", "average-run").steps[:3]
    slow, fast = runs["slow"].steps[:3], runs["fast"].steps[:3]
    np.testing.assert_allclose(found, np.sqrt(slow * fast))


def test_runs_that_did_not_reach_a_target_have_no_say_in_the_average(baselines, load):
    stuck = run("c", curve=lambda steps: law(steps, floor=0.4))
    runs = load({"own": run("a"), "other": run("b"), "stuck": stuck})
    found = answer(baselines, runs, "own", "average-run").steps
    assert np.isinf(runs["stuck"].steps[2])
    assert found[2] == pytest.approx(runs["other"].steps[2])


@pytest.mark.parametrize("name", ["average-run", "cape"])
def test_baselines_learn_neither_from_the_same_task_nor_from_held_out_runs(baselines, load, name):
    def all_runs(clock):
        return load(
            {
                "own": run("a"),
                "twin": timed(clock, "a", lr=3e-3),
                "exam": timed(clock, "x", split="held-out"),
                "b": timed(0.5, "b", lr=2e-3),
                "c": timed(2, "c"),
                "d": timed(3, "d", lr=5e-4),
            }
        )

    one, two = (answer(baselines, all_runs(clock), "own", name) for clock in (0.7, 1.5))
    np.testing.assert_array_equal(one.steps, two.steps)
    np.testing.assert_array_equal(one.high, two.high)
    runs = all_runs(1)
    taught = {teacher.key for teacher in baselines.teachers(runs["exam"], list(runs.values()))}
    assert taught == {"own", "twin", "b", "c", "d"}


def test_cape_finds_that_steps_go_by_the_learning_rate(baselines, load):
    rates = dict(zip("bcdefg", np.geomspace(3e-4, 3e-3, 6), strict=True))
    runs = load(
        {"own": timed(1 / 2.5, "a", lr=2.5e-3)}
        | {task: timed(1e-3 / lr, task, lr=lr) for task, lr in rates.items()}
    )
    found, average = (answer(baselines, runs, "own", name) for name in ("cape", "average-run"))
    real = runs["own"].steps[:3]
    assert np.abs(np.log(found.steps[:3] / real)).max() < 0.4
    assert np.log(average.steps[:3] / real).min() > 0.8
    assert (found.low[:3] < found.high[:3]).all()
    assert found.forward_passes == 500


def suite(load):
    """Runs of every kind, some that diverge or stand still."""
    diverged = run("d", distance="far", curve=lambda steps: 2.0 + steps)
    diverged["trajectory"]["train"]["loss"][0][-1] = None
    diverged["batch_loss"][-5:] = [None] * 5
    return load(
        {
            "a": run("a"),
            "b": timed(1.5, "b", distance="medium"),
            "c": timed(0.7, "c", distance="far", lr=2e-3),
            "d": diverged,
            "e": timed(0.8, "e", split="held-out", lr=2e-3),
            "f": timed(9, "f", split="held-out", distance="medium"),
            "g": timed(1.2, "g", split="held-out", distance="far", optimizer="adamw"),
        }
    )


@pytest.mark.usefixtures("few_draws")
def test_forecasts_have_the_format_that_is_scored(baselines, load, tmp_path):
    runs = suite(load)
    baselines.main(tmp_path, set(runs))
    for path in (tmp_path / "forecasts").glob("*/*.json"):
        content, one = json.loads(path.read_text()), runs[path.stem]
        asked = {str(rule) for rule in one.rules if applicable(rule, one.trajectory)}
        assert set(content["targets"]) == asked
        assert content["forecaster"] == path.parent.name
        assert content["validity"] is content["trusted"] is None
        assert content["seconds"] >= 0
        for target in content["targets"].values():
            low, high = target["interval"] or (0, None)
            assert 0 <= low <= (high or BUDGET) <= BUDGET
            assert target["steps"] is None or 0 < target["steps"] <= BUDGET
    scores = score(tmp_path)
    assert set(scores.rows) == set(baselines.BASELINES)
    summary = scores.summaries("power-law-10", ("split",))[("held-out",)]
    assert summary.runs == 3
    assert math.isfinite(summary.error_median)


@pytest.mark.usefixtures("few_draws")
def test_the_figures_are_drawn(baselines, figures, load, tmp_path):
    baselines.main(tmp_path, set(suite(load)))
    figures.draw(tmp_path, tmp_path, ["power-law-5", "power-law-10"])
    names = ("figure", "coverage", "distance", "frontier")
    for name in names:
        path = tmp_path / f"{name}.png"
        assert path.stat().st_size > 10_000
        path.unlink()
    for path in tmp_path.glob("runs/[efg].json"):
        path.unlink()
    figures.draw(score(tmp_path), tmp_path)  # development runs alone, nothing joined
    assert all((tmp_path / f"{name}.png").exists() for name in names)


@pytest.mark.usefixtures("few_draws", "small_network")
def test_the_suite_runs_on_one_small_case(monkeypatch, tmp_path):
    """Train, forecast in every way, score, draw; and nothing is done twice."""
    monkeypatch.syspath_prepend(SUITE)
    suite_run = importlib.import_module("run")
    scores = suite_run.main(smoke=True, folder=tmp_path)
    ours = [row for row in scores["scores"] if row["forecaster"] == "ours"]
    assert ours[0]["runs"] == 1
    assert ours[0]["error_median"] < 0.1
    (trained,) = (tmp_path / "runs").iterdir()
    assert len(list((tmp_path / "forecasts").glob("*/" + trained.name))) == 11
    written = trained.stat().st_mtime
    suite_run.train.main(tmp_path, suite_run.SMOKE)
    suite_run.forecast.main(tmp_path, suite_run.SMOKE)
    assert trained.stat().st_mtime == written


def test_the_tables_of_the_readmes_are_of_the_stored_forecasts(monkeypatch):
    monkeypatch.syspath_prepend(SUITE)
    table = importlib.import_module("table")
    scores = score(SUITE)
    for folder, make in ((SUITE, table.of_forecasters), (table.PROJECT, table.of_kernels)):
        readme = (folder / "README.md").read_text(encoding="utf-8")
        assert "\n".join(make(scores)) in readme


def test_what_the_readme_reads_is_what_the_forecasts_say(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SUITE)
    found = importlib.import_module("reading").main(tmp_path)
    assert found == json.loads((tmp_path / "reading.json").read_text())
    assert found == json.loads((SUITE / "reading.json").read_text())
