import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.mark.usefixtures("small_network")
def test_the_default_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "default" / "run.py"))["main"]
    main(smoke=True, folder=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    (case,) = results["cases"].values()
    assert set(case["forecasts"]) == {"head_exact", "linear"}
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_every_experiment_has_the_same_skeleton():
    for folder in EXPERIMENTS.iterdir():
        names = {path.name for path in folder.iterdir()}
        assert {"README.md", "run.py", "results.json", "figure.png"} <= names, folder


@pytest.mark.usefixtures("small_network")
def test_the_subset_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "subset" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert set(results["regression"]) == {"uncorrected", "symmetric", "richardson"}
    assert (tmp_path / "figure.png").exists()


@pytest.mark.usefixtures("small_network")
def test_the_solvers_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "solvers" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    ((row,),) = results["accuracy"].values()
    assert row["scores"]["sde"]["loss"] < 0.05
    assert results["cost"]["spectral"]["peak_bytes"] < 2e9
    assert results["sweep"]["largest_difference"] < 1e-4
    assert (tmp_path / "figure.png").exists()


def test_the_progress_experiment_runs_on_two_recorded_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "progress")
    main = runpy.run_path(str(EXPERIMENTS / "progress" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert results["cases"] == 6
    for shares in results["summary"].values():
        assert shares["maximum"]["0.75"]["no_worse_than_maximum"] == 1
        assert shares["ours"]["0.75"]["covered"] >= 0.5
        for name in ("median_relative", "mean_of_run"):  # evaluations come as regularly as steps
            one, other = (shares[method]["0.5"][name] for method in ("maximum", "Composer"))
            assert other == pytest.approx(one)
    for methods in results["against the maximum"].values():
        assert methods["ours"]["0%"]["all"]["regret"] == 0  # nothing is known yet
        assert methods["ours"]["after 1"]["patience 5"]["runs"] <= 2
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert "validation_loss" in (tmp_path / "panel.svg").read_text(encoding="utf-8")


def test_the_tables_of_the_progress_experiment_are_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "progress")
    tables = runpy.run_path(str(EXPERIMENTS / "progress" / "tables.py"))["tables"]
    readme = (EXPERIMENTS / "progress" / "README.md").read_text(encoding="utf-8")
    found = tables(json.loads((EXPERIMENTS / "progress" / "results.json").read_text()))
    assert len(found) == 5
    for lines in found:
        assert "\n".join(lines) in readme


def test_regret_is_the_error_beyond_that_of_the_maximum(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS / "progress")
    regret = runpy.run_path(str(EXPERIMENTS / "progress" / "regret.py"))["regret"]
    cases = [("a", 60, 50), ("a", 100, 100), ("b", 80, 100)]  # run, answer, truth; 100 at most
    rows = [{"key": k, "steps": s, "stop": t, "max_steps": 100} for k, s, t in cases]
    found = regret(rows)
    assert (found["cases"], found["runs"]) == (3, 2)
    assert found["mean_error"] == pytest.approx((0.2 + 0 + 0.2) / 3)
    assert found["regret"] == pytest.approx((0.2 - 1 + 0.2) / 3)
    assert (found["low"], found["high"]) == pytest.approx(((0.2 - 1) / 2, 0.2))  # a run alone


@pytest.mark.usefixtures("small_network")
def test_the_compare_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "compare" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert [row["plans"] for row in results["comparisons"]] == [1, 2]
    for row in results["alone"]:
        assert row["compare"] == pytest.approx(row["predict"], rel=0.05)
    assert (tmp_path / "figure.png").exists()


def test_the_load_experiment_runs(tmp_path):
    results = runpy.run_path(str(EXPERIMENTS / "progress" / "load.py"))["main"](True, tmp_path)
    assert all(speed > 0 for speed in results["steps_per_second"].values())
    assert (tmp_path / "load.png").exists()


def test_recovery_is_told_from_the_true_speeds():
    """A window of 1 s under another program from 3 s to 6 s; other tests may share our cores."""
    summary = runpy.run_path(str(EXPERIMENTS / "progress" / "load.py"))["summary"]
    seconds = np.arange(0, 9, 0.05)
    done = np.interp(seconds, [0, 3, 6, 9], [0, 300, 450, 750])
    told = (done - np.interp(seconds - 1, seconds, done)) / np.clip(seconds, 0.05, 1)
    rows = [
        {"seconds": t, "steps": n, "speed": v, "remaining": (750 - n) / max(v, 1)}
        for t, n, v in zip(seconds, done, told, strict=True)
    ]
    found = summary([*rows, {"seconds": 9.0, "steps": 750}], 1.0, [0.0, 3.0, 6.0, 9.0])
    np.testing.assert_allclose(list(found["steps_per_second"].values()), [100, 50, 100], rtol=1e-6)
    times = list(found["seconds_until_first_within_10_percent"].values())
    np.testing.assert_allclose(times, [0.05, 0.9, 0.8], atol=0.11)
    assert max(found["error_of_remaining_after_the_window"].values()) < 0.01


def test_forecasts_rank_the_plans_of_the_suite_better_than_chance(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "compare" / "ranking.py"))["main"]
    results = main(folder=tmp_path)
    assert results == json.loads((tmp_path / "ranking.json").read_text())
    summary = {(r["split"], r["criterion"], r["chooser"]): r for r in results["summary"]}
    for criterion in ("steps", "seconds"):
        ours, chance = (summary["development", criterion, c] for c in ("ours", "random"))
        assert chance["tau"] == 0
        assert ours["tau"] > 0.5
        assert ours["ratio"] < chance["ratio"]
    assert (tmp_path / "ranking.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("steps", "budgets", "expected"),
    [
        ((30, 40), (100, 100), -1),
        ((math.inf, 40), (100, 100), 1),
        ((math.inf, 40), (35, 100), 0),  # it might have been the faster one
        ((30, math.inf), (100, 35), -1),
        ((math.inf, math.inf), (100, 35), 0),
    ],
)
def test_orders_of_plans_that_budgets_let_one_tell(steps, budgets, expected):
    names = runpy.run_path(str(EXPERIMENTS / "compare" / "ranking.py"))
    plans = [names["Entry"]("sgd", 0.1, 32, None, budget, 0.0, 1.0, {}) for budget in budgets]
    assert names["order"](*plans, steps, "steps") == expected
    assert names["order"](*plans[::-1], steps[::-1], "steps") == -expected


def test_the_history_experiment_runs_with_one_draw(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "history" / "run.py"))["main"]
    results = main(folder=tmp_path, draws=1)
    told = {(r["network"], r["own_runs"], r["calibration"]): r for r in results["summary"]}
    assert told["resnet20", 24, "own"]["coverage"] > 0.9
    own, shipped = (told["resnet8", 16, name]["median_error"] for name in ("own", "shipped"))
    assert own < shipped
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.usefixtures("small_network")
def test_the_conditions_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "conditions" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert results["summary"].keys() == {"batch-norm"}
    # The small network has no BatchNorm: the same run as the suite's.
    same = results["summary"]["batch-norm"]
    assert same["targets"] > 0
    assert same["median_ratio"] == pytest.approx(1, rel=1e-3)
    assert same["missed"] == 0
    assert (tmp_path / "figure.png").exists()


@pytest.mark.usefixtures("small_network")
def test_the_ablations_experiment_runs_on_one_small_case(tmp_path):
    main = runpy.run_path(str(EXPERIMENTS / "ablations" / "run.py"))["main"]
    results = main(smoke=True, folder=tmp_path)
    assert results["default"]["error"] < 0.1
    assert {"frozen kernel", "features below zero", "not extrapolated"} < results.keys()
    assert (tmp_path / "figure.png").exists()
